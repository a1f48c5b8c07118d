-- holdfast: no-transaction
-- When a job that has not begun is cancelled: crates/jobs/src/expiry.rs. The claim reads it from `options`; this column is for the sweep.
alter table holdfast_jobs add column if not exists expires_at timestamptz;

create index concurrently if not exists holdfast_jobs_expires on holdfast_jobs (expires_at)
    where state = 'available' and expires_at is not null;
