with picked as materialized (
    select due.id
    from (values (0::smallint, coalesce($5::timestamptz, '-infinity')),
                 (1::smallint, coalesce($6::timestamptz, '-infinity')),
                 (2::smallint, coalesce($7::timestamptz, '-infinity'))) as level(priority, since)
    cross join lateral (
        select id from holdfast_jobs
        where state = 'available' and queue = $1 and priority = level.priority
          and run_at >= level.since and run_at <= now()
        order by run_at, id
        limit $3
        for update skip locked) as due
    where exists (select from holdfast_workers
                  where id = $2 and seen_at > now() - $4 * interval '1 millisecond')
      and not exists (select from holdfast_queues where name = $1 and (paused or limited))
    limit $3)
update holdfast_jobs
set state = 'running', worker = $2, started_at = case when crashes = 0 then now() end
where id = any (array (select id from picked))
returning id, kind, payload::text as payload, attempt, crashes, max_attempts, timeout_ms, options::text as options,
          priority, run_at, snoozes, doubtful, batch_id, now() as claimed_at
