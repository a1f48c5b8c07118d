-- What handlers write to the log of their job: crates/jobs/src/job_log. A job without lines has no row here. No foreign key: it would
-- have each write wait for whoever has locked the job.
create table holdfast_job_logs (
    job        uuid    not null,
    id         uuid    not null,          -- made by the writer, so that a write may be repeated
    attempt    integer not null,          -- from 1
    number     integer not null,          -- of the first line, from 1
    line_count integer not null,
    bytes      integer not null,          -- of the texts
    lines      json    not null,          -- [{"at", "text"}]
    primary key (job, id)
);

-- The lines go with the job, whatever deletes it, the release before included.
create function holdfast_delete_job_logs_1() returns trigger
language plpgsql as $delete$
begin
    delete from holdfast_job_logs where job in (select id from deleted);
    return null;
end $delete$;

create trigger holdfast_jobs_logs after delete on holdfast_jobs
    referencing old table as deleted for each statement execute function holdfast_delete_job_logs_1();
