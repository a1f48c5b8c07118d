-- What the workers counted, for charts: crates/jobs/src/statistics. Slots are minutes since the epoch, UTC.

-- What jobs of a kind on a queue came to. The rows of one minute are each process' own and are written again until the minute is over;
-- those of hours and days are sums over all processes, whose `process` is empty.
create table holdfast_stats (
    span      integer not null,                        -- minutes that the row covers: 1, 60 or 1440
    slot      integer not null,                        -- the first of them
    queue     text    not null,
    kind      text    not null,
    process   text    not null,
    enqueued  integer not null,
    completed integer not null,
    retried   integer not null,                        -- attempts that failed and are tried again
    discarded integer not null,
    cancelled integer not null,
    -- How many waited, and ran, for a time of each bucket (buckets.rs); null: none.
    wait_0 integer, wait_1 integer, wait_2 integer, wait_3 integer, wait_4 integer, wait_5 integer, wait_6 integer, wait_7 integer, wait_8 integer, wait_9 integer,
    wait_10 integer, wait_11 integer, wait_12 integer, wait_13 integer, wait_14 integer, wait_15 integer, wait_16 integer, wait_17 integer, wait_18 integer, wait_19 integer,
    run_0 integer, run_1 integer, run_2 integer, run_3 integer, run_4 integer, run_5 integer, run_6 integer, run_7 integer, run_8 integer, run_9 integer,
    run_10 integer, run_11 integer, run_12 integer, run_13 integer, run_14 integer, run_15 integer, run_16 integer, run_17 integer, run_18 integer, run_19 integer,
    primary key (span, slot, queue, kind, process)
) without rowid;

-- The depth of a queue: at some time of the minute, and the largest of an hour or a day.
create table holdfast_stat_gauges (
    span          integer not null,
    slot          integer not null,
    queue         text    not null,
    available     integer not null,
    scheduled     integer not null,
    retryable     integer not null,
    running       integer not null,
    discarded     integer not null,
    oldest_age_ms integer not null,                    -- of the due jobs
    primary key (span, slot, queue)
) without rowid;

-- When a process could not use a dependency. Without `ended_at` it goes on, or the process died soon after `seen_at`.
create table holdfast_stat_outages (
    id         text    not null primary key,
    process    text    not null,
    dependency text    not null,                       -- redis or database
    reason     text    not null,
    started_at integer not null,
    seen_at    integer not null,
    ended_at   integer
);
create index holdfast_stat_outages_started on holdfast_stat_outages (started_at);

-- What one process does for all: the last slot that it was done for.
create table holdfast_stat_duties (
    name text    not null primary key,
    slot integer not null
);
