//! Applications that depend on the crate `holdfast` alone, one of them outside of the workspace.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod application;
mod example;
mod standalone;
