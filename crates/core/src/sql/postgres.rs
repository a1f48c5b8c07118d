//! What a PostgreSQL URL means: direct, through PgBouncer in transaction mode, or Neon's pooled endpoint.
//!
//! Nothing here adds start-up options: the pool does, and does without where a pooler refuses them. Named prepared
//! statements are kept, which such poolers have supported at protocol level since PgBouncer 1.21.

use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use sqlx::Error;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::SqlError;

/// What `pg_stat_activity` shows, unless the URL names something else.
const APPLICATION_NAME: &str = "holdfast";

/// Parses a URL into options that every pooler accepts.
pub(super) fn connect_options(url: &SecretString) -> Result<PgConnectOptions, SqlError> {
    let url = without_channel_binding(url.expose_secret())?;
    let options = PgConnectOptions::from_str(url.as_str()).map_err(|error| unusable(&error))?;
    let named = options.get_application_name().is_some();
    // A URL writes an IPv6 address in brackets; a look-up wants it without.
    let host = bare_host(options.get_host()).to_owned();
    let options = options.host(&host);
    // PgBouncer refuses `extra_float_digits` unless told to ignore it, and servers since 12 need no telling.
    let options = options.extra_float_digits(None);
    Ok(if named {
        options
    } else {
        options.application_name(APPLICATION_NAME)
    })
}

/// Host and port, or the path of the socket.
pub(super) fn server(options: &PgConnectOptions) -> String {
    let port = options.get_port();
    match options.get_socket() {
        Some(directory) => format!("{}/.s.PGSQL.{port}", directory.display()),
        None if options.get_host().contains(':') => format!("[{}]:{port}", options.get_host()),
        None => format!("{}:{port}", options.get_host()),
    }
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

/// The address in the brackets of an IPv6 host.
fn bare_host(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
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
    fn an_ipv6_address_loses_its_brackets() {
        for (url, host) in [
            ("postgres://postgres@[::1]:5432/db", "::1"),
            ("postgres://u:p@[fd12:0::7]/db?sslmode=disable", "fd12::7"),
            ("postgres://u@localhost/db?host=%5B%3A%3A1%5D", "::1"),
            ("postgres://u@db.internal/db", "db.internal"),
        ] {
            assert_eq!(options_of(url).get_host(), host, "{url}");
        }
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
