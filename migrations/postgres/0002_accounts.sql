-- People who log in, and the rotation of API keys.

create table holdfast_users (
    id            uuid        primary key,                  -- a ULID
    name          text        not null unique,              -- in lower case; may be an e-mail address
    password_hash text        not null,                     -- argon2id, as a PHC string
    role          text        not null,                     -- viewer, operator, admin
    token_version bigint      not null default 1,           -- raised to end every session of the user
    disabled_at   timestamptz,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now()
);

-- While `previous_until` lies ahead the key before the rotation works too.
alter table holdfast_api_keys
    add column rotated_at     timestamptz,
    add column previous_hash  bytea unique,
    add column previous_until timestamptz;
