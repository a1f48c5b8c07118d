-- holdfast: batches after 00000000-0000-0000-0000-000000000000
with batch as materialized (
    select user_id, document from holdfast_preferences where user_id > :after::uuid order by user_id limit :rows),
filled as (
    insert into holdfast_addresses (user_id, address, proof, proven_at)
    select user_id, lower(substring(document from '"address"\s*:\s*"([^"\\]+)"')), 'earlier', now()
    from batch
    where document ~ '"address"\s*:\s*"[^"\\]+"'
    on conflict (user_id, address) do nothing)
select user_id::text from batch order by user_id desc limit 1
