//! How long the server lets a statement run, wait for a lock, or leave a transaction open.
//!
//! A deadline of the client alone ends nothing: the statement goes on, commits later and keeps its locks. So the server
//! knows every bound too, and its answer arrives before the client gives up:
//!
//! | what takes too long | bound | the server's answer |
//! | --- | --- | --- |
//! | a statement | `database.statement_timeout_seconds` | `57014`: nothing was applied |
//! | the wait for a lock | `database.lock_timeout_ms` | `55P03`: nothing was applied |
//! | a client between two statements of a transaction | `database.idle_in_transaction_seconds` | `25P03`: rolled back, session closed |
//! | a client that is gone | TCP keepalives, `client_connection_check_interval` | session closed |
//!
//! On a direct connection all of them are start-up options of the session and cost nothing. Behind a transaction pooler,
//! which lends one server session to many clients and refuses start-up options, they are set for each transaction by the
//! message that begins it. TCP keepalives and the check for a client that is gone are then the pooler's affair.

use std::time::Duration;

use crate::config::DatabaseSettings;

/// How often the server looks whether the client of a running statement is still connected (PostgreSQL 14+).
const CLIENT_CHECK: Duration = Duration::from_secs(1);

/// Keepalive of the server's socket: first probe after this much silence, then [`KEEPALIVE_PROBES`] of them.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;

/// Longest time that data which the server sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Shorter bounds that one unit of work asks for; `None` keeps the setting, and a longer one is cut to the setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Longest each statement may run on the server.
    pub statement: Option<Duration>,
    /// Longest each wait for a lock may take. PostgreSQL only: SQLite has one lock, and its wait is bounded for all.
    pub lock: Option<Duration>,
}

impl Bounds {
    /// What the settings say.
    pub const SETTINGS: Self = Self {
        statement: None,
        lock: None,
    };

    /// A shorter limit for each statement.
    #[must_use]
    pub const fn statement(self, limit: Duration) -> Self {
        Self {
            statement: Some(limit),
            ..self
        }
    }

    /// A shorter limit for each wait for a lock.
    #[must_use]
    pub const fn lock(self, limit: Duration) -> Self {
        Self {
            lock: Some(limit),
            ..self
        }
    }
}

/// The bounds of the settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerBounds {
    pub(super) statement: Duration,
    pub(super) lock: Duration,
    pub(super) idle_in_transaction: Duration,
}

impl ServerBounds {
    pub(super) fn new(settings: &DatabaseSettings) -> Self {
        Self {
            statement: settings.statement_timeout,
            lock: settings.lock_timeout,
            idle_in_transaction: settings.idle_in_transaction,
        }
    }

    /// The options of a direct connection's session.
    pub(super) fn startup_options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("statement_timeout", millis(self.statement)),
            ("lock_timeout", millis(self.lock)),
            (
                "idle_in_transaction_session_timeout",
                millis(self.idle_in_transaction),
            ),
            ("tcp_keepalives_idle", KEEPALIVE_IDLE.as_secs().to_string()),
            (
                "tcp_keepalives_interval",
                KEEPALIVE_INTERVAL.as_secs().to_string(),
            ),
            ("tcp_keepalives_count", KEEPALIVE_PROBES.to_string()),
            ("tcp_user_timeout", millis(UNACKNOWLEDGED)),
            ("client_connection_check_interval", millis(CLIENT_CHECK)),
        ]
    }

    /// The message that begins a transaction. `in_session`: the session has the settings' bounds already.
    pub(super) fn begin(&self, bounds: Bounds, in_session: bool) -> String {
        self.set_local(bounds, in_session)
            .into_iter()
            .fold("BEGIN".to_owned(), |begin, set| begin + "; " + &set)
    }

    /// What is to be set in a transaction for these bounds.
    pub(super) fn set_local(&self, bounds: Bounds, in_session: bool) -> Vec<String> {
        let statement = bounds
            .statement
            .map_or(self.statement, |limit| limit.min(self.statement));
        let lock = bounds.lock.map_or(self.lock, |limit| limit.min(self.lock));
        let mut all = Vec::new();
        let mut set = |name: &str, value: Duration| all.push(format!("SET LOCAL {name} = {}", millis(value)));
        if !in_session || statement != self.statement {
            set("statement_timeout", statement);
        }
        if !in_session || lock != self.lock {
            set("lock_timeout", lock);
        }
        if !in_session {
            set("idle_in_transaction_session_timeout", self.idle_in_transaction);
        }
        all
    }
}

/// PostgreSQL takes 0 for "no limit".
fn millis(limit: Duration) -> String {
    limit.as_millis().max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerBounds = ServerBounds {
        statement: Duration::from_secs(4),
        lock: Duration::from_millis(500),
        idle_in_transaction: Duration::from_secs(3),
    };

    #[test]
    fn a_session_with_bounds_begins_plainly_and_another_sets_them_all() {
        assert_eq!(SERVER.begin(Bounds::SETTINGS, true), "BEGIN");
        assert_eq!(
            SERVER.begin(Bounds::SETTINGS, false),
            "BEGIN; SET LOCAL statement_timeout = 4000; SET LOCAL lock_timeout = 500; \
             SET LOCAL idle_in_transaction_session_timeout = 3000"
        );
    }

    #[test]
    fn a_unit_of_work_may_ask_for_less_and_never_for_more() {
        let shorter = Bounds::SETTINGS.statement(Duration::from_millis(250));
        assert_eq!(
            SERVER.begin(shorter, true),
            "BEGIN; SET LOCAL statement_timeout = 250"
        );
        let longer = Bounds::SETTINGS.lock(Duration::from_secs(60));
        assert_eq!(SERVER.begin(longer, true), "BEGIN");
        let none = Bounds::SETTINGS.lock(Duration::ZERO);
        assert_eq!(
            SERVER.begin(none, true),
            "BEGIN; SET LOCAL lock_timeout = 1",
            "0 would be no limit"
        );
    }
}
