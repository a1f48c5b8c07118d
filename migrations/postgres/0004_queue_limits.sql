-- Limits over all workers: crates/jobs/src/limits.

alter table holdfast_jobs add column limit_key text collate "C";

-- Each key's own head, for queues with limits by key. Jobs without a key are in neither index.
create index holdfast_jobs_keys on holdfast_jobs (queue, limit_key, priority, run_at, id)
    where state = 'available' and limit_key is not null;
create index holdfast_jobs_running_keys on holdfast_jobs (queue, limit_key)
    where state = 'running' and limit_key is not null;

-- The rescue, what a worker holds, and how much of each queue: one index, as before.
drop index holdfast_jobs_running;
create index holdfast_jobs_running on holdfast_jobs (worker, queue) where state = 'running';

alter table holdfast_queues
    add column limited      boolean not null default false, -- any limit is in force: claims go one at a time
    add column configured   jsonb,                          -- limits of the configuration
    add column overridden   jsonb,                          -- limits set over the API, in place of the configured ones
    add column rate_full_at timestamptz,                    -- when the queue's bucket of tokens is full again
    add column key_cursor   text not null default '';       -- the key that the last walk over the keys ended at

-- One bucket for each key that a job was started for lately; a row whose time has passed says nothing and is pruned.
create table holdfast_limit_buckets (
    queue   text             not null,
    key     text collate "C" not null,
    full_at timestamptz      not null,
    primary key (queue, key)
);
create index holdfast_limit_buckets_full on holdfast_limit_buckets (full_at);
