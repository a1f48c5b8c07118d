//! The checks, `deploy` and `monitor` as their users run them, and the files that platforms read.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod checks;
mod deploy;
mod deployment;
