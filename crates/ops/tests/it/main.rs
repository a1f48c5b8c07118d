//! `redis-check`, `validate` and `monitor` as their users run them, against real servers: sound ones, and ones that are
//! broken in one way each.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod files;
mod monitor;
mod redis_check;
mod support;
mod system;
mod validate;
