-- Kinds and queues as data, and workers that pull their jobs over HTTP.

-- Raised by every change of a kind or a queue, in its transaction: processes that have cached them ask this row alone. No row: 0.
create table holdfast_declarations (
    id      integer primary key,                            -- 1
    version integer not null
);

create table holdfast_kinds (
    name       text    primary key,
    queue      text    not null,
    definition text    not null,                            -- timeout, retries, schemas, description, secret fields
    created_at integer not null,
    updated_at integer not null
) without rowid;

-- 'pull': the queue was made at run time. Null: the configuration names it, or nobody does.
alter table holdfast_queues add column served_by text;

alter table holdfast_workers add column client text;                             -- of a pull worker: who registered it, and what it is
alter table holdfast_workers add column draining integer not null default 0;     -- asked to take no more jobs
