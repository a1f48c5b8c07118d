-- What users want to be sent, what waits for their digests, and finding everything that is about one user:
-- crates/tasks/src/accounts, crates/tasks/src/mail. Times are milliseconds since the epoch.

create table holdfast_preferences (
    user_id    blob    primary key references holdfast_users (id) on delete cascade,
    document   text    not null,                            -- JSON
    updated_at integer not null
) without rowid;

-- Mails that wait for a user's digest. Those with a batch are being sent as one mail, under that name.
create table holdfast_digest_items (
    id      blob    primary key,                            -- a ULID
    user_id blob    not null references holdfast_users (id) on delete cascade,
    key     text    not null,                               -- of the mail: under one key it is put aside once
    list    text    not null,
    subject text    not null,
    body    text    not null,                               -- the beginning of the plain text
    at      integer not null,
    due_at  integer not null,
    batch   blob,
    unique (user_id, key)
) without rowid;
create index holdfast_digest_items_due on holdfast_digest_items (due_at);

-- Everything that is about one user, or one address.
create index holdfast_mails_address on holdfast_mails (address);
create index holdfast_jobs_user on holdfast_jobs (payload ->> 'user')
    where kind in ('notify.email', 'notify.digest', 'ml.recommend');
create index holdfast_jobs_address on holdfast_jobs
    (lower(rtrim(substr(payload ->> 'to', instr(payload ->> 'to', '<') + 1), '> '))) where kind = 'notify.email';
-- Webhooks tell of several users at once: those few are read through.
create index holdfast_jobs_webhooks on holdfast_jobs (id) where kind = 'notify.webhook';
create index holdfast_jobs_keyed on holdfast_jobs (substr(idempotency_key, 1, 31))
    where substr(idempotency_key, 1, 5) = 'user-';
create index holdfast_batches_keyed on holdfast_batches (substr(idempotency_key, 1, 31))
    where substr(idempotency_key, 1, 5) = 'user-';
create index holdfast_notices_keyed on holdfast_notices (substr(key, 1, 31)) where substr(key, 1, 5) = 'user-';
create index holdfast_audit_users on holdfast_audit (target) where action in ('user.create', 'user.update', 'user.delete');
