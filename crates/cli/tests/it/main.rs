//! The built `holdfast` binary, from outside.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod addresses;
mod bench;
mod commands;
mod deploy;
mod dev;
mod example;
mod support;
mod users;
