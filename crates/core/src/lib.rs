//! What every Holdfast crate stands on: configuration, the Redis gate, SQL pools, the failure table, backoff,
//! the clock, shutdown and telemetry. Nothing here knows what a job is.

pub mod backoff;
pub mod build;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod failure;
pub mod mode;
pub mod redis;
pub mod shutdown;
pub mod sql;
pub mod telemetry;
