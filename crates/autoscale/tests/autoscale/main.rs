//! Autoscaling against scripted platforms and real databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

mod beat;
mod kubernetes;
mod railway;

use std::time::Duration;

use holdfast_autoscale::AutoscaleSettings;
use holdfast_core::config::{Settings, Sources, load_from};

/// The settings of a process with this database.
fn settings(database: &str) -> Settings {
    let env = [("DATABASE_URL".to_owned(), database.to_owned())].into();
    load_from(Sources { env, file: None }).unwrap()
}

/// The defaults, with calls that end soon.
fn autoscale() -> AutoscaleSettings {
    let mut settings: AutoscaleSettings = settings("sqlite://unused.db").section();
    settings.timeout = Duration::from_millis(500);
    settings
}
