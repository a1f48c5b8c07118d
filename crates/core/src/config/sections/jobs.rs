//! The settings of the engine: jobs and their retries, workers, beats, the audit log.

use std::time::Duration;

use super::super::declare::{bytes, count, flag, list, millis, seconds};
use crate::settings;

settings! {
    ["jobs"]
    /// How long accepted jobs are tried and stored.
    #[derive(Debug, Clone)]
    pub struct JobsSettings {
        /// Largest payload in bytes, {range}. Store larger data in object storage, and its address in the job.
        max_payload_bytes: usize = bytes(262_144, 1..=67_108_864);
        /// Deepest nesting of a payload, {range}. JSON parsers recurse.
        max_payload_depth: usize = count(32, 1..=120);
        /// Largest number of jobs in one batch request, {range}.
        max_batch: usize = count(10_000, 1..=100_000);
        /// Timeout of a kind that sets none, in seconds, {range}.
        default_timeout: Duration = seconds(300.0, 0.1..=86_400.0);
        /// How long completed and cancelled jobs are stored, in seconds, {range}. A day.
        retain_completed: Duration = seconds(86_400.0, 0.0..=31_536_000.0);
        /// How long discarded jobs (dead letters) are stored, in seconds, {range}. Thirty days.
        retain_discarded: Duration = seconds(2_592_000.0, 0.0..=315_360_000.0);
        /// How long batches are stored after their end, in seconds, {range}. A week. Their jobs are stored as long as others.
        retain_batches: Duration = seconds(604_800.0, 0.0..=315_360_000.0);
        /// How long the outcome of a job of a `redis` queue is stored on Redis, in seconds, {range}.
        broker_result_ttl: Duration = seconds(60.0, 1.0..=86_400.0);
    }
    sections {
        /// The default retry policy; a kind and a job may each set their own.
        retry: RetrySettings;
    }
}

settings! {
    ["jobs.retry"]
    /// The default retry policy. The order is: the job's own number of attempts, `[kinds."NAME".retry]`,
    /// `[queues.NAME.retry]`, the kind's code, this section; for each setting separately.
    #[derive(Debug, Clone, Copy, PartialEq)]
    pub struct RetrySettings {
        /// Largest number of attempts, the first included, {range}.
        max_attempts: u32 = count(4, 1..=100);
        /// Longest delay after the first failure, doubled after each further one, in seconds, {range}.
        base: Duration = seconds(60.0, 0.0..=86_400.0);
        /// Longest delay, in seconds, {range}.
        cap: Duration = seconds(600.0, 0.0..=604_800.0);
        /// Whether each delay is drawn uniformly between zero and its maximum, so that jobs that failed together do not return
        /// together.
        jitter: bool = flag(true);
    }
}

settings! {
    ["worker"]
    /// A worker process.
    #[derive(Debug, Clone)]
    pub struct WorkerSettings {
        /// Queues that this process serves; empty means every queue. In the environment: names with commas between.
        queues: Vec<String> = list();
        /// Jobs of all queues together that this process runs concurrently, {range}. 0: the sum of the queues' own limits. A
        /// smaller limit is divided by the queues' weights, so that none starves.
        concurrency: usize = count(0, 0..=100_000);
        /// Largest number of jobs claimed by one statement, {range}. 200 to 500 measured best.
        batch_size: usize = count(500, 1..=10_000);
        /// Interval between a worker's heartbeats, in seconds, {range}.
        heartbeat: Duration = seconds(5.0, 0.1..=300.0);
        /// A worker without a heartbeat for this long is lost, and its jobs are rescued, in seconds, {range}. At least two
        /// heartbeats; three, so that a single lost one is no crash.
        lost_after: Duration = seconds(15.0, 0.2..=3600.0);
        /// How often an idle worker polls the ledger without a wake-up, in seconds, {range}. Raise it above 300 to let a database
        /// that scales to zero sleep.
        safety_poll: Duration = seconds(5.0, 0.05..=3600.0);
        /// Shortest pause between polls while Redis is unavailable, in milliseconds, {range}: used while jobs are found.
        degraded_poll_min: Duration = millis(50, 1..=60_000);
        /// Longest pause between polls while Redis is unavailable, in milliseconds, {range}: used while no jobs are found.
        degraded_poll_max: Duration = millis(250, 1..=60_000);
        /// How often an idle worker polls a `redis` queue for jobs that stock apalis-redis pushed without a wake-up, in seconds,
        /// {range}.
        broker_poll: Duration = seconds(1.0, 0.05..=3600.0);
        /// How often a worker with running jobs asks whether one was cancelled, in seconds, {range}.
        control_poll: Duration = seconds(1.0, 0.05..=3600.0);
        /// A worker that could neither fetch nor heartbeat for this long while its dependencies answer exits with an error, in
        /// seconds, {range}. Longer than `lost_after_seconds`: by then its jobs are rescued anyway.
        watchdog: Duration = seconds(60.0, 1.0..=86_400.0);
        /// Number of crashes after which a job is discarded as poison, {range}.
        max_crashes: u32 = count(3, 1..=100);
        /// Period of the maintenance duties (rescuer, pruner, janitor), in seconds, {range}.
        maintenance: Duration = seconds(2.0, 0.05..=3600.0);
        /// How long a cancelled job may continue before it is dropped, in seconds, {range}.
        cancel_grace: Duration = seconds(10.0, 0.0..=3600.0);
    }
}

settings! {
    ["beat"]
    /// A scheduler process.
    #[derive(Debug, Clone)]
    pub struct BeatSettings {
        /// Longest time until a beat notices a new or changed schedule, in seconds, {range}. Raise it above 300 to let a database
        /// that scales to zero sleep; known ticks are still in time.
        poll: Duration = seconds(1.0, 0.05..=3600.0);
        /// A tick that is later than this is missed, in seconds, {range}: a schedule with catch_up "skip" drops it.
        missed_after: Duration = seconds(10.0, 0.1..=86_400.0);
        /// Largest number of schedules that are processed together, {range}.
        batch_size: usize = count(500, 1..=1000);
        /// Interval between a beat's heartbeats, in seconds, {range}. Only for `/health`: no tick depends on it.
        heartbeat: Duration = seconds(5.0, 0.1..=300.0);
        /// A beat without a heartbeat for this long is not alive, in seconds, {range}.
        lost_after: Duration = seconds(15.0, 0.2..=3600.0);
    }
}

settings! {
    ["audit"]
    /// The log of administrative actions.
    #[derive(Debug, Clone)]
    pub struct AuditSettings {
        /// How long the log of administrative actions is stored, in seconds, {range}. A year. The Idempotency-Key of a bulk
        /// operation is stored as long.
        retain: Duration = seconds(31_536_000.0, 3600.0..=315_360_000.0);
    }
}
