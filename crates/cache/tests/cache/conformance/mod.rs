//! The cache's contract, on a real Redis: there, away, and coming and going.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

mod cluster;
mod coherence;
mod conditions;
mod loading;
mod outages;
mod sessions;
mod support;
mod values;
