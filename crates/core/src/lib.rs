//! What every Holdfast crate stands on: configuration, the Redis gate, SQL pools, the failure table, backoff,
//! the clock, shutdown and telemetry. Nothing here knows what a job is.

pub mod arguments;
pub mod backoff;
mod breaker;
pub mod build;
pub mod clock;
pub mod config;
pub mod encryption;
pub mod failpoint;
pub mod failure;
pub mod id;
pub mod mode;
mod outage;
pub mod redis;
pub mod service;
pub mod shutdown;
pub mod sql;
pub mod telemetry;
pub mod waiters;
