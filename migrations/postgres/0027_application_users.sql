-- Preferences, addresses and digests of users of the application who have no account: crates/notify/src/preferences.
-- Their `user_id` no longer refers to holdfast_users; the deletion of a user deletes these rows.

create table holdfast_application_users (
    id         uuid        primary key,                     -- of the name: the account's id it would be, or a hash
    name       text        not null,
    created_at timestamptz not null default now()
);

alter table holdfast_preferences drop constraint if exists holdfast_preferences_user_id_fkey;
alter table holdfast_digest_items drop constraint if exists holdfast_digest_items_user_id_fkey;
alter table holdfast_addresses drop constraint if exists holdfast_addresses_user_id_fkey;
