//! What can go wrong between this process and its database, outside the statements of its callers.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{FailureClass, SqlFailureKind, classify_sql, sql_outage};
use crate::mode::DegradedReason;

/// Which database, as an operator knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAddress {
    /// Host and port, or the path of a socket or file; without credentials.
    pub server: String,
    /// The environment variable that names it.
    pub variable: &'static str,
}

/// A database that could not be opened, reached or migrated. No variant holds a URL, so none can leak a password.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The URL or one of its parameters is of no use. Permanent.
    #[error("the database URL cannot be used: {problem}")]
    Configuration { problem: String },
    /// The directory of an embedded database cannot be made. Permanent.
    #[error("the directory {} of the SQLite database cannot be created", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// No answer in time. Transient.
    #[error("{} did not answer within {} ms", called(address.as_ref()), after.as_millis())]
    Deadline {
        after: Duration,
        /// Absent until the caller names the database.
        address: Option<DatabaseAddress>,
    },
    /// The server or the file cannot be used by anyone with this URL.
    #[error("{} {}", called(Some(address)), outage_text(*reason))]
    Unavailable {
        address: DatabaseAddress,
        reason: DegradedReason,
        source: sqlx::Error,
    },
    /// The driver or the server said no.
    #[error("the database failed")]
    Driver(#[from] sqlx::Error),
    /// A migration failed. On PostgreSQL those before it stay applied, on SQLite nothing of the run was kept.
    #[error("migration {migration} failed")]
    Migration {
        migration: &'static str,
        source: sqlx::Error,
    },
    /// A migration was changed after the database had it. Permanent.
    #[error(
        "migration {migration} was applied to this database in another version; migrations must not be edited"
    )]
    MigrationEdited { migration: &'static str },
    /// The process was asked to stop while it waited for the database.
    #[error("stopped while waiting for the database")]
    Stopped,
}

impl SqlError {
    pub(super) const fn deadline(after: Duration) -> Self {
        Self::Deadline { after, address: None }
    }

    /// Names the database in what the driver says of it as a whole.
    #[must_use]
    pub(super) fn of(self, address: DatabaseAddress) -> Self {
        match self {
            Self::Driver(source) => match sql_outage(&source) {
                Some(reason) => Self::Unavailable {
                    address,
                    reason,
                    source,
                },
                None => Self::Driver(source),
            },
            Self::Deadline { after, .. } => Self::Deadline {
                after,
                address: Some(address),
            },
            other => other,
        }
    }

    /// What the driver or the server said, unless it concerns a migration.
    pub fn driver(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Driver(source) | Self::Unavailable { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether the same call may succeed later.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Deadline { .. } => FailureClass::Transient,
            Self::Driver(source) | Self::Unavailable { source, .. } | Self::Migration { source, .. } => {
                classify_sql(source).class
            }
            Self::Configuration { .. }
            | Self::Directory { .. }
            | Self::MigrationEdited { .. }
            | Self::Stopped => FailureClass::Permanent,
        }
    }

    pub fn is_transient(&self) -> bool {
        self.class() == FailureClass::Transient
    }

    /// The server is there and does not let us in: wrong password, or no such database.
    pub fn is_refused(&self) -> bool {
        self.driver()
            .is_some_and(|source| classify_sql(source).kind == SqlFailureKind::Refused)
    }
}

/// The database's name in a text.
fn called(address: Option<&DatabaseAddress>) -> String {
    match address {
        Some(DatabaseAddress { server, variable }) => format!("the database at {server} ({variable})"),
        None => "the database".to_owned(),
    }
}

/// What a server does that cannot be used, after its name.
const fn outage_text(reason: DegradedReason) -> &'static str {
    match reason {
        DegradedReason::Refused => "refuses the connection",
        DegradedReason::Unreachable => "cannot be found or reached",
        DegradedReason::TimedOut => "does not answer",
        DegradedReason::ConnectionLost => "ended the connection",
        DegradedReason::Unauthorized => "does not accept the user, the password or the name of the database",
        DegradedReason::Loading => "is starting",
        DegradedReason::TooManyConnections => "grants no more connections",
        DegradedReason::Locked => "is locked by another process",
        _ => "does not answer as a database of this kind",
    }
}
