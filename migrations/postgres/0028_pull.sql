-- Kinds and queues as data, and workers that pull their jobs over HTTP.

-- Raised by every change of a kind or a queue, in its transaction: processes that have cached them ask this row alone. No row: 0.
create table holdfast_declarations (
    id      bigint primary key,                             -- 1
    version bigint not null
);

create table holdfast_kinds (
    name       text        primary key,
    queue      text        not null,
    definition json        not null,                        -- timeout, retries, schemas, description, secret fields
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- 'pull': the queue was made at run time. Null: the configuration names it, or nobody does.
alter table holdfast_queues add column served_by text;

alter table holdfast_workers
    add column client   json,                               -- of a pull worker: who registered it, and what it is
    add column draining boolean not null default false;     -- asked to take no more jobs
