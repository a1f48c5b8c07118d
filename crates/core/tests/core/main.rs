//! The integration tests of this crate, in one binary: linking takes longer than running most of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

mod config;
mod redis_cluster;
mod redis_gate;
mod redis_outages;
mod redis_sentinel;
mod redis_support;
mod sql_gate;
mod sql_gate_sqlite;
mod sql_postgres;
mod sql_sqlite;
