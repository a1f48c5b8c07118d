-- Dead letters by age, and who did what: crates/jobs/src/dead_letters, crates/jobs/src/audit.

create index holdfast_jobs_dead on holdfast_jobs (id) where state = 'discarded';

create table holdfast_audit (
    id            blob    primary key,             -- a ULID: sorts by time; also the operation's id
    at            integer not null,
    actor         text    not null,                -- key/<id>, user/<name>, cli/<login>, bootstrap, local, system
    action        text    not null,                -- dead_letters.redrive, queue.pause, key.create, …
    target        text,
    count         integer,                         -- rows changed, where an action changes many
    request_id    text,
    details       text,
    operation_key text,                            -- an Idempotency-Key behind its caller's name
    finished      integer not null default 1       -- 0: a bulk operation that may be continued
) without rowid;

create unique index holdfast_audit_operation on holdfast_audit (operation_key) where operation_key is not null;
create index holdfast_audit_action on holdfast_audit (action, id);
create index holdfast_audit_actor on holdfast_audit (actor, id);
