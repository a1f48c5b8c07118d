-- People who log in, and the rotation of API keys.

create table holdfast_users (
    id            blob    primary key,                  -- a ULID
    name          text    not null unique,              -- in lower case; may be an e-mail address
    password_hash text    not null,                     -- argon2id, as a PHC string
    role          text    not null,                     -- viewer, operator, admin
    token_version integer not null default 1,           -- raised to end every session of the user
    disabled_at   integer,
    created_at    integer not null,
    updated_at    integer not null
) without rowid;

-- While `previous_until` lies ahead the key before the rotation works too.
alter table holdfast_api_keys add column rotated_at integer;
alter table holdfast_api_keys add column previous_hash blob;
alter table holdfast_api_keys add column previous_until integer;
create unique index holdfast_api_keys_previous on holdfast_api_keys (previous_hash) where previous_hash is not null;
