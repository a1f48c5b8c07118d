-- holdfast: batches after 00000000-0000-0000-0000-000000000000
with batch as materialized (
    select id, name, created_at from holdfast_api_keys where id > :after::uuid order by id limit :rows),
filled as (
    update holdfast_api_keys as k
    set created_by = (
        select min(a.actor) from holdfast_audit as a
        where a.action = 'key.create' and a.details ->> 'name' = batch.name
            and a.at between batch.created_at - interval '5 seconds' and batch.created_at + interval '5 seconds'
        having count(distinct a.actor) = 1)
    from batch
    where k.id = batch.id and k.created_by is null)
select id::text from batch order by id desc limit 1
