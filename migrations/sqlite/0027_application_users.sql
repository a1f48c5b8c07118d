-- Preferences, addresses and digests of users of the application who have no account: crates/notify/src/preferences.
-- Their `user_id` no longer refers to holdfast_users; the deletion of a user deletes these rows. SQLite drops no constraint:
-- the tables are written again. Times are milliseconds since the epoch.

create table holdfast_application_users (
    id         blob    primary key,                         -- of the name: the account's id it would be, or a hash
    name       text    not null,
    created_at integer not null
) without rowid;

alter table holdfast_preferences rename to holdfast_preferences_before;
create table holdfast_preferences (
    user_id    blob    primary key,
    document   text    not null,                            -- JSON
    updated_at integer not null
) without rowid;
insert into holdfast_preferences select user_id, document, updated_at from holdfast_preferences_before;
drop table holdfast_preferences_before;

alter table holdfast_digest_items rename to holdfast_digest_items_before;
drop index holdfast_digest_items_due;
create table holdfast_digest_items (
    id      blob    primary key,                            -- a ULID
    user_id blob    not null,
    key     text    not null,                               -- of the mail: under one key it is put aside once
    list    text    not null,
    subject text    not null,
    body    text    not null,                               -- the beginning of the plain text
    at      integer not null,
    due_at  integer not null,
    batch   blob,
    unique (user_id, key)
) without rowid;
insert into holdfast_digest_items
select id, user_id, key, list, subject, body, at, due_at, batch from holdfast_digest_items_before;
drop table holdfast_digest_items_before;
create index holdfast_digest_items_due on holdfast_digest_items (due_at);

alter table holdfast_addresses rename to holdfast_addresses_before;
drop index holdfast_addresses_address;
create table holdfast_addresses (
    user_id   blob    not null,
    address   text    not null,                             -- in its normal form
    proof     text,                                         -- admin, link; earlier: set before there were proofs; null: none yet
    asked_at  integer not null,                             -- when a confirmation mail was made last
    proven_at integer,
    primary key (user_id, address)
) without rowid;
insert into holdfast_addresses select user_id, address, proof, asked_at, proven_at from holdfast_addresses_before;
drop table holdfast_addresses_before;
create index holdfast_addresses_address on holdfast_addresses (address);
