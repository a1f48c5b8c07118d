-- Dead letters by age, and who did what: crates/jobs/src/dead_letters, crates/jobs/src/audit.

create index holdfast_jobs_dead on holdfast_jobs (id) where state = 'discarded';

create table holdfast_audit (
    id            uuid        primary key,             -- a ULID: sorts by time; also the operation's id
    at            timestamptz not null default now(),
    actor         text        not null,                -- key/<id>, user/<name>, cli/<login>, bootstrap, local, system
    action        text        not null,                -- dead_letters.redrive, queue.pause, key.create, …
    target        text,
    count         bigint,                              -- rows changed, where an action changes many
    request_id    text,
    details       jsonb,
    operation_key text,                                -- an Idempotency-Key behind its caller's name
    finished      boolean     not null default true    -- false: a bulk operation that may be continued
) with (autovacuum_vacuum_scale_factor = 0.05);

create unique index holdfast_audit_operation on holdfast_audit (operation_key) where operation_key is not null;
create index holdfast_audit_action on holdfast_audit (action, id);
create index holdfast_audit_actor on holdfast_audit (actor, id);
