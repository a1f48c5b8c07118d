-- The ledger. States and transitions: crates/jobs/src/state.rs.

create table holdfast_jobs (
    id               uuid        primary key,             -- a ULID: sorts by creation
    queue            text        not null,
    kind             text        not null,
    state            text        not null default 'available'
                     check (state in ('available', 'running', 'completed', 'discarded', 'cancelled')),
    priority         smallint    not null default 1 check (priority between 0 and 2), -- 0 high, 1 normal, 2 low
    run_at           timestamptz not null,
    attempt          integer     not null default 0,      -- executions that came to an outcome
    crashes          integer     not null default 0,      -- executions that ended with their worker
    max_attempts     integer     not null,
    timeout_ms       bigint      not null,
    cancel_requested boolean     not null default false,
    doubtful         boolean     not null default false,  -- may also stand on the broker: crates/jobs/src/broker
    worker           uuid,                                -- who runs it, or ran it last
    created_at       timestamptz not null default now(),
    started_at       timestamptz,                         -- null while running: claimed, not yet started
    finished_at      timestamptz,
    unique_key       text,
    idempotency_key  text,
    payload          jsonb       not null,
    options          jsonb,
    result           jsonb,
    progress         jsonb,
    errors           jsonb
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_insert_scale_factor = 0.1);

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
    id         uuid        primary key,
    name       text        not null,
    queues     jsonb       not null,
    stats      jsonb       not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null default now()
);

create table holdfast_queues (
    name       text        primary key,
    paused     boolean     not null default false,
    updated_at timestamptz not null default now()
);

create table holdfast_api_keys (
    id           uuid        primary key,
    name         text        not null unique,
    hash         bytea       not null unique,             -- SHA-256 of a random 256-bit key
    scopes       text        not null,                    -- comma-separated: produce, read, admin
    created_at   timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at   timestamptz
);
