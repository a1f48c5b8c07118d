-- What the pairs need beside the product's schema.

-- A's steps. A sequence counts what a rollback undoes.
create sequence pairs_step;
create table pairs_stop (at bigint not null, recording boolean not null);
create table pairs_steps (n bigint not null, what text not null);
-- Every change of a job's state, worker or wish to end.
create table pairs_log (n bigserial, id uuid, old_state text, new_state text, cancelling boolean, worker uuid, attempt integer,
                        crashes integer);
-- Rows that the product's own set-up has made, and which belong to the beginning.
create table pairs_queues as select * from holdfast_queues;
create table pairs_tables as
    select c.relname::text as name from pg_class as c
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and c.relname like 'holdfast\_%'
      and (xpath('/row/n/text()', query_to_xml('select count(*) as n from ' || c.relname, false, true, '')))[1]::text = '0'
    union select 'holdfast_queues';

create function pairs_step() returns trigger language plpgsql security definer as $$
declare
    step bigint;
    stop pairs_stop;
begin
    if session_user = 'victim' then
        step := nextval('pairs_step');
        select * into stop from pairs_stop;
        if stop.recording then
            insert into pairs_steps values (step, concat_ws(' ', tg_when, tg_op, tg_table_name, tg_level));
        end if;
        -- Not a wait for a lock: that would be bounded.
        while step = stop.at and not pg_try_advisory_xact_lock_shared(42) loop
            perform pg_sleep(0.002);
        end loop;
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end $$;

create function pairs_note() returns trigger language plpgsql security definer as $$
begin
    insert into pairs_log (id, old_state, new_state, cancelling, worker, attempt, crashes)
    values (new.id, old.state, new.state, old.cancel_requested, new.worker, new.attempt, new.crashes);
    return null;
end $$;

create trigger pairs_note after update on holdfast_jobs for each row
    when (old.state <> new.state) execute function pairs_note();

do $$
declare
    name text;
