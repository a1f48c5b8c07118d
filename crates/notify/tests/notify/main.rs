//! Notifications on real databases, with a real worker, sent to real receivers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

mod endpoints;
mod mail;
mod official;
mod support;
mod webhooks;

use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_jobs::{Registry, Resources};
use holdfast_notify::NotifyProduct;
use holdfast_outbound::Outbound;
use holdfast_product::Product as _;

fn registry() -> Registry {
    NotifyProduct.kinds(Registry::new())
}

fn resources(settings: &Settings) -> Resources {
    Resources::default().with(Outbound::new(&settings.http_request).unwrap())
}

/// One suite over both databases.
macro_rules! on_both {
    ($($name:ident,)+) => {
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::Fixture::postgres().await).await;
            })+
        }

        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::Fixture::sqlite().await).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// What docs/webhooks-and-mail.md promises: with the worst luck at every draw, deliveries and mail are tried for so long.
#[test]
fn deliveries_are_tried_for_a_day_and_mail_for_nine_hours_at_least() {
    let promised = [("notify.webhook", 24), ("notify.email", 9), ("notify.digest", 9)];
    for (kind, hours) in promised {
        let policy = registry().get(kind).unwrap().retry.unwrap();
        let shortest: Duration = (1..policy.max_attempts)
            .map(|attempt| policy.backoff.floor(attempt))
            .sum();
        assert!(shortest >= Duration::from_hours(hours), "{kind}: {shortest:?}");
    }
}
