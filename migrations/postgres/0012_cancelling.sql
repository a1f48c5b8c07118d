-- What a worker is asked to cancel, about once a second: the index of all that it runs holds, until a vacuum, all that it has
-- run.
create index holdfast_jobs_cancelling on holdfast_jobs (worker) where state = 'running' and cancel_requested;
