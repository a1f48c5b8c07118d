-- What the pruner deletes of dead letters, the oldest first. No other outcome touches it.
create index holdfast_jobs_discarded_at on holdfast_jobs (finished_at) where state = 'discarded';
