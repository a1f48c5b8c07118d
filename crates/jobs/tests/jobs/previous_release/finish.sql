update holdfast_jobs as j
set state            = o.state,
    attempt          = j.attempt + o.spent,
    snoozes          = j.snoozes + (o.spent = 0 and o.delay_ms is not null)::int,
    run_at           = case when o.delay_ms is null then j.run_at
                            else now() + o.delay_ms * interval '1 millisecond' end,
    started_at       = case when o.state = 'available' then null else coalesce(j.started_at, now()) end,
    finished_at      = case when o.state = 'available' then null else now() end,
    cancel_requested = j.cancel_requested and o.state <> 'cancelled',
    worker           = case when o.state = 'available' then null else j.worker end,
    result           = o.result::jsonb,
    errors           = case when o.error is null then j.errors
                            else coalesce(j.errors, '[]'::jsonb) || o.error::jsonb end
from unnest($2::uuid[], $3::integer[], $4::integer[], $5::text[], $6::integer[], $7::bigint[], $8::text[], $9::text[])
  as o(id, attempt, crashes, state, spent, delay_ms, result, error)
where j.id = o.id and j.state || '' = 'running' and j.worker = $1 and j.attempt = o.attempt and j.crashes = o.crashes
returning j.id
