//! An application outside of the workspace, which depends on the crate `holdfast` alone.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod application;
mod standalone;
