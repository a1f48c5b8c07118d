//! The files that platforms read: each is parsed, has only fields that its platform knows, and says what the code says
//! (commands, port, routes, settings, grace). What they start is started here, as processes.
//!
//! `.env.example` is brought up to date by `scripts/generate`.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod commands;
mod env_example;
mod env_text;
mod fields;
mod files;
mod grafana;
mod image;
mod kubernetes;
mod platforms;
mod railway;
mod redis;
mod systemd;
