-- What a worker is asked to cancel, about once a second.
create index holdfast_jobs_cancelling on holdfast_jobs (worker) where state = 'running' and cancel_requested;
