-- Schedules and the beats that tick them. The rules: crates/jobs/src/schedules.

create table holdfast_schedules (
    name          text        primary key,
    source        text        not null check (source in ('api', 'config')),
    enabled       boolean     not null,
    cron          text,                                   -- either this
    every_seconds bigint,                                 -- or this
    time_zone     text        not null,
    kind          text        not null,
    payload       jsonb       not null,
    queue         text,                                   -- null: the kind's own
    catch_up      text        not null check (catch_up in ('skip', 'latest', 'all')),
    catch_up_max  integer     not null,
    jitter_ms     bigint      not null,
    revision      bigint      not null default 1,         -- one higher with each edit
    next_tick     timestamptz,                            -- null: it never comes
    last_tick     timestamptz,
    last_run_at   timestamptz,
    last_job      uuid,
    last_error    text,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    check ((cron is null) <> (every_seconds is null))
) with (fillfactor = 70);

create index holdfast_schedules_due on holdfast_schedules (next_tick) where enabled;

-- For people and `/health`: nothing about a tick depends on these rows.
create table holdfast_beats (
    id         uuid        primary key,
    name       text        not null,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now()
);

-- How often a job was put back by its own wish, which spends no attempt and is bounded: crates/jobs/src/retry.rs.
alter table holdfast_jobs add column snoozes integer not null default 0;
