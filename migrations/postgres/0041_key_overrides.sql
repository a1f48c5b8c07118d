-- What holds for one limit key of a queue for a time: crates/jobs/src/limits/keys.rs. And the second versions of the functions of 0014,
-- which keep to it; workers of the release before call the first ones, and do not know it.
create table holdfast_key_overrides (
    queue       text             not null,
    key         text collate "C" not null,
    paused      boolean          not null default false,
    max_running integer,                                 -- in place of the queue's limit for each key
    expires_at  timestamptz      not null,               -- ignored from then on, and deleted later
    primary key (queue, key)
);
create index holdfast_key_overrides_expiry on holdfast_key_overrides (expires_at);

-- As holdfast_queue_is_open_1, with the same lock. A queue with an override is not open to ordinary claims.
create function holdfast_queue_is_open_2(of_queue text) returns boolean
language plpgsql volatile as $$
begin
    perform pg_advisory_xact_lock_shared(1752132708, hashtext(of_queue));
    return not exists (select from holdfast_queues where name = of_queue and (paused or limited))
        and not exists (select from holdfast_key_overrides where queue = of_queue and expires_at > clock_timestamp());
end $$;

-- As holdfast_claim_limited_1, which says more, with the overrides of single keys.
create function holdfast_claim_limited_2(
    of_queue        text,
    by_worker       uuid,
    wanted          integer,
    lost_after_ms   bigint,
    believed        text,
    max_running     bigint,
    rate_count      bigint,
    rate_each_ms    double precision,
    key_max_running bigint,
    key_rate_count  bigint,
    key_each_ms     double precision,
    most_keys       integer,
    most_walks      integer,
    next_walk_ms    double precision,
    unkeyed_window  integer,
    wide_window     integer,
    most_candidates integer,
    most_bytes      bigint)
returns table (
    limited      boolean,
    limits       text,
    again_ms     double precision,
    job          uuid,
    job_kind     text,
    job_payload  text,
    job_attempt  integer,
    job_crashes  integer,
    job_attempts integer,
    job_timeout  bigint,
    job_options  text,
    job_priority smallint,
    job_run_at   timestamptz,
    job_snoozes  integer,
    job_doubtful boolean,
    job_batch    uuid)
language plpgsql volatile
-- Each step is a few probes of one index, planned once for each session, and so perhaps while the table was empty. Hence no plan
-- may depend on how many rows there are: with these settings, only the index that has the order of a step can serve it (which is
-- why running jobs of a key are counted in order). The heads of keys have a choice of two, and steps by key are planned each time.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
#variable_conflict use_column
declare
    -- A variable has the collation of the caller's arguments, and only that of the column can use its indexes.
    this_queue constant text collate "default" := of_queue;
    by_key   boolean := key_max_running is not null or key_rate_count is not null;
    whole    constant double precision := rate_count * rate_each_ms;
    key_full constant double precision := key_rate_count * key_each_ms;
    -- Among which due jobs of a priority those without a key are looked for.
    window_of_all constant bigint := case when by_key then unkeyed_window else wide_window end;
    held_keys boolean;
    alive    boolean;
    standing record;
    moment   timestamptz;
    room     bigint := wanted;
    running  bigint;
    debt     double precision;
    grown    bigint;
    last_key text;
    started  boolean;
    keys     text[];
    seen     text[] := '{}';
    fresh    text[];
    free     text[];
    places   bigint[];
    overfull boolean;
    wait     double precision;
    round    boolean := false;
    pool     uuid[] := '{}';
    chosen   uuid[];
    due      uuid[];
    taken    bigint := 0;
    spent_at timestamptz;
