//! Notifications on real databases, with a real worker, told to real receivers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

mod accounts;
mod deletion;
mod endpoints;
mod mail;
mod official;
mod support;
mod webhooks;
