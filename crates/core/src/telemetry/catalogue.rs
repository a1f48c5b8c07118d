//! Every metric there is. What is not declared here cannot be recorded; what is declared here must be described in
//! `docs/operations.md`, and the alerts in `deploy/prometheus/rules.yml` may name nothing else (tests hold both).
//!
//! Names: `holdfast_<subject>_<what>[_<unit>]`, base units (seconds, bytes), counters end in `_total`. Labels: see the
//! invariants of [`metrics`](super::metrics). Add a metric in the section of its subject.

use super::metrics::{Counters, Definition, Gauges, Histograms, JOB_BUCKETS, LATENCY_BUCKETS, MetricKind};

/// Declares metrics: `/// help`, `NAME: Counter "name" [labels];`, a histogram with its buckets after the labels.
macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $ident:ident: $kind:ident $name:literal [$($label:literal),*] $($buckets:ident)?;)+) => {
        $(
            $(#[doc = $help])+
            pub static $ident: family!($kind, { <[&str]>::len(&[$($label),*]) }) = {
                const DEFINITION: Definition = Definition {
                    name: $name,
                    kind: MetricKind::$kind,
                    labels: &[$($label),*],
                    help: concat!($($help),+).trim_ascii(),
                    buckets: buckets!($($buckets)?),
                };
                wrap!($kind, DEFINITION)
            };
        )+

        /// All of them, in the order of their declaration.
        pub static ALL: &[&Definition] = &[$(&$ident.0),+];
    };
}

macro_rules! family {
    (Counter, $n:expr) => { Counters<$n> };
    (Gauge, $n:expr) => { Gauges<$n> };
    (Histogram, $n:expr) => { Histograms<$n> };
}

macro_rules! wrap {
    (Counter, $definition:expr) => {
        Counters($definition)
    };
    (Gauge, $definition:expr) => {
        Gauges($definition)
    };
    (Histogram, $definition:expr) => {
        Histograms($definition)
    };
}

macro_rules! buckets {
    () => {
        &[]
    };
    ($buckets:ident) => {
        $buckets
    };
}

