-- holdfast: no-transaction
-- What a dead letter has in common with others: crates/jobs/src/failures. Null: not a dead letter, or not filled in yet.
alter table holdfast_jobs add column if not exists fingerprint text;

create index concurrently if not exists holdfast_jobs_failures on holdfast_jobs (fingerprint, finished_at)
    where state = 'discarded';
