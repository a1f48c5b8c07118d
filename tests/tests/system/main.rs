//! The integration tests of this crate, in one binary: linking takes longer than running most of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: what is not as expected must stop the test at once"
)]

mod attacks;
mod batches_and_chains;
mod chaos_processes;
mod chaos_redis;
mod chaos_redis_layouts;
mod chaos_seeds;
mod chaos_slow;
mod chaos_sql;
mod chaos_support;
mod main_job;
mod news;
mod pause;
mod previous_release;
mod queue_limits;
mod schedules;
