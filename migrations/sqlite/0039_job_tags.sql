-- Words by which a job is found, as a JSON array, and who enqueued it: crates/jobs/src/enqueue. No index over all jobs: each would pay for it.
alter table holdfast_jobs add column tags text;
alter table holdfast_jobs add column enqueued_by text;

-- For the deletion of a user (crates/jobs/src/erase.rs).
create index holdfast_jobs_enqueued_by_user on holdfast_jobs (enqueued_by) where substr(enqueued_by, 1, 5) = 'user/';
