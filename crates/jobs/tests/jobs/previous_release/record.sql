select id, kind, queue, state, priority, payload::text as payload, attempt, max_attempts, crashes, timeout_ms, unique_key,
       limit_key, run_at, run_at > now() as ahead, created_at, started_at, finished_at, result::text as result,
       progress::text as progress, errors::text as errors, worker, cancel_requested, batch_id, child_id,
       (options -> 'then')::text as then, options #>> '{previous,id}' as parent_id,
       options #>> '{ended_batch,id}' as callback_of
from holdfast_jobs 
