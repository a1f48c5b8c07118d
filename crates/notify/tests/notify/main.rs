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
