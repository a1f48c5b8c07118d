//! What operators do: every test runs on PostgreSQL, on PostgreSQL behind PgBouncer in transaction mode, and on SQLite.
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

pub(crate) mod audit;
mod batches;
mod cancel;
mod chains;
mod dead_letters;
mod edit;
mod expiry;
mod failures;
mod history;
mod search;
mod tags;
mod why;
