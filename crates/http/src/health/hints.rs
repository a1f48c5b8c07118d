//! Every hint that the probes of this crate can give; those of Redis' modes are [`DegradedReason::hint`]'s. Each has its
//! remedy in `docs/operations.md`, which a test holds.
//!
//! [`DegradedReason::hint`]: holdfast_core::mode::DegradedReason::hint

macro_rules! hints {
    ($($name:ident = $text:literal;)+) => {
        $(pub const $name: &str = $text;)+

        /// All of them.
        pub const ALL: &[&str] = &[$($name),+];
    };
}

hints! {
    HANGS = "It hangs, or is overloaded: look at its own log and load.";
    MIGRATE = "Wait for the migration, or run `holdfast migrate`.";
    DATABASE_SLOW = "See whether the server runs, and whether it is overloaded.";
    DATABASE_CONNECT = "Start the server, or correct the host and port in DATABASE_URL.";
    DATABASE_EXHAUSTED = "Lower database.max_connections of the processes together, or raise the server's limit.";
    DATABASE_RESTARTING = "Wait; it is retried all the time.";
    DATABASE_READ_ONLY = "Point DATABASE_URL at the primary, or finish the failover.";
    DATABASE_STORAGE = "See the disk: full, read-only, or without permission.";
    DATABASE_REFUSED = "Correct user, password or database name in DATABASE_URL.";
    DATABASE_LOCKED = "Find the process that holds the lock of the SQLite file, and end its transaction.";
    DATABASE_OTHER = "See the log of this service for the cause.";
    SEE_DATABASE = "See the service `database` of this report.";
    START_WORKER = "Start a worker.";
    START_BEAT = "Start a beat, or disable the schedules.";
    BEAT_LATE = "See the logs of the beats, and last_error of the schedules.";
    BEAT_FAILING = "See last_error in GET /v1/schedules, and correct them.";
    SESSIONS_LOCAL = "Start the Redis of the cache; until then a logout reaches other processes within ten seconds.";
    OUTCOMES_HELD = "See the service `ledger` of this report: a lock, or a slow database.";
    WORKER_WAITS = "See the service `database` of this report; where database.migrate_at_start is off, run `holdfast migrate`.";
}
