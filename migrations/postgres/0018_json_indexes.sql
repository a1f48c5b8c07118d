-- holdfast: no-transaction
-- Everything that is about one user, or one address, as 0011 has them for the old column.
create index concurrently if not exists holdfast_jobs_user_json on holdfast_jobs (holdfast_json_text(payload_json, 'user'))
    where kind in ('notify.email', 'notify.digest', 'ml.recommend');

create index concurrently if not exists holdfast_jobs_address_json on holdfast_jobs
    (lower(rtrim(substr(holdfast_json_text(payload_json, 'to'), strpos(holdfast_json_text(payload_json, 'to'), '<') + 1), '> ')))
    where kind = 'notify.email';

-- Every row is filled by now. Checked beside traffic, so that 0019 may say `not null` without reading the table.
alter table holdfast_jobs
    drop constraint if exists holdfast_jobs_payload,
    add constraint holdfast_jobs_payload check (payload_json is not null) not valid;

alter table holdfast_jobs validate constraint holdfast_jobs_payload;

analyze holdfast_jobs;
