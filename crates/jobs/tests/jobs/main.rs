//! The integration tests of this crate, in one binary: linking takes longer than running most of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

mod bell;
mod broker;
mod diagnosis;
mod follow_ups;
mod frontier;
mod held_keys;
mod held_outcomes;
mod lease;
mod lease_model;
mod ledger_contract;
mod limits;
mod operations;
mod previous_release;
mod pull;
mod schedules;
mod sql_enqueue;
mod statement_pairs;
mod statistics;
mod stock_apalis;
mod support;
mod worker;
