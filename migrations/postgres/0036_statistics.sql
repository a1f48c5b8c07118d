-- What the workers counted, for charts: crates/jobs/src/statistics. Slots are minutes since the epoch, UTC.

-- What jobs of a kind on a queue came to. The rows of one minute are each process' own and are written again until the minute is over;
-- those of hours and days are sums over all processes, whose `process` is empty.
create table holdfast_stats (
    span      integer          not null,               -- minutes that the row covers: 1, 60 or 1440
    slot      bigint           not null,               -- the first of them
    queue     text collate "C" not null,
    kind      text collate "C" not null,
    process   text collate "C" not null,
    enqueued  bigint           not null,
    completed bigint           not null,
    retried   bigint           not null,               -- attempts that failed and are tried again
    discarded bigint           not null,
    cancelled bigint           not null,
    -- How many waited, and ran, for a time of each bucket (buckets.rs); null: none.
    wait_0 bigint, wait_1 bigint, wait_2 bigint, wait_3 bigint, wait_4 bigint, wait_5 bigint, wait_6 bigint, wait_7 bigint, wait_8 bigint, wait_9 bigint,
    wait_10 bigint, wait_11 bigint, wait_12 bigint, wait_13 bigint, wait_14 bigint, wait_15 bigint, wait_16 bigint, wait_17 bigint, wait_18 bigint, wait_19 bigint,
    run_0 bigint, run_1 bigint, run_2 bigint, run_3 bigint, run_4 bigint, run_5 bigint, run_6 bigint, run_7 bigint, run_8 bigint, run_9 bigint,
    run_10 bigint, run_11 bigint, run_12 bigint, run_13 bigint, run_14 bigint, run_15 bigint, run_16 bigint, run_17 bigint, run_18 bigint, run_19 bigint,
    primary key (span, slot, queue, kind, process)
) with (fillfactor = 70);

-- The depth of a queue: at some time of the minute, and the largest of an hour or a day.
create table holdfast_stat_gauges (
    span          integer          not null,
    slot          bigint           not null,
    queue         text collate "C" not null,
    available     bigint           not null,
    scheduled     bigint           not null,
    retryable     bigint           not null,
    running       bigint           not null,
    discarded     bigint           not null,
    oldest_age_ms bigint           not null,           -- of the due jobs
    primary key (span, slot, queue)
);

-- When a process could not use a dependency. Without `ended_at` it goes on, or the process died soon after `seen_at`.
create table holdfast_stat_outages (
    id         text collate "C" primary key,
    process    text        not null,
    dependency text        not null,                   -- redis or database
    reason     text        not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null,
    ended_at   timestamptz
);
create index holdfast_stat_outages_started on holdfast_stat_outages (started_at);

-- What one process does for all: the last slot that it was done for.
create table holdfast_stat_duties (
    name text collate "C" primary key,
    slot bigint not null
);
