-- What a dead letter has in common with others: crates/jobs/src/failures. Null: not a dead letter, or not filled in yet.
alter table holdfast_jobs add column fingerprint text;

create index holdfast_jobs_failures on holdfast_jobs (fingerprint, finished_at) where state = 'discarded';
