-- The keys that sign http.request jobs: crates/kinds/src/signing_keys.
create table holdfast_signing_keys (
    id         uuid primary key,                   -- a ULID
    slot       text not null unique,               -- 'current', or 'previous': signs too until `expires_at`
    secret     text not null,                      -- whsec_…: it has to sign, so it is no hash
    created_at timestamptz not null default now(),
    expires_at timestamptz
);