catalogue! {
    // --- HTTP --------------------------------------------------------------------------------------------------------

    /// Requests answered, by method, route pattern and status class.
    HTTP_REQUESTS: Counter "holdfast_http_requests_total" ["method", "route", "status"];
    /// Time from a request's head to its answer's head, long polls included.
    HTTP_DURATION: Histogram "holdfast_http_request_duration_seconds" ["method", "route"] LATENCY_BUCKETS;

    // --- jobs --------------------------------------------------------------------------------------------------------

    /// Jobs accepted, by kind and by where they are stored: ledger or redis.
    JOBS_ENQUEUED: Counter "holdfast_jobs_enqueued_total" ["kind", "durability"];
    /// Executions ended, by kind and outcome: completed, retry, snoozed, discarded, cancelled, handed_back.
    JOB_EXECUTIONS: Counter "holdfast_job_executions_total" ["kind", "outcome"];
    /// Failed attempts, by kind and class of the error: transient, permanent, timeout, panic.
    JOB_FAILURES: Counter "holdfast_job_failures_total" ["kind", "class"];
    /// How long an execution took, whatever its outcome.
    JOB_DURATION: Histogram "holdfast_job_duration_seconds" ["kind"] JOB_BUCKETS;
    /// Time from a job's due time to its start, by queue. It compares two hosts' clocks.
    JOB_PICKUP: Histogram "holdfast_job_pickup_seconds" ["queue"] JOB_BUCKETS;
    /// Jobs of lost workers that were returned to their queues.
    JOBS_RESCUED: Counter "holdfast_jobs_rescued_total" [];
    /// Jobs discarded as poison: their workers crashed too often.
    JOBS_POISONED: Counter "holdfast_jobs_poisoned_total" [];
    /// Jobs discarded because this version cannot read their rows, by queue.
    JOBS_UNREADABLE: Counter "holdfast_jobs_unreadable_total" ["queue"];
    /// Outcomes that arrived after the job's lease was lost.
    JOB_OUTCOMES_VOID: Counter "holdfast_job_outcomes_void_total" [];
    /// Jobs that this process runs now.
    WORKER_RUNNING: Gauge "holdfast_worker_running_jobs" [];
    /// Time since this worker last reached a queue.
    WORKER_SILENCE: Gauge "holdfast_worker_silence_seconds" [];

    /// Outcomes that the ledger did not store at the first try, held by this worker.
    WORKER_HELD: Gauge "holdfast_worker_held_outcomes" [];
    /// Keys of jobs that other open transactions hold, as this process found them.
    HELD_KEYS: Gauge "holdfast_enqueue_held_keys" [];

    // --- discovery ---------------------------------------------------------------------------------------------------

    /// Runs of sources, by outcome: ok, unchanged, failed.
    DISCOVERY_RUNS: Counter "holdfast_discovery_runs_total" ["status"];
    /// Entries of sources, by outcome: inserted, changed, unchanged, duplicate, outside, skipped.
    DISCOVERY_EVENTS: Counter "holdfast_discovery_events_total" ["outcome"];

    // --- autoscaling -------------------------------------------------------------------------------------------------

    /// Decisions about a service by the beat that leads: keep, wait, distrust, raise, lower, changing, failed.
    AUTOSCALE_ROUNDS: Counter "holdfast_autoscale_rounds_total" ["decision"];

    // --- queues, as counted in the database ---------------------------------------------------------------------------

    /// Jobs in a queue, by state: available, scheduled, retryable, running, discarded.
    QUEUE_JOBS: Gauge "holdfast_queue_jobs" ["queue", "state"];
    /// Age of the oldest due job that waits.
    QUEUE_OLDEST: Gauge "holdfast_queue_oldest_age_seconds" ["queue"];
    /// 1 while the queue is paused.
    QUEUE_PAUSED: Gauge "holdfast_queue_paused" ["queue"];
    /// Workers with a recent heartbeat.
    WORKERS_ALIVE: Gauge "holdfast_workers_alive" [];

    /// 1 while due jobs wait, a worker has free places and no job of the queue ends.
    QUEUE_STALLED: Gauge "holdfast_queue_stalled" ["queue"];

    // --- faults of the ledger, as this process found them --------------------------------------------------------------

    /// Faults found, by kind: see the runbook.
    FAULTS: Gauge "holdfast_faults" ["kind"];
    /// Running jobs without a living worker: orphaned (its row is gone) or silent.
    JOBS_LOST: Gauge "holdfast_jobs_lost" ["worker"];
    /// Running jobs beyond their timeout.
    JOBS_OVERDUE: Gauge "holdfast_jobs_overdue" [];
    /// Sessions that wait for a lock, of five at most.
    SQL_LOCK_WAITS: Gauge "holdfast_sql_lock_waits" [];
    /// How long the oldest transaction has been open.
    SQL_OLDEST_TRANSACTION: Gauge "holdfast_sql_oldest_transaction_seconds" [];
    /// Transactions since the oldest snapshot in use.
    SQL_OLDEST_XMIN: Gauge "holdfast_sql_oldest_xmin_age" [];
    /// Dead rows of a table, as the server estimates them.
    SQL_DEAD_ROWS: Gauge "holdfast_sql_dead_rows" ["table"];
    /// Time since a table was vacuumed.
    SQL_VACUUM_AGE: Gauge "holdfast_sql_vacuum_age_seconds" ["table"];
    /// Connections of the database server, by state: used, max.
    SQL_SERVER_CONNECTIONS: Gauge "holdfast_sql_server_connections" ["state"];
    /// Size of the embedded database's write-ahead log.
    SQL_LOG_BYTES: Gauge "holdfast_sql_log_bytes" [];

    // --- bell and maintenance -----------------------------------------------------------------------------------------

    /// Bells rung over Redis, by outcome: sent, failed.
    BELL_RINGS: Counter "holdfast_bell_rings_total" ["outcome"];
    /// Steps of the maintenance duties, by duty and outcome: ok, failed.
    MAINTENANCE_STEPS: Counter "holdfast_maintenance_steps_total" ["duty", "outcome"];
    /// Rows or entries that a duty returned or removed.
    MAINTENANCE_ITEMS: Counter "holdfast_maintenance_items_total" ["duty"];

    // --- SQL ---------------------------------------------------------------------------------------------------------

    /// How long a statement took, the wait for a connection included, by operation.
    SQL_DURATION: Histogram "holdfast_sql_statement_duration_seconds" ["operation"] LATENCY_BUCKETS;
    /// Statements that failed, by operation and class: transient, permanent.
    SQL_FAILURES: Counter "holdfast_sql_statement_failures_total" ["operation", "class"];
    /// Connections of the pool, by state: idle, in_use.
    SQL_POOL: Gauge "holdfast_sql_pool_connections" ["state"];
    /// Most connections the pool may have.
    SQL_POOL_MAX: Gauge "holdfast_sql_pool_max_connections" [];
    /// Statements abandoned while they ran on the server, by operation: after their deadline, or when their caller left.
    SQL_ABANDONED: Counter "holdfast_sql_abandoned_total" ["operation"];
    /// Connections with an abandoned statement that may still run on the server. Each keeps its place in the pool.
    SQL_ABANDONED_NOW: Gauge "holdfast_sql_abandoned_connections" [];
    /// 1 for the position of the database's breaker, 0 for the others: closed, open, half_open.
    SQL_BREAKER: Gauge "holdfast_sql_breaker" ["state"];
    /// Changes of the database's mode, by new mode: normal, degraded.
    SQL_MODE_CHANGES: Counter "holdfast_sql_mode_changes_total" ["to"];

    // --- Redis -------------------------------------------------------------------------------------------------------

    /// Calls through the gate, by role and outcome: ok, failed, timed_out, saturated, unavailable.
    REDIS_CALLS: Counter "holdfast_redis_calls_total" ["role", "outcome"];
    /// How long calls that were sent took, the wait for a place included.
    REDIS_DURATION: Histogram "holdfast_redis_call_duration_seconds" ["role"] LATENCY_BUCKETS;
    /// Connections of the role's gate, by state: available, in_use.
    REDIS_POOL: Gauge "holdfast_redis_pool_connections" ["role", "state"];
    /// Most connections the role's gate may have.
    REDIS_POOL_MAX: Gauge "holdfast_redis_pool_max_connections" ["role"];
    /// Calls that wait for a place or a connection.
    REDIS_POOL_WAITING: Gauge "holdfast_redis_pool_waiting_calls" ["role"];
    /// 1 for the breaker's position, 0 for the others: closed, open, half_open.
    REDIS_BREAKER: Gauge "holdfast_redis_breaker" ["role", "state"];
    /// 1 for the mode, 0 for the others: normal, degraded, absent.
    REDIS_MODE: Gauge "holdfast_redis_mode" ["role", "mode"];
    /// Changes of the mode, by new mode: normal, degraded.
    REDIS_MODE_CHANGES: Counter "holdfast_redis_mode_changes_total" ["role", "to"];

    // --- the cache ---------------------------------------------------------------------------------------------------

    /// Reads of the cache, by class and outcome: hit_local, hit_redis, stale, miss.
    CACHE_READS: Counter "holdfast_cache_reads_total" ["class", "outcome"];
    /// Loads by the cache, by class and outcome: ok, failed.
    CACHE_LOADS: Counter "holdfast_cache_loads_total" ["class", "outcome"];
    /// Operations of the cache without Redis, by class.
    CACHE_DEGRADED: Counter "holdfast_cache_degraded_total" ["class"];
    /// Bytes that the copies in this process take.
    CACHE_LOCAL: Gauge "holdfast_cache_local_bytes" [];
    /// Changes of the cache that are not applied on Redis yet.
    CACHE_PENDING: Gauge "holdfast_cache_pending_changes" [];

    // --- the process -------------------------------------------------------------------------------------------------

    /// 1, with the version of the binary.
    BUILD_INFO: Gauge "holdfast_build_info" ["version"];
    /// When the process began, in seconds since the Unix epoch.
    PROCESS_START: Gauge "process_start_time_seconds" [];
    /// Resident memory.
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" [];
    /// CPU time used by user and system.
    PROCESS_CPU: Gauge "process_cpu_seconds" [];
    /// Open file descriptors.
    PROCESS_FDS: Gauge "process_open_fds" [];
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_convention_and_are_unique() {
        let mut seen = HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is declared twice");
            assert!(
                name.starts_with("holdfast_") || name.starts_with("process_"),
                "{name}"
            );
            let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(plain(name) && metric.labels.iter().copied().all(plain), "{name}");
            assert_eq!(
                metric.kind == MetricKind::Counter,
                name.ends_with("_total"),
                "{name}"
            );
            assert_eq!(
                metric.kind == MetricKind::Histogram,
                !metric.buckets.is_empty(),
                "{name}"
            );
            assert!(metric.buckets.is_sorted(), "{name}");
            assert!(
                metric.help.ends_with('.') && metric.help.len() > 10,
                "{name}: {:?}",
                metric.help
            );
            assert!(!metric.labels.contains(&"le"), "{name}: le belongs to histograms");
        }
    }
}
