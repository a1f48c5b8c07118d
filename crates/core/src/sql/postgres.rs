//! The PostgreSQL pool: direct, through PgBouncer in transaction mode, or Neon's pooled endpoint.
//!
//! A transaction pooler lends a server session for one transaction only and refuses startup parameters it does
//! not track. So nothing here relies on a session: no `options`, no `SET`, no session lock, no LISTEN. Named
//! prepared statements are kept, which such poolers have supported at protocol level since PgBouncer 1.21.
//!
//! A connection whose server went away is met in three places, so that one cannot be handed out for long:
//! - sqlx itself tests a connection when it is given back, and drops it when it fails;
//! - `before_acquire` tests those that sat idle for [`TRUSTED_IDLE`] or longer. Testing every one, sqlx' default,
//!   would cost the hot path a round trip for each statement; a busy connection was tested a moment ago;
//! - what dies within that second costs its next user one transient error (57P01, I/O), which is retried.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Error};
use tokio::time::timeout;
use url::Url;

use super::SqlError;
use crate::config::DatabaseSettings;

/// A connection that was given back, and so tested, less than this ago is handed out untested.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Longest test of an idle connection. Shorter than any acquire timeout, so that a black-holed connection leaves
/// time to open another.
const IDLE_TEST_DEADLINE: Duration = Duration::from_millis(500);

/// How long a connection that is given back in mid-answer (its statement timed out) may take to become usable.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// What `pg_stat_activity` shows, unless the URL names something else.
const APPLICATION_NAME: &str = "holdfast";

/// Opens the pool without connecting: the server may come later. Must run inside a tokio runtime.
pub(super) fn open(settings: &DatabaseSettings) -> Result<PgPool, SqlError> {
    let options = connect_options(&settings.url)?;
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .min_connections(settings.min_connections)
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(settings.idle_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                let trusted = metadata.idle_for < TRUSTED_IDLE;
                Ok(trusted || within(IDLE_TEST_DEADLINE, connection.ping()).await.is_ok())
            })
        })
        .after_release(|connection, _| Box::pin(settle(connection)))
        .connect_lazy_with(options);
    Ok(pool)
}

/// Waits for the rest of an answer that nobody read, but not for ever. `false`: the connection is closed. (An error
/// would say the same, and sqlx would log it, for each connection of a pool that an outage cuts.)
///
/// A statement that is dropped at its deadline leaves its answer on the wire, and sqlx' own test on release would
/// wait for it without limit, holding a place of the pool. On a connection that is at rest this costs nothing:
/// `flush` returns without touching the network.
async fn settle(connection: &mut PgConnection) -> Result<bool, Error> {
    Ok(within(RELEASE_DEADLINE, connection.flush()).await.is_ok())
}

async fn within<F>(deadline: Duration, step: F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    match timeout(deadline, step).await {
        Ok(result) => result,
        Err(_) => Err(Error::Io(io::Error::from(io::ErrorKind::TimedOut))),
    }
}

/// Parses a URL into options that every pooler accepts.
pub(super) fn connect_options(url: &SecretString) -> Result<PgConnectOptions, SqlError> {
    let url = without_channel_binding(url.expose_secret())?;
    let options = PgConnectOptions::from_str(url.as_str()).map_err(|error| unusable(&error))?;
    let named = options.get_application_name().is_some();
    // PgBouncer refuses `extra_float_digits` unless told to ignore it, and servers since 12 need no telling.
    let options = options.extra_float_digits(None);
    Ok(if named {
        options
    } else {
        options.application_name(APPLICATION_NAME)
    })
}

/// Neon's URLs ask for `channel_binding=require`; sqlx knows no such parameter and would warn at every connect.
fn without_channel_binding(url: &str) -> Result<Url, SqlError> {
    let mut url = Url::parse(url).map_err(|error| SqlError::Configuration {
        problem: error.to_string(),
    })?;
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(key, _)| key != "channel_binding")
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    if kept.is_empty() {
        url.set_query(None);
    } else {
        url.query_pairs_mut().clear().extend_pairs(kept);
    }
    Ok(url)
}

/// The reason alone: the options it came from hold the password.
pub(super) fn unusable(error: &Error) -> SqlError {
    let problem = match error {
        Error::Configuration(reason) => reason.to_string(),
        other => other.to_string(),
    };
    SqlError::Configuration { problem }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    fn options_of(url: &str) -> PgConnectOptions {
        connect_options(&SecretString::from(url)).unwrap()
    }

    #[test]
    fn a_neon_url_keeps_its_tls_mode_and_loses_channel_binding() {
        let url =
            "postgresql://u:p%40ss@ep-x-pooler.eu.neon.tech/db?sslmode=verify-full&channel_binding=require";
        let stripped = without_channel_binding(url).unwrap();
        assert_eq!(stripped.query(), Some("sslmode=verify-full"));
        let options = options_of(url);
        assert!(matches!(options.get_ssl_mode(), PgSslMode::VerifyFull));
        assert_eq!(options.get_host(), "ep-x-pooler.eu.neon.tech");
        assert_eq!(options.get_database(), Some("db"));
    }

    #[test]
    fn nothing_is_sent_at_startup_that_a_transaction_pooler_refuses() {
        let options = options_of("postgres://u:p@localhost/db");
        assert_eq!(options.get_options(), None);
        assert_eq!(options.get_application_name(), Some(APPLICATION_NAME));
    }

    #[test]
    fn a_url_may_name_its_own_application() {
        let options = options_of("postgres://u:p@localhost/db?application_name=shop");
        assert_eq!(options.get_application_name(), Some("shop"));
    }

    #[test]
    fn an_unusable_url_is_explained_without_its_password() {
        for url in [
            "postgres://u:hunter2@host:notaport/db",
            "postgres://u:hunter2@host/db?sslmode=sometimes",
        ] {
            let error = connect_options(&SecretString::from(url)).unwrap_err();
            assert!(matches!(error, SqlError::Configuration { .. }));
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
