update holdfast_schedules
set source = $2, enabled = $3, cron = $4, every_seconds = $5, time_zone = $6, kind = $7, payload = $8::jsonb,
    queue = $9, catch_up = $10, catch_up_max = $11, jitter_ms = $12, next_tick = $13, revision = revision + 1,
    last_error = null, updated_at = now()
where name = $1 and revision = $14
