//! What concerns several products at once, on real databases: the list of kinds, discovery with its announcements, and the
//! preferences, export and deletion of a user.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

mod accounts;
mod deletion;
mod discover;
mod encryption;
mod events;
mod kinds;
/// The one of the tests of `holdfast-notify`.
#[path = "../../../notify/tests/notify/official.rs"]
#[allow(dead_code, reason = "the tests of webhooks use all of it")]
mod official;
mod schemas;
/// The one of the tests of `holdfast-notify`, over all products.
#[path = "../../../notify/tests/notify/support.rs"]
#[allow(dead_code, reason = "the tests of webhooks and mail use all of it")]
mod support;

use holdfast_core::config::Settings;
use holdfast_jobs::Resources;
use holdfast_services::registry;

fn resources(settings: &Settings) -> Resources {
    holdfast_services::resources(settings).unwrap()
}
