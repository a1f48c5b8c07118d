-- The new columns take the place of the old ones: only the catalogue changes. The indexes of the old columns go with them.
lock table holdfast_jobs, holdfast_batches in access exclusive mode;

drop trigger holdfast_jobs_json on holdfast_jobs;
drop function holdfast_jobs_json();
alter table holdfast_jobs alter column payload_json set not null;
alter table holdfast_jobs
    drop constraint holdfast_jobs_payload,
    drop column payload,
    drop column options,
    drop column result,
    drop column progress;
alter table holdfast_jobs rename column payload_json to payload;
alter table holdfast_jobs rename column options_json to options;
alter table holdfast_jobs rename column result_json to result;
alter table holdfast_jobs rename column progress_json to progress;
alter index holdfast_jobs_user_json rename to holdfast_jobs_user;
alter index holdfast_jobs_address_json rename to holdfast_jobs_address;

drop trigger holdfast_batches_json on holdfast_batches;
drop function holdfast_batches_json();
alter table holdfast_batches drop column callback;
alter table holdfast_batches rename column callback_json to callback;
