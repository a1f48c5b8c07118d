//! The lease of a job: what happens to it when claims are slow, rows are locked, outcomes are lost and workers change their ids.
//! The protocol is `docs/adr/0008-the-lease-is-a-lock.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

/// Writes each test once for each way to a database.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::postgres().await).await; })+
        }
        mod behind_pgbouncer {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::pgbouncer().await).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::sqlite().await).await; })+
        }
    };
}

mod cancel;
mod claims;
mod identity;
mod rescue;
mod silence;
mod strays;
mod suspects;
mod system;
