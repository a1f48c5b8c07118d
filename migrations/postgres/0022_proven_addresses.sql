-- Which mail addresses are a user's own, the keys that sign and hash for this installation, and who made an API key:
-- crates/tasks/src/accounts, crates/tasks/src/secrets.rs, crates/api/src/auth.

create table holdfast_addresses (
    user_id   uuid        not null references holdfast_users (id) on delete cascade,
    address   text        not null,                         -- in its normal form
    proof     text,                                         -- admin, link; earlier: set before there were proofs; null: none yet
    asked_at  timestamptz not null default now(),           -- when a confirmation mail was made last
    proven_at timestamptz,
    primary key (user_id, address)
);
create index holdfast_addresses_address on holdfast_addresses (address);

-- Mail goes on to the addresses that users have said before. They are nobody's property until they are proven.
insert into holdfast_addresses (user_id, address, proof, proven_at)
select user_id, lower(substring(document from '"address"\s*:\s*"([^"\\]+)"')), 'earlier', now()
from holdfast_preferences where document ~ '"address"\s*:\s*"[^"\\]+"';

create table holdfast_secrets (
    name  text  primary key,
    value bytea not null                                    -- 32 random bytes
);

-- Said by a caller with the scope `admin`: then the address is the user's.
alter table holdfast_subscriptions add column email_proven boolean not null default false;

-- Who made the key, as the audit log names it.
alter table holdfast_api_keys add column created_by text;
update holdfast_api_keys as k set created_by = a.actor
from holdfast_audit as a where a.action = 'key.create' and a.details ->> 'name' = k.name;
