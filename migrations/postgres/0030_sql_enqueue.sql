-- Jobs enqueued by SQL, in any client's own transaction: holdfast.enqueue and holdfast.enqueue_many. The checks are those of
-- crates/jobs/src/enqueue/check.rs; crates/jobs/tests/jobs/sql_enqueue.rs holds both against each other.

-- What the processes know and SQL cannot: the kinds of the program, the configured queues, the bounds. Each process writes it
-- when it starts (crates/jobs/src/enqueue/catalogue.rs); the last one to start wins. No row: none has started yet.
create table holdfast_catalogue (
    id         bigint      primary key,                     -- 1
    document   json        not null,
    updated_at timestamptz not null default now()
);

-- Makes the functions in the schema `holdfast`, or says why it cannot; null: they are there. A role that may not create a schema
-- can still migrate: each process tries again when it starts. The functions run with the rights of their owner, so that a role needs
-- no rights but to execute them. They name the tables with their schema, and look nothing up in a schema that others may write to.
create function holdfast_install_enqueue_1() returns text
language plpgsql volatile as $install$
declare
    tables constant text := (select quote_ident(n.nspname) from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                             where c.oid = 'holdfast_jobs'::regclass);
    mark constant text := 'Holdfast enqueues into the tables of the schema ' || tables || '. Version 1.';
    found text;
    part text;
    parts constant text[] := array[
$part$
create or replace function holdfast.refuse_1(prefix text, field text, reason text, problem text default 'invalid-field',
                                             state text default '22023') returns void
language plpgsql as $f$
begin
    raise exception using errcode = state, message = prefix || field || ': ' || reason, column = field, constraint = problem;
end $f$
$part$,
$part$
create or replace function holdfast.checked_key_1(prefix text, field text, value jsonb) returns text
language plpgsql as $f$
declare
    key text;
begin
    if value is null or value = 'null' then
        return null;
    end if;
    if jsonb_typeof(value) <> 'string' then
        perform holdfast.refuse_1(prefix, field, 'must be a string');
    end if;
    key := value #>> '{}';
    if key = '' then
        perform holdfast.refuse_1(prefix, field, 'must not be empty; leave it out instead');
    elsif octet_length(key) > 255 then
        perform holdfast.refuse_1(prefix, field, format('%s bytes are more than the 255 allowed', octet_length(key)));
    elsif key ~ '[\u0001-\u001f\u007f-\u009f]' then
        perform holdfast.refuse_1(prefix, field, 'must not hold control characters');
    end if;
    return key;
end $f$
$part$,
$part$
-- A number of seconds as milliseconds, 0 or more and at most the given ones.
create or replace function holdfast.checked_seconds_1(prefix text, field text, value jsonb, most bigint, reason text) returns bigint
language plpgsql as $f$
begin
    if value is null or value = 'null' then
        return null;
    end if;
    if jsonb_typeof(value) <> 'number' or (value #>> '{}')::numeric < 0 then
        perform holdfast.refuse_1(prefix, field, 'must be a number of seconds, 0 or more');
    elsif (value #>> '{}')::numeric > most then
        perform holdfast.refuse_1(prefix, field, reason);
    end if;
    return floor((value #>> '{}')::numeric * 1000);
end $f$
$part$,
$part$
-- How deep well-formed JSON is nested, counted up to one more than `most`.
create or replace function holdfast.depth_1(document text, most integer) returns integer
language plpgsql as $f$
declare
    brackets text := translate(regexp_replace(regexp_replace(document, '"(?:[^"\\]|\\.)*"', '', 'g'), '[^][{}]+', '', 'g'), '{}', '[]');
    depth integer := 0;
begin
    -- Each round removes what is innermost.
    while brackets <> '' and depth <= most loop
        brackets := replace(brackets, '[]', '');
        depth := depth + 1;
    end loop;
    return depth;
end $f$
$part$,
$part$
create or replace function holdfast.insert_1(prefix text, kind text, payload json, options jsonb, out id uuid, out duplicate boolean)
language plpgsql as $f$
#variable_conflict use_variable
declare
    known        jsonb;
    coded        jsonb;
    declared     json;
    declared_for text;
    queue        text;
    fleet        text;
    unknown      text;
    level        integer;
    attempts     integer;
    run_at       timestamptz;
    delay_ms     bigint;
    timeout_ms   bigint;
    unique_key   text;
    limit_key    text;
    idempotency  text;
    trace        text;
    text_of_it   text;
    standing     record;
begin
    select c.document::jsonb into known from @tables.holdfast_catalogue as c where c.id = 1;
    if known is null then
        raise exception using errcode = '55000', constraint = 'not-ready',
            message = 'no process of Holdfast has announced its kinds to this database',
            hint = 'Start api, worker or beat of the release that made this function.';
    end if;

    -- What it is, and where it goes.
    if kind is null then
        perform holdfast.refuse_1(prefix, 'kind', 'must not be null');
    end if;
    coded := known -> 'kinds' -> kind;
    if coded is null then
        select k.definition, k.queue into declared, declared_for from @tables.holdfast_kinds as k where k.name = kind;
        if declared is null then
            select string_agg(names.name, ', ' order by names.name collate "C") into unknown from (
                select object.key as name from jsonb_object_keys(known -> 'kinds') as object (key)
                union select k.name from @tables.holdfast_kinds as k
                order by 1 limit 50) as names;
            perform holdfast.refuse_1(prefix, 'kind', format('unknown kind "%s"; there are %s', left(kind, 80), unknown), 'unknown-kind');
        end if;
    end if;
    options := coalesce(options, '{}');
    if jsonb_typeof(options) <> 'object' then
        perform holdfast.refuse_1(prefix, 'options', 'must be a JSON object');
    end if;
    if options ? 'then' then
        perform holdfast.refuse_1(prefix, 'then', 'follow-up jobs are enqueued over HTTP or from Rust, not by SQL');
    end if;
    select min(object.key) into unknown from jsonb_object_keys(options) as object (key)
    where object.key <> all ('{queue,run_at,delay_seconds,priority,max_attempts,timeout_seconds,unique_key,limit_key,idempotency_key,traceparent}'::text[]);
    if unknown is not null then
        perform holdfast.refuse_1(prefix, left(unknown, 80), 'unknown option; there are queue, run_at, delay_seconds, priority, '
            || 'max_attempts, timeout_seconds, unique_key, limit_key, idempotency_key, traceparent');
    end if;
    queue := coalesce(coded ->> 'queue', declared_for);
    if options -> 'queue' <> 'null' then
        if jsonb_typeof(options -> 'queue') <> 'string' then
            perform holdfast.refuse_1(prefix, 'queue', 'must be a string');
        end if;
        queue := options ->> 'queue';
    end if;
    fleet := known -> 'queues' ->> queue;
    if fleet is null then
        select q.served_by into fleet from @tables.holdfast_queues as q where q.name = queue;
    end if;
    if fleet is null then
        select string_agg(names.name, ', ' order by names.name collate "C") into unknown from (
            select object.key as name from jsonb_object_keys(known -> 'queues') as object (key)
            union select q.name from @tables.holdfast_queues as q where q.served_by is not null
            order by 1 limit 50) as names;
        perform holdfast.refuse_1(prefix, 'queue', format('unknown queue "%s"; there are %s', left(queue, 80), unknown), 'unknown-queue');
    elsif coded is null and fleet = 'rust' then
        perform holdfast.refuse_1(prefix, 'queue', format('%s is served by Rust workers, which do not run the declared kind %s; '
            || 'name a queue of pull workers, or set queues.%s.served_by = "pull"', queue, kind, queue));
    elsif coded is not null and fleet = 'pull' and coded ->> 'queue' <> queue then
        perform holdfast.refuse_1(prefix, 'queue', format('%s is served by pull workers, and the kind %s runs on Rust workers; '
            || 'name one of their queues', queue, kind));
    end if;

    -- Its payload. Its schema is checked before it runs.
    if payload is null then
        perform holdfast.refuse_1(prefix, 'payload', 'must not be the SQL null; the JSON null is ''null''::json');
    end if;
    text_of_it := payload::text;
    if octet_length(text_of_it) > (known ->> 'max_payload_bytes')::bigint then
        perform holdfast.refuse_1(prefix, 'payload', format('%s bytes are more than the %s allowed', octet_length(text_of_it),
            known ->> 'max_payload_bytes'), 'payload-too-large', '54000');
    end if;
    level := (known ->> 'max_payload_depth')::integer;
    if length(text_of_it) - length(translate(text_of_it, '{[', '')) > level and holdfast.depth_1(text_of_it, level) > level then
        perform holdfast.refuse_1(prefix, 'payload', format('nested more than %s deep, which is the most', level), 'payload-too-deep', '54000');
    end if;

    -- When, how often, how long.
    delay_ms := holdfast.checked_seconds_1(prefix, 'delay_seconds', options -> 'delay_seconds', 158112000, 'at most 158112000 (five years)');
    run_at := clock_timestamp() + coalesce(delay_ms, 0) * interval '1 millisecond';
    if options -> 'run_at' <> 'null' then
        if delay_ms is not null then
            perform holdfast.refuse_1(prefix, 'run_at', 'give either run_at or delay_seconds, not both');
        elsif options ->> 'run_at' !~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[-+]\d\d:\d\d)$' then
            perform holdfast.refuse_1(prefix, 'run_at', 'must be an RFC 3339 time with an offset, such as "2030-01-31T12:00:00Z"');
        end if;
        begin
            run_at := (options ->> 'run_at')::timestamptz;
        exception when datetime_field_overflow or invalid_datetime_format or invalid_time_zone_displacement_value then
            perform holdfast.refuse_1(prefix, 'run_at', 'must be an RFC 3339 time with an offset, such as "2030-01-31T12:00:00Z"');
        end;
        if run_at > clock_timestamp() + interval '158112000 seconds' then
            perform holdfast.refuse_1(prefix, 'run_at', 'at most five years ahead');
        elsif run_at < 'epoch'::timestamptz then
            perform holdfast.refuse_1(prefix, 'run_at', 'must not be before 1970');
        end if;
        -- A time that has passed means now: claims have come further than that.
        run_at := greatest(run_at, clock_timestamp());
    end if;
    if options -> 'priority' <> 'null' and options -> 'priority' not in ('"high"', '"normal"', '"low"') then
        perform holdfast.refuse_1(prefix, 'priority', 'must be "high", "normal" or "low"');
    end if;
    level := case options ->> 'priority' when 'high' then 0 when 'low' then 2 else 1 end;
    if options -> 'max_attempts' <> 'null' then
        if jsonb_typeof(options -> 'max_attempts') <> 'number' or (options ->> 'max_attempts')::numeric not between 1 and 100
            or (options ->> 'max_attempts')::numeric <> trunc((options ->> 'max_attempts')::numeric) then
            perform holdfast.refuse_1(prefix, 'max_attempts', 'must be a whole number from 1 to 100');
        end if;
        attempts := (options ->> 'max_attempts')::numeric;
    else
        attempts := coalesce(known -> 'kind_attempts' ->> kind, known -> 'queue_attempts' ->> queue, coded ->> 'max_attempts',
                             declared -> 'retry' ->> 'max_attempts', known ->> 'max_attempts')::integer;
    end if;
    timeout_ms := holdfast.checked_seconds_1(prefix, 'timeout_seconds', options -> 'timeout_seconds', 86400,
                                             'must be above 0 and at most 86400 (one day)');
    if (options ->> 'timeout_seconds')::numeric = 0 then
        perform holdfast.refuse_1(prefix, 'timeout_seconds', 'must be above 0 and at most 86400 (one day)');
    end if;
    timeout_ms := coalesce(timeout_ms, (coded ->> 'timeout_ms')::bigint,
                           floor((declared ->> 'timeout_seconds')::numeric * 1000)::bigint, (known ->> 'timeout_ms')::bigint);

    -- Its keys.
    unique_key := holdfast.checked_key_1(prefix, 'unique_key', options -> 'unique_key');
    limit_key := holdfast.checked_key_1(prefix, 'limit_key', options -> 'limit_key');
    idempotency := holdfast.checked_key_1(prefix, 'idempotency_key', options -> 'idempotency_key');
    if idempotency !~ '^[ -~]{1,200}$' then
        perform holdfast.refuse_1(prefix, 'idempotency_key', 'must be 1 to 200 printable ASCII characters');
    end if;
    -- Apart from those of callers over HTTP, whose names have no such prefix.
    idempotency := 'sql/' || idempotency;
    trace := holdfast.checked_key_1(prefix, 'traceparent', options -> 'traceparent');
    if trace !~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then
        perform holdfast.refuse_1(prefix, 'traceparent', 'must be a W3C trace context: 00-<32 hex>-<16 hex>-<2 hex>');
    end if;

    -- A ULID: 48 bits of milliseconds, 80 random ones.
    id := (lpad(to_hex(floor(extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
           || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12) || substr(replace(gen_random_uuid()::text, '-', ''), 25, 8))::uuid;
    duplicate := false;
    for round in 1..5 loop
        insert into @tables.holdfast_jobs
            (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, unique_key, idempotency_key, limit_key, options)
        values (id, queue, kind, payload, level, run_at, attempts, timeout_ms, unique_key, idempotency, limit_key,
                json_strip_nulls(json_build_object('unchecked', true, 'traceparent', trace)))
        on conflict do nothing;
        if found then
            return;
        end if;
        -- What stands in its way. A statement of its own: it sees what was committed while the insert waited.
        select j.id, j.kind, j.payload::text as payload into standing from @tables.holdfast_jobs as j where j.idempotency_key = idempotency;
        if found then
            duplicate := true;
            if standing.kind <> kind or (standing.payload <> text_of_it and standing.payload::jsonb <> payload::jsonb) then
                raise exception using errcode = '23505', column = 'idempotency_key', constraint = 'idempotency-key-reused',
                    message = prefix || 'idempotency_key: it belongs to another job, which has another kind or payload',
                    detail = 'The other job is ' || holdfast.job_id(standing.id) || '.';
            end if;
            id := standing.id;
            return;
        end if;
        select j.id into standing from @tables.holdfast_jobs as j
        where j.kind = kind and j.unique_key = unique_key and j.state in ('available', 'running') limit 1;
        if found then
            duplicate := true;
            id := standing.id;
            return;
        end if;
    end loop;
    raise exception using errcode = '40001', message = 'other jobs took the key and ended again, five times: repeat the transaction';
end $f$
$part$,
$part$
create or replace function holdfast.job_id(id uuid) returns text
language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $f$
    select string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', 1 + substr(bits.all130, 1 + 5 * place, 5)::bit(5)::integer, 1), '' order by place)
    from (select '00' || ('x' || replace(id::text, '-', ''))::bit(128)::text as all130) as bits, generate_series(0, 25) as place
$f$
$part$,
$part$
create or replace function holdfast.enqueue(kind text, payload json, options jsonb default '{}') returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $f$
begin
    return (select one.id from holdfast.insert_1('', kind, payload, options) as one);
end $f$
$part$,
$part$
create or replace function holdfast.enqueue_many(jobs json) returns table ("position" integer, id uuid, duplicate boolean)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $f$
#variable_conflict use_column
declare
    most constant bigint := (select (c.document ->> 'max_batch')::bigint from @tables.holdfast_catalogue as c where c.id = 1);
    job record;
    twice text;
begin
    if jobs is null or json_typeof(jobs) <> 'array' then
        perform holdfast.refuse_1('', 'jobs', 'must be a JSON array of objects with kind, payload and options');
    elsif json_array_length(jobs) = 0 then
        perform holdfast.refuse_1('', 'jobs', 'must hold at least one job', 'batch-empty');
    elsif json_array_length(jobs) > most then
        perform holdfast.refuse_1('', 'jobs', format('%s jobs are more than the %s of one batch', json_array_length(jobs), most),
            'batch-too-large', '54000');
    end if;
    -- Keys are taken in the order of all writers, so that none waits in a circle.
    for job in
        select n.place::integer - 1 as place, n.body, format('jobs[%s].', n.place - 1) as prefix, n.body ->> 'kind' as kind
        from json_array_elements(jobs) with ordinality as n (body, place)
        order by case when n.body ->> 'unique_key' is not null then n.body ->> 'kind' end collate "C" nulls first,
                 n.body ->> 'unique_key' collate "C" nulls first, n.body ->> 'idempotency_key' collate "C" nulls first, n.place
    loop
        if json_typeof(job.body) <> 'object' then
            perform holdfast.refuse_1('', format('jobs[%s]', job.place), 'must be an object with kind, payload and options');
        end if;
        select min(member.key) into twice from (
            select object.key from json_object_keys(job.body) as object (key) group by object.key having count(*) > 1) as member;
        if twice is not null then
            perform holdfast.refuse_1(job.prefix, left(twice, 80), 'is given more than once');
        elsif json_typeof(job.body -> 'kind') is distinct from 'string' then
            perform holdfast.refuse_1(job.prefix, 'kind', 'must be a string');
        elsif job.body -> 'payload' is null then
            perform holdfast.refuse_1(job.prefix, 'payload', 'it is missing');
        end if;
        "position" := job.place;
        select one.id, one.duplicate into id, duplicate
        from holdfast.insert_1(job.prefix, job.kind, job.body -> 'payload',
            (select coalesce(jsonb_object_agg(member.key, member.value::jsonb), '{}') from json_each(job.body) as member
             where member.key not in ('kind', 'payload'))) as one;
        return next;
    end loop;
end $f$
$part$];
begin
    -- Processes that start together take turns. "sqlq" in ASCII.
    perform pg_advisory_xact_lock(1936813169);
    if to_regnamespace('holdfast') is null then
        create schema holdfast;
    end if;
    found := obj_description(to_regprocedure('holdfast.enqueue(text,json,jsonb)'), 'pg_proc');
    if found is not null and not starts_with(found, 'Holdfast enqueues into the tables of the schema ' || tables || '. ') then
        return 'the functions of the schema holdfast belong to another installation in this database. ' || found;
    elsif substring(found from 'Version (\d+)')::integer >= 1 then
        return null;
    end if;
    foreach part in array parts loop
        execute replace(part, '@tables', tables);
    end loop;
    revoke all on function holdfast.enqueue(text, json, jsonb), holdfast.enqueue_many(json), holdfast.job_id(uuid),
        holdfast.refuse_1(text, text, text, text, text), holdfast.checked_key_1(text, text, jsonb),
        holdfast.checked_seconds_1(text, text, jsonb, bigint, text), holdfast.depth_1(text, integer),
        holdfast.insert_1(text, text, json, jsonb) from public;
    execute format('comment on function holdfast.enqueue(text, json, jsonb) is %L', mark);
    return null;
exception when insufficient_privilege then
    return format('the role %s may not make the functions in the schema holdfast: as a role that may create schemas in the database %s, '
        || 'run: create schema if not exists holdfast; grant usage, create on schema holdfast to %s',
        quote_ident(current_user), quote_ident(current_database()), quote_ident(current_user));
end $install$;

do $$
declare
    refused constant text := holdfast_install_enqueue_1();
begin
    if refused is not null then
        raise warning 'holdfast.enqueue was not made: %', refused;
    end if;
end $$;
