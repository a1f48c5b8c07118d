insert into holdfast_schedules
    (name, source, enabled, cron, every_seconds, time_zone, kind, payload, queue, catch_up, catch_up_max, jitter_ms,
     next_tick)
values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11, $12, $13)
on conflict (name) do nothing
