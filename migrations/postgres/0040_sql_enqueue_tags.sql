-- The second version of holdfast.enqueue and holdfast.enqueue_many: `tags` and `expires_at`, and who enqueued a job. What is not here is
-- as in 0030. The release before leaves functions of a later version alone.

-- As holdfast_install_enqueue_1, which it calls for what is not there yet.
create function holdfast_install_enqueue_2() returns text
language plpgsql volatile as $install$
declare
    tables constant text := (select quote_ident(n.nspname) from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                             where c.oid = 'holdfast_jobs'::regclass);
    mark constant text := 'Holdfast enqueues into the tables of the schema ' || tables || '. Version 2.';
    refused constant text := holdfast_install_enqueue_1();
    may_create constant boolean := coalesce(has_schema_privilege(to_regnamespace('holdfast'), 'create'), false);
    part constant text :=
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
    tags         text;
    expires_at   timestamptz;
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
    where object.key <> all ('{queue,run_at,delay_seconds,priority,max_attempts,timeout_seconds,unique_key,limit_key,idempotency_key,traceparent,tags,expires_at}'::text[]);
    if unknown is not null then
        perform holdfast.refuse_1(prefix, left(unknown, 80), 'unknown option; there are queue, run_at, delay_seconds, priority, '
            || 'max_attempts, timeout_seconds, unique_key, limit_key, idempotency_key, traceparent, tags, expires_at');
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
    if options -> 'expires_at' <> 'null' then
        if options ->> 'expires_at' !~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[-+]\d\d:\d\d)$' then
            perform holdfast.refuse_1(prefix, 'expires_at', 'must be an RFC 3339 time with an offset, such as "2030-01-31T12:00:00Z"');
        end if;
        begin
            expires_at := (options ->> 'expires_at')::timestamptz;
        exception when datetime_field_overflow or invalid_datetime_format or invalid_time_zone_displacement_value then
            perform holdfast.refuse_1(prefix, 'expires_at', 'must be an RFC 3339 time with an offset, such as "2030-01-31T12:00:00Z"');
        end;
        if expires_at > clock_timestamp() + interval '158112000 seconds' then
            perform holdfast.refuse_1(prefix, 'expires_at', 'at most five years ahead');
        elsif expires_at < 'epoch'::timestamptz then
            perform holdfast.refuse_1(prefix, 'expires_at', 'must not be before 1970');
        end if;
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

    if options -> 'tags' <> 'null' then
        if jsonb_typeof(options -> 'tags') <> 'array' then
            perform holdfast.refuse_1(prefix, 'tags', 'must be an array of strings');
        elsif jsonb_array_length(options -> 'tags') > 8 then
            perform holdfast.refuse_1(prefix, 'tags', format('%s are more than the 8 allowed', jsonb_array_length(options -> 'tags')));
        end if;
        for standing in select t.value, t.place - 1 as place from jsonb_array_elements(options -> 'tags') with ordinality as t (value, place) loop
            if jsonb_typeof(standing.value) <> 'string' or standing.value = '""' or char_length(standing.value #>> '{}') > 64
                or standing.value #>> '{}' ~ '[\u0001-\u001f\u007f-\u009f]' then
                perform holdfast.refuse_1(prefix, format('tags[%s]', standing.place),
                    'must have 1 to 64 characters, none of them a control character');
            end if;
        end loop;
        if (select count(*) <> count(distinct t.value) from jsonb_array_elements(options -> 'tags') as t (value)) then
            perform holdfast.refuse_1(prefix, 'tags', 'must name each tag once');
        end if;
        tags := nullif(options ->> 'tags', '[]');
    end if;

    -- A ULID: 48 bits of milliseconds, 80 random ones.
    id := (lpad(to_hex(floor(extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
           || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12) || substr(replace(gen_random_uuid()::text, '-', ''), 25, 8))::uuid;
    duplicate := false;
    for round in 1..5 loop
        insert into @tables.holdfast_jobs
            (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, unique_key, idempotency_key, limit_key, options,
             expires_at, tags, enqueued_by)
        values (id, queue, kind, payload, level, run_at, attempts, timeout_ms, unique_key, idempotency, limit_key,
                json_strip_nulls(json_build_object('unchecked', true, 'traceparent', trace, 'expires_at',
                    to_char(expires_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))),
                expires_at, tags, left('sql/' || session_user, 255))
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
$part$;
begin
    if refused is not null
        or substring(obj_description(to_regprocedure('holdfast.enqueue(text,json,jsonb)'), 'pg_proc') from 'Version (\d+)')::integer >= 2 then
        return refused;
    end if;
    -- Processes that start together take turns, as in 0030.
    perform pg_advisory_xact_lock(1936813169);
    -- 0033 takes the right to make anything in the schema from a role of its name, which owns it all the same.
    if not may_create then
        execute format('grant create on schema holdfast to %I', current_user);
    end if;
    execute replace(part, '@tables', tables);
    execute format('comment on function holdfast.enqueue(text, json, jsonb) is %L', mark);
    if not may_create then
        execute format('revoke create on schema holdfast from %I', current_user);
    end if;
    return null;
exception when insufficient_privilege then
    return format('the functions of the schema holdfast are those of an earlier release, and the role %s may not replace them: start this '
        || 'release once as their owner', quote_ident(current_user));
end $install$;

do $$
declare
    refused constant text := holdfast_install_enqueue_2();
begin
    if refused is not null then
        raise warning 'holdfast.enqueue was not made: %', refused;
    end if;
end $$;
