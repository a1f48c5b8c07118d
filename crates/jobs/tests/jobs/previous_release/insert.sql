insert into holdfast_jobs
    (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, unique_key, idempotency_key, options,
     attempt, crashes, errors, doubtful, limit_key, state, finished_at, batch_id)
select id, queue, kind, payload::jsonb, priority,
       coalesce(run_at, now() + delay_ms * interval '1 millisecond'),
       max_attempts, timeout_ms, unique_key, idempotency_key, options::jsonb, attempt, crashes, errors::jsonb, doubtful,
       limit_key, case when discarded then 'discarded' else 'available' end, case when discarded then now() end, $19
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::bigint[],
            $8::integer[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::integer[],
            $15::text[], $16::boolean[], $17::boolean[], $18::text[])
  as t(id, queue, kind, payload, priority, run_at, delay_ms, max_attempts, timeout_ms, unique_key, idempotency_key,
       options, attempt, crashes, errors, doubtful, discarded, limit_key)
on conflict do nothing
returning id
