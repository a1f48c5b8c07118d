-- holdfast: batches after 00000000-0000-0000-0000-000000000000
with batch as materialized (
    select id from holdfast_batches where id > :after::uuid order by id limit :rows),
filled as (
    update holdfast_batches as b set callback_json = b.callback::text::json
    from batch
    where b.id = batch.id and b.callback is not null and b.callback_json is null)
select id::text from batch order by id desc limit 1