begin
    again_ms := null;

    -- The lease. Locked until the commit, so that a worker whose row goes has no claim under way. A row that is locked by
    -- somebody else is one that is about to go.
    perform from holdfast_workers as w
    where w.id = by_worker and w.seen_at > clock_timestamp() - lost_after_ms * interval '1 millisecond'
    for key share skip locked;
    alive := found;

    -- Without the lock, what gives nothing in any case.
    select q.limited, q.paused into standing from holdfast_queues as q where q.name = this_queue;
    limited := coalesce(standing.limited, false)
        or exists (select from holdfast_key_overrides as o where o.queue = this_queue and o.expires_at > clock_timestamp());
    if not limited or standing.paused or not alive then
        return next;
        return;
    end if;

    -- One limited claim at a time, after all ordinary ones that began before the queue had limits. Each statement from here on
    -- sees what was committed before it. The row is locked too for the sake of workers of earlier versions, which lock nothing else.
    perform pg_advisory_xact_lock(1752132708, hashtext(this_queue));
    select q.limited, q.paused, q.key_cursor, q.rate_full_at, coalesce(q.overridden, q.configured, '{}')::text as in_force
    into standing from holdfast_queues as q where q.name = this_queue for no key update;
    held_keys := exists (select from holdfast_key_overrides as o where o.queue = this_queue and o.expires_at > clock_timestamp());
    limited := coalesce(standing.limited, false) or held_keys;
    limits := coalesce(standing.in_force, '{}');
    by_key := by_key or held_keys;
    if not limited or standing.paused or limits is distinct from believed then
        return next;
        return;
    end if;
    moment := clock_timestamp();
    last_key := coalesce(standing.key_cursor, '');

    if max_running is not null then
        -- By worker, because the index begins with it, and in the gaps between the workers that there are: jobs of a worker
        -- that is gone count until they are rescued.
        select coalesce(sum(held.jobs), 0) into running from (
            select (select count(*) from holdfast_jobs as j
                    where j.state = 'running' and j.worker = w.id and j.queue = this_queue) as jobs
            from holdfast_workers as w
            union all
            select (select count(*) from holdfast_jobs as j
                    where j.state = 'running' and j.worker > gap.after and j.worker < gap.before and j.queue = this_queue)
            from (select w.id as after, lead(w.id, 1, 'ffffffff-ffff-ffff-ffff-ffffffffffff') over (order by w.id) as before
                  from (select id from holdfast_workers
                        union all select '00000000-0000-0000-0000-000000000000') as w) as gap) as held;
        room := least(room, greatest(max_running - running, 0));
    end if;

    if rate_count is not null and room > 0 then
        debt := least(greatest(coalesce(extract(epoch from standing.rate_full_at - moment) * 1000, 0), 0), whole);
        grown := floor((whole - debt) / rate_each_ms + 1e-6);
        if grown < room then
            again_ms := greatest(case when grown = 0 then debt - (whole - rate_each_ms) else rate_each_ms end, 1);
        end if;
        room := least(room, grown);
        spent_at := moment + debt * interval '1 millisecond';
    end if;

    if room > 0 and not by_key then
        select coalesce(array_agg(first.id), '{}') into chosen from (
            select first.id
            from (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
            cross join lateral (
                select j.id from holdfast_jobs as j
                where j.state = 'available' and j.queue = this_queue and j.priority = level.priority and j.run_at <= moment
                order by j.run_at, j.id limit room for update skip locked) as first
            limit room) as first;
    elsif room > 0 then
        -- Jobs without a key, among the first of each priority.
        select coalesce(array_agg(first.id), '{}') into pool from (
            select first.id
            from (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
            cross join lateral (
                select j.id, j.priority, j.run_at, j.limit_key from holdfast_jobs as j
                where j.state = 'available' and j.queue = this_queue and j.priority = level.priority and j.run_at <= moment
                order by j.run_at, j.id limit window_of_all) as first
            where first.limit_key is null
            order by first.priority, first.run_at, first.id limit room) as first;

        perform set_config('plan_cache_mode', 'force_custom_plan', true);

        -- Walks over the keys that wait, from behind the last walk's end, until there is no room or every key was seen.
        for walk in 1..most_walks loop
            started := last_key = '';
            with recursive walk (key, n) as (
                (select j.limit_key, 1 from holdfast_jobs as j
                 where j.state = 'available' and j.queue = this_queue and j.limit_key > last_key
                 order by j.limit_key limit 1)
                union all
                select next.limit_key, walk.n + 1 from walk cross join lateral (
                    select j.limit_key from holdfast_jobs as j
                    where j.state = 'available' and j.queue = this_queue and j.limit_key > walk.key
                    order by j.limit_key limit 1) as next
                where walk.n < most_keys)
            select coalesce(array_agg(walk.key order by walk.n), '{}') into keys from walk;
            last_key := case when cardinality(keys) = most_keys then keys[most_keys] else '' end;
            select coalesce(array_agg(k.key), '{}') into fresh
            from (select unnest(keys) as key except select unnest(seen)) as k;
            seen := seen || fresh;
            round := last_key = '' and (started or cardinality(fresh) = 0);

            -- How many jobs each key may start now.
            with known as materialized (
                select k.key,
                       case when o.paused then 0
                            when coalesce(o.max_running, key_max_running) is null then room
                            else least(room, greatest(coalesce(o.max_running, key_max_running) - (
                                select count(*) from (
                                    select from holdfast_jobs as j
                                    where j.state = 'running' and j.queue = this_queue
                                      and j.limit_key >= k.key collate "C" and j.limit_key <= k.key collate "C"
                                    order by j.limit_key) as held), 0))
                       end as places,
                       case when key_rate_count is null then 0
                            else coalesce((select greatest(extract(epoch from b.full_at - moment) * 1000, 0)
                                           from holdfast_limit_buckets as b
                                           where b.queue = this_queue and b.key = k.key collate "C"), 0)
                       end::double precision as debt
                from unnest(fresh) as k (key)
                left join holdfast_key_overrides as o
                    on o.queue = this_queue and o.key = k.key collate "C" and o.expires_at > moment),
            grown as materialized (
                select known.key, known.places, known.debt > key_full + 1 as overfull, least(known.debt, key_full) as debt,
                       case when key_rate_count is null then known.places
                            else floor((key_full - least(known.debt, key_full)) / key_each_ms + 1e-6)::bigint end as tokens
                from known)
            select array_agg(grown.key) filter (where least(grown.places, grown.tokens) > 0),
                   array_agg(least(grown.places, grown.tokens)) filter (where least(grown.places, grown.tokens) > 0),
                   bool_or(grown.overfull),
                   min(greatest(case when grown.tokens = 0 then grown.debt - (key_full - key_each_ms) else key_each_ms end, 1))
                       filter (where grown.places > 0 and grown.tokens < grown.places)
            into free, places, overfull, wait
            from grown;
            again_ms := least(again_ms, wait);
            if overfull then
                -- The clock was set back, or the rate was lowered: an empty bucket is as far from full as it can be.
                update holdfast_limit_buckets as b set full_at = moment + key_full * interval '1 millisecond'
                where b.queue = this_queue and b.key = any (fresh) and b.full_at > moment + key_full * interval '1 millisecond';
            end if;

            -- The first due jobs of each free key.
            if free is not null then
                select pool || coalesce(array_agg(head.id), '{}') into pool from (
                    select head.id, row_number() over (partition by k.key order by head.priority, head.run_at, head.id) as n,
                           k.places
                    from unnest(free, places) as k (key, places)
                    cross join (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
                    cross join lateral (
                        select j.id, j.priority, j.run_at from holdfast_jobs as j
                        where j.state = 'available' and j.queue = this_queue and j.limit_key = k.key collate "C"
                          and j.limit_key is not null and j.priority = level.priority and j.run_at <= moment
                        order by j.run_at, j.id
                        limit least(k.places, greatest(most_candidates / cardinality(free), 1))) as head) as head
                where head.n <= head.places;
            end if;
            exit when cardinality(pool) >= room or round;
        end loop;

        -- By priority; within one, the first of each key before the second of any. Jobs without a key are each their own.
        select coalesce(array_agg(fair.id), '{}') into chosen from (
            select turns.id from (
                select j.id, j.priority, j.run_at,
                       case when j.limit_key is null then 1
                            else row_number() over (partition by j.priority, j.limit_key order by j.run_at, j.id) end as turn
                from holdfast_jobs as j where j.id = any (pool)) as turns
            order by turns.priority, turns.turn, turns.run_at, turns.id
            limit room) as fair;
        if cardinality(chosen) < room and not round then
            again_ms := least(again_ms, greatest(next_walk_ms, 1));
        end if;
    end if;

    -- What was cancelled meanwhile, or is locked by somebody else, is left out.
    due := chosen;
    if by_key and cardinality(chosen) > 0 then
        select array_agg(held.id) into due from (
            select j.id from holdfast_jobs as j
            where j.id = any (chosen) and j.state || '' = 'available' for update skip locked) as held;
    end if;
    if cardinality(due) > 0 then
        return query
        with leased as (
            update holdfast_jobs as j
            set state = 'running', worker = by_worker, started_at = case when j.crashes = 0 then moment end
            where j.id = any (due)
            returning j.*),
        -- A large payload is not even unpacked while the lock is held.
        told as (
            select l.*, l.options::text as options_text,
                   case when pg_column_size(l.payload) <= 2048 then l.payload::text end as payload_text
            from leased as l),
        measured as (
            select t.*, coalesce(sum(150 + octet_length(t.payload_text) + octet_length(t.kind)
                                     + coalesce(octet_length(t.options_text), 0))
                                     over (order by t.priority, t.run_at, t.id) <= most_bytes
                                 and t.payload_text is not null, false) as fits
            from told as t)
        select null::boolean, null::text, null::double precision, m.id,
               case when m.fits then m.kind end, case when m.fits then m.payload_text end, m.attempt, m.crashes,
               m.max_attempts, m.timeout_ms, case when m.fits then m.options_text end, m.priority, m.run_at, m.snoozes,
               m.doubtful, m.batch_id
        from measured as m order by m.priority, m.run_at, m.id;
        get diagnostics taken = row_count;
    end if;

    if taken > 0 and key_rate_count is not null then
        insert into holdfast_limit_buckets as b (queue, key, full_at)
        select this_queue, s.key, greatest(b.full_at, moment) + s.jobs * key_each_ms * interval '1 millisecond'
        from (select j.limit_key as key, count(*) as jobs from holdfast_jobs as j
              where j.id = any (chosen) and j.worker = by_worker and j.state || '' = 'running' and j.limit_key is not null
              group by j.limit_key) as s
        left join holdfast_limit_buckets as b on b.queue = this_queue and b.key = s.key
        on conflict (queue, key) do update set full_at = excluded.full_at;
    end if;
    spent_at := spent_at + taken * rate_each_ms * interval '1 millisecond';
    if spent_at is null or taken = 0 and coalesce(standing.rate_full_at <= moment + (whole + 1) * interval '1 millisecond', true) then
        spent_at := standing.rate_full_at;
    end if;
    if last_key is distinct from standing.key_cursor or spent_at is distinct from standing.rate_full_at then
        update holdfast_queues as q set key_cursor = last_key, rate_full_at = spent_at where q.name = this_queue;
    end if;

    -- When the next job is due, if there is room for it.
    if room > coalesce(cardinality(chosen), 0) then
        select extract(epoch from min(next.run_at) - clock_timestamp()) * 1000 into wait
        from (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
        cross join lateral (
            select j.run_at from holdfast_jobs as j
            where j.state = 'available' and j.queue = this_queue and j.priority = level.priority and j.run_at > moment
            order by j.run_at limit 1) as next;
        if wait is not null then
            again_ms := least(again_ms, greatest(wait, 1));
        end if;
    end if;
    -- When the first override ends, if there is room for what it holds back.
    if held_keys and room > coalesce(cardinality(chosen), 0) then
        select extract(epoch from min(o.expires_at) - clock_timestamp()) * 1000 into wait
        from holdfast_key_overrides as o where o.queue = this_queue and o.expires_at > moment;
        if wait is not null then
            again_ms := least(again_ms, greatest(wait, 1));
        end if;
    end if;
    return next;
end $$;
