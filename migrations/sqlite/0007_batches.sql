-- Batches and chains: crates/jobs/src/batches, crates/jobs/src/ties.rs.

create table holdfast_batches (
    id               blob    primary key,                 -- a ULID: sorts by creation
    name             text,
    total            integer not null check (total > 0),
    completed        integer not null default 0,          -- final jobs, counted here: their rows are pruned one day
    discarded        integer not null default 0,
    cancelled        integer not null default 0,
    callback         text,                                -- the job that is enqueued at the end
    callback_id      blob,                                -- that job, once it is
    cancel_requested integer not null default 0,
    idempotency_key  text,
    fingerprint      text,                                -- of the request under that key
    created_at       integer not null,
    ended_at         integer                              -- once, when the last job became final
) without rowid;

create unique index holdfast_batches_idempotency on holdfast_batches (idempotency_key)
    where idempotency_key is not null;
create index holdfast_batches_open on holdfast_batches (id) where ended_at is null;
create index holdfast_batches_ended on holdfast_batches (ended_at) where ended_at is not null;

alter table holdfast_jobs add column batch_id blob;       -- stays when the batch is forgotten
alter table holdfast_jobs add column child_id blob;       -- what its completion enqueued

-- A batch's jobs. Jobs without a batch are not in it.
create index holdfast_jobs_batch on holdfast_jobs (batch_id, state) where batch_id is not null;
