with lost as materialized (
    select id from holdfast_workers
    where seen_at <= now() - $1 * interval '1 millisecond'
    order by seen_at
    limit 50),
held as materialized (
    select id from holdfast_jobs
    where state = 'running' and worker in (select id from lost)
    limit $3
    for update skip locked),
judged as materialized (
    select id, crashes + strike as crashes, attempt,
           case when cancel_requested then 'cancelled'
                when strike = 1 and crashes + strike >= $2 then 'discarded'
                else 'available' end as state,
           strike
    from (select id, crashes, attempt, cancel_requested, (started_at is not null)::int as strike
          from holdfast_jobs where id = any (array (select id from held))) as j)
update holdfast_jobs as j
set state = judged.state, crashes = judged.crashes, started_at = case when judged.state = 'available' then null else j.started_at end,
    finished_at = case when judged.state = 'available' then null else now() end,
    worker = case when judged.state = 'available' then null else j.worker end,
    errors = case when judged.strike = 0 then j.errors
                  else coalesce(j.errors, '[]'::jsonb) || jsonb_build_object(
                      'at', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                      'attempt', judged.attempt + 1, 'class', 'crash',
                      'message', 'the worker that ran the job was lost (crash ' || judged.crashes || ')',
                      'worker', coalesce((select name from holdfast_workers w where w.id = j.worker), j.worker::text)) end
from judged
where j.id = judged.id
returning j.id, j.queue, j.state, j.batch_id
