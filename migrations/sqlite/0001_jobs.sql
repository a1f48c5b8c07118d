-- The ledger. States and transitions: crates/jobs/src/state.rs.
-- Times are milliseconds since the epoch, ids are 16 bytes (a ULID: sorts by creation), JSON is text.

create table holdfast_jobs (
    id               blob    primary key,
    queue            text    not null,
    kind             text    not null,
    state            text    not null default 'available'
                     check (state in ('available', 'running', 'completed', 'discarded', 'cancelled')),
    priority         integer not null default 1 check (priority between 0 and 2), -- 0 high, 1 normal, 2 low
    run_at           integer not null,
    attempt          integer not null default 0,       -- executions that came to an outcome
    crashes          integer not null default 0,       -- executions that ended with their worker
    max_attempts     integer not null,
    timeout_ms       integer not null,
    cancel_requested integer not null default 0,
    doubtful         integer not null default 0,       -- may also stand on the broker: crates/jobs/src/broker
    worker           blob,                             -- who runs it, or ran it last
    created_at       integer not null,
    started_at       integer,                          -- null while running: claimed, not yet started
    finished_at      integer,
    unique_key       text,
    idempotency_key  text,
    payload          text    not null,
    options          text,
    result           text,
    progress         text,
    errors           text
) without rowid;

-- The claim. Finished rows are in none of the partial indexes, so they cost the hot path nothing.
create index holdfast_jobs_claim on holdfast_jobs (queue, priority, run_at, id) where state = 'available';
-- The rescue, and what a worker holds.
create index holdfast_jobs_running on holdfast_jobs (worker) where state = 'running';
create index holdfast_jobs_discarded on holdfast_jobs (queue, id) where state = 'discarded';
create index holdfast_jobs_doubtful on holdfast_jobs (id) where doubtful;
create unique index holdfast_jobs_unique on holdfast_jobs (kind, unique_key)
    where unique_key is not null and state in ('available', 'running');
create unique index holdfast_jobs_idempotency on holdfast_jobs (idempotency_key) where idempotency_key is not null;

-- A worker's row is the lease of every job that it runs.
create table holdfast_workers (
    id         blob    primary key,
    name       text    not null,
    queues     text    not null,
    stats      text    not null,
    started_at integer not null,
    seen_at    integer not null
) without rowid;

create table holdfast_queues (
    name       text    primary key,
    paused     integer not null default 0,
    updated_at integer not null
) without rowid;

create table holdfast_api_keys (
    id           blob    primary key,
    name         text    not null unique,
    hash         blob    not null unique,              -- SHA-256 of a random 256-bit key
    scopes       text    not null,                     -- comma-separated: produce, read, admin
    created_at   integer not null,
    last_used_at integer,
    revoked_at   integer
) without rowid;
