//! The built `holdfast-bench` binary, from outside.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod recommend;
