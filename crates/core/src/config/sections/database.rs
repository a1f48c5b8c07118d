//! The settings of the SQL database.

use std::time::Duration;

use secrecy::SecretString;

use super::super::declare::{count, flag, millis, seconds, secret, secret_text};
use super::super::reader::Reader;
use super::super::schema::DEFAULTS_ORIGIN;
use crate::settings;

settings! {
    ["database"]
    /// The SQL database: PostgreSQL or SQLite.
    #[derive(Debug, Clone)]
    pub struct DatabaseSettings {
        /// Where jobs are stored: postgres://user:password@host/name, or sqlite://path for an embedded file. A secret. When it is
        /// not set but PGHOST and PGDATABASE are, it is built from the PG* variables.
        url: SecretString = secret_text("sqlite://.holdfast/holdfast.db").variables(&["DATABASE_URL"]).then(check_url);
        /// URL without a pooler, for migrations, a secret. Set it when `url` goes through PgBouncer or Neon's pooler.
        direct_url: Option<SecretString> = secret()
            .variables(&["DATABASE_UNPOOLED_URL", "DATABASE_DIRECT_URL"])
            .then(check_optional_url);
        /// Largest number of connections of one process, {range}. All processes together must stay below the server's limit (100 is
        /// PostgreSQL's default).
        max_connections: u32 = count(10, 1..=1000);
        /// Connections kept open when idle, {range}. 0 lets a database that scales to zero sleep.
        min_connections: u32 = count(0, 0..=1000);
        /// Longest wait until a connection for migrations opens, in seconds, {range}. Neon needs some hundred milliseconds to wake
        /// up, a cold start more. A pooled connection opens within the acquire timeout.
        connect_timeout: Duration = seconds(10.0, 0.1..=120.0);
        /// Longest wait for a pooled connection, the time to open one included, in seconds, {range}. Short, so that a request can
        /// still be answered 503 when the database is unavailable.
        acquire_timeout: Duration = seconds(3.0, 0.1..=120.0);
        /// Longest duration of one statement, in seconds, {range}. Then the server ends it, and nothing of it is applied; a caller
        /// without a reply half a second later cancels it.
        statement_timeout: Duration = seconds(4.0, 0.1..=600.0);
        /// Longest wait of a statement for a lock of another transaction, in milliseconds, {range}. Then it fails, nothing of it is
        /// applied, and it is repeated later. Short, so that a locked row does not delay others.
        lock_timeout: Duration = millis(500, 10..=60_000);
        /// Longest time that a transaction may stay open while its process sends nothing, in seconds, {range}. Then the server
        /// rolls it back and closes the session, so that a frozen or disconnected process holds no lock. PostgreSQL only.
        idle_in_transaction: Duration = seconds(3.0, 0.1..=600.0);
        /// How long an idle connection is kept open, in seconds, {range}. Below Neon's five minutes.
        idle_timeout: Duration = seconds(240.0, 1.0..=86_400.0);
        /// Whether a starting service migrates the schema. Turn it off where `holdfast migrate` runs before a deployment.
        migrate_at_start: bool = flag(true);
        /// Whether statements are prepared once and reused by name. Turn it off behind PgBouncer older than 1.21 in transaction
        /// mode, which does not support it; each statement then costs three round trips instead of one.
        prepared_statements: bool = flag(true);
    }
}

fn check_url(reader: &mut Reader<'_>, path: &str, url: SecretString) -> SecretString {
    if reader.is_production() && reader.origin(path) == DEFAULTS_ORIGIN {
        // In a container the embedded file would be gone with the next deployment, and no two services share it.
        let problem = "a production service needs the URL of its database".to_owned();
        let fix = format!(
            "set {} to postgres://… (or to a sqlite:// file, on purpose)",
            reader.variable_of(path)
        );
        reader.fault_once(path, || (problem, fix));
    }
    check(reader, path, &url);
    url
}

fn check_optional_url(
    reader: &mut Reader<'_>,
    path: &str,
    url: Option<SecretString>,
) -> Option<SecretString> {
    if let Some(url) = &url {
        check(reader, path, url);
    }
    url
}

fn check(reader: &mut Reader<'_>, path: &str, url: &SecretString) {
    if let Err(error) = crate::sql::check_url(url) {
        let fix = "give postgres://user:password@host:5432/name or sqlite://path/to/file.db".to_owned();
        reader.fault_once(path, || (error.to_string(), fix));
    }
}