begin
    for name in select t.name from pairs_tables as t loop
        execute format('create trigger pairs_statement before insert or update or delete on %I
                        for each statement execute function pairs_step()', name);
        execute format('create trigger pairs_row before insert or update or delete on %I
                        for each row execute function pairs_step()', name);
        -- Deferred: at the commit.
        execute format('create constraint trigger pairs_commit after insert or update or delete on %I
                        deferrable initially deferred for each row execute function pairs_step()', name);
    end loop;
end $$;

create function pairs_id(kind integer, number integer) returns uuid language sql immutable as $$
    select ('01900000-0000-0000-0000-' || lpad(to_hex(kind), 8, '0') || lpad(to_hex(number), 4, '0'))::uuid
$$;

-- The beginning of every pair. `stop_at`: the step of A to stop at; 0 for none.
create procedure pairs_begin(stop_at bigint, record boolean) language plpgsql as $$
declare
    name text;
begin
    for name in select t.name from pairs_tables as t loop
        execute format('delete from %I', name);
    end loop;
    delete from pairs_stop;
    delete from pairs_steps;
    delete from pairs_log;
    insert into holdfast_queues select * from pairs_queues;

    insert into holdfast_workers (id, name, queues, stats, started_at, seen_at)
    select pairs_id(2, n), 'w' || n, '[]', '{}', now() - interval '2 hours', seen
    from (values (1, now()), (2, now() - interval '1 hour'), (3, now()), (4, now() + interval '1 hour')) as w (n, seen);

    insert into holdfast_batches (id, total, discarded, callback, ended_at)
    select pairs_id(3, n), total, discarded, callback::json, ended
    from (values (1, 5, 1, true, null), (2, 1, 0, true, null), (3, 1, 0, false, null),
                 (4, 1, 1, false, now() - interval '2 hours')) as b (n, total, discarded, calls, ended),
         lateral (select case when calls then
             '{"kind": "test.kind", "queue": "default", "payload": {"n": 9}, "max_attempts": 4, "timeout_seconds": 30}'
             end as callback) as c;

    -- number, queue, state, worker, batch, started, crashes, cancel, unique key, due, finished
    -- A job that is due later was accepted without a delay, before the clock was set back.
    insert into holdfast_jobs (id, queue, kind, state, run_at, created_at, worker, batch_id, started_at, crashes, cancel_requested, unique_key,
                               finished_at, max_attempts, timeout_ms, payload, doubtful, expires_at, options)
    select pairs_id(1, n), queue, 'test.kind', state, now() - interval '1 minute' + coalesce(due, interval '0'), now() + coalesce(due, interval '0'),
           case when w is not null then pairs_id(2, w) end, case when b is not null then pairs_id(3, b) end,
           case when started then now() - interval '30 seconds' end, crashes, cancel, key, now() - ended, 4, 30000, '{"n":1}',
           n = 18, case when n in (2, 3) then now() - interval '1 second' end,
           (case when n = 7 then '{"then": {"kind": "test.kind", "queue": "default", "payload": {"n": 2}, "max_attempts": 4, "timeout_seconds": 30}}' end)::json
    from (values
        (1, 'default', 'available', null, null, false, 0, false, null, null::interval, null::interval),
        (2, 'default', 'available', null, null, false, 0, false, null, null, null),
        (3, 'default', 'available', null, 1, false, 0, false, null, null, null),
        (4, 'default', 'available', null, null, false, 0, false, 'waiting', null, null),
        (5, 'default', 'running', 1, null, true, 0, false, null, null, null),
        (6, 'default', 'running', 1, 1, true, 0, false, null, null, null),
        (7, 'default', 'running', 1, null, true, 0, false, null, null, null),
        (8, 'default', 'running', 1, null, true, 0, true, null, null, null),
        (9, 'default', 'running', 1, 2, true, 0, false, null, null, null),
        (10, 'default', 'running', 2, null, true, 0, false, 'running', null, null),
        (11, 'default', 'running', 2, 1, true, 0, false, null, null, null),
        (12, 'default', 'running', 2, null, false, 0, true, null, null, null),
        (13, 'default', 'running', 7, null, true, 0, false, null, null, null),
        (14, 'default', 'running', 7, 1, true, 0, false, null, null, null),
        (15, 'default', 'discarded', null, null, true, 0, false, null, null, interval '1 minute'),
        (16, 'default', 'discarded', null, 1, true, 0, false, 'dead', null, interval '1 minute'),
        (17, 'default', 'completed', null, null, true, 0, false, null, null, interval '3 hours'),
        (18, 'default', 'available', null, null, false, 0, false, null, null, null),
        (19, 'limited', 'available', null, null, false, 0, false, null, null, null),
        (20, 'limited', 'available', null, null, false, 0, false, null, null, null),
        (21, 'limited', 'running', 1, null, true, 0, false, null, null, null),
        (22, 'default', 'available', null, null, false, 0, false, null, interval '1 hour', null),
        (23, 'default', 'running', 1, null, false, 1, false, null, null, null),
        (24, 'default', 'discarded', null, null, true, 0, false, null, null, interval '3 hours'),
        (25, 'default', 'completed', null, 3, true, 0, false, null, null, interval '1 minute')
    ) as j (n, queue, state, w, b, started, crashes, cancel, key, due, ended);

    insert into pairs_stop values (stop_at, record);
    perform setval('pairs_step', 1, false);
end $$;

-- From here on only a fresh worker is there: what others hold is to be rescued, what is delayed is due.
create procedure pairs_leave() language sql as $$
    update holdfast_workers set seen_at = now() - interval '1 hour' where id <> pairs_id(2, 9);
    update holdfast_queues set paused = false;
    update holdfast_jobs set run_at = now() - interval '1 second' where state = 'available' and run_at > now();
$$;

-- What is wrong, one sentence a row. `ended`: every job has been brought to its end.
create function pairs_faults(ended boolean) returns setof text language sql stable as $$
    select format('job %s is running under worker %s, which has no row', right(j.id::text, 4), right(j.worker::text, 4))
    from holdfast_jobs as j
    where j.state = 'running' and j.worker <> pairs_id(2, 7) and not exists (select from holdfast_workers where id = j.worker)
    union all
    select format('the fence (job %s, worker %s, attempt %s, crashes %s) was given %s times', right(id::text, 4), right(worker::text, 4), attempt, crashes, count(*))
    from pairs_log where new_state = 'running' group by id, worker, attempt, crashes having count(*) > 1
    union all
    select format('job %s went from %s to %s', right(id::text, 4), old_state, new_state)
    from pairs_log where old_state in ('completed', 'cancelled') or old_state = 'discarded' and new_state <> 'available'
    union all
    select format('job %s was completed %s times', right(id::text, 4), count(*))
    from pairs_log where new_state = 'completed' group by id having count(*) > 1
    union all
    select format('job %s was asked to cancel, and went from %s to %s', right(id::text, 4), old_state, new_state)
    from pairs_log where cancelling and old_state in ('available', 'running') and new_state in ('available', 'running')
    union all
    select format('batch %s: %s jobs of %s counted, %s pending, ended: %s', right(b.id::text, 4), counted, total, pending, ended_at is not null)
    from holdfast_batches as b,
         lateral (select b.completed + b.discarded + b.cancelled as counted) as c,
         lateral (select count(*) as pending from holdfast_jobs where batch_id = b.id and state in ('available', 'running')) as p
    where b.id not in (pairs_id(3, 3), pairs_id(3, 4))
      and case when ended_at is null then counted + pending <> total or pending = 0 else counted <> total end
    union all
    select format('job %s was completed, and %s jobs follow it', right(j.id::text, 4), n)
    from holdfast_jobs as j, lateral (select count(*) as n from holdfast_jobs as f where f.options::text like '%"previous"%') as f
    where j.id = pairs_id(1, 7) and n <> case when j.state = 'completed' then 1 else 0 end
    union all
    select format('job %s is not at its end: %s', right(id::text, 4), state) from holdfast_jobs
    where ended and state in ('available', 'running')
    union all
    select format('batch %s has not ended', right(id::text, 4)) from holdfast_batches where ended and ended_at is null
    union all
    select format('%s callbacks of batch %s', n, right(b.id::text, 4))
    from holdfast_batches as b,
         lateral (select count(*) as n from holdfast_jobs where options::text like '%"ended_batch"%' and id = b.callback_id) as c
    where ended and b.id in (pairs_id(3, 1), pairs_id(3, 2)) and n <> 1
    union all
    select format('%s callbacks of two batches', n)
    from (select count(*) as n from holdfast_jobs where options::text like '%"ended_batch"%') as c where ended and n <> 2
$$;
