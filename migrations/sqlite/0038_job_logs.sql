-- What handlers write to the log of their job: crates/jobs/src/job_log. A job without lines has no row here.
create table holdfast_job_logs (
    job        blob    not null,
    id         blob    not null,          -- made by the writer, so that a write may be repeated
    attempt    integer not null,          -- from 1
    number     integer not null,          -- of the first line, from 1
    line_count integer not null,
    bytes      integer not null,          -- of the texts
    lines      text    not null,          -- [{"at", "text"}]
    primary key (job, id)
) without rowid;

-- The lines go with the job, whatever deletes it.
create trigger holdfast_jobs_logs after delete on holdfast_jobs begin
    delete from holdfast_job_logs where job = old.id;
end;
