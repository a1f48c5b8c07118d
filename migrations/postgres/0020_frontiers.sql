-- Where the claims of a queue have come to, for processes that do not know yet: crates/jobs/src/ledger/postgres/frontier.rs.
-- Written seldom, since beside an old transaction each write leaves a version that every reader walks past.
create table holdfast_frontiers (
    queue    text        not null,
    priority smallint    not null,
    run_at   timestamptz not null,
    job      uuid        not null,
    primary key (queue, priority)
);
