-- Which mail addresses are a user's own, the keys that sign and hash for this installation, and who made an API key:
-- crates/tasks/src/accounts, crates/tasks/src/secrets.rs, crates/api/src/auth. What there was before is filled in by 0024 and 0025.
-- Times are milliseconds since the epoch.

create table holdfast_addresses (
    user_id   blob    not null references holdfast_users (id) on delete cascade,
    address   text    not null,                             -- in its normal form
    proof     text,                                         -- admin, link; earlier: set before there were proofs; null: none yet
    asked_at  integer not null,                             -- when a confirmation mail was made last
    proven_at integer,
    primary key (user_id, address)
) without rowid;
create index holdfast_addresses_address on holdfast_addresses (address);

create table holdfast_secrets (
    name  text primary key,
    value blob not null                                     -- 32 random bytes
) without rowid;

-- Said by a caller with the scope `admin`: then the address is the user's.
alter table holdfast_subscriptions add column email_proven boolean not null default false;

-- Who made the key, as the audit log names it.
alter table holdfast_api_keys add column created_by text;
