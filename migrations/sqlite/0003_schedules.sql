-- Schedules and the beats that tick them. The rules: crates/jobs/src/schedules.
-- Times are milliseconds since the epoch, ids are 16 bytes, JSON is text.

create table holdfast_schedules (
    name          text    primary key,
    source        text    not null check (source in ('api', 'config')),
    enabled       integer not null,
    cron          text,                                   -- either this
    every_seconds integer,                                -- or this
    time_zone     text    not null,
    kind          text    not null,
    payload       text    not null,
    queue         text,                                   -- null: the kind's own
    catch_up      text    not null check (catch_up in ('skip', 'latest', 'all')),
    catch_up_max  integer not null,
    jitter_ms     integer not null,
    revision      integer not null default 1,             -- one higher with each edit
    next_tick     integer,                                -- null: it never comes
    last_tick     integer,
    last_run_at   integer,
    last_job      blob,
    last_error    text,
    created_at    integer not null,
    updated_at    integer not null,
    check ((cron is null) <> (every_seconds is null))
) without rowid;

create index holdfast_schedules_due on holdfast_schedules (next_tick) where enabled;

-- For people and `/health`: nothing about a tick depends on these rows.
create table holdfast_beats (
    id         blob    primary key,
    name       text    not null,
    started_at integer not null,
    seen_at    integer not null
) without rowid;

-- How often a job was put back by its own wish, which spends no attempt and is bounded: crates/jobs/src/retry.rs.
alter table holdfast_jobs add column snoozes integer not null default 0;
