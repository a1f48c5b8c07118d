-- holdfast: batches after 00000000-0000-0000-0000-000000000000
with batch as materialized (
    select id from holdfast_jobs where id > :after::uuid order by id limit :rows),
filled as (
    update holdfast_jobs as j
    set payload_json = j.payload::text::json, options_json = j.options::text::json,
        result_json = j.result::text::json, progress_json = j.progress::text::json
    from batch
    where j.id = batch.id and j.payload_json is null)
select id::text from batch order by id desc limit 1
