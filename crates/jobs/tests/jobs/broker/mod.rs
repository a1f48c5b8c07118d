//! The broker against a real Redis server: every script, every lost answer, every lost key.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

mod cluster;
mod finishes;
mod leases;
mod lookups;
mod lost_keys;
mod members;
mod pushes;
mod speed;
pub(crate) mod support;
