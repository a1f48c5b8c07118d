//! What can go wrong between this process and its database, outside the statements of its callers.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{FailureClass, SqlFailureKind, classify_sql};

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
    #[error("the database did not answer within {} ms", .0.as_millis())]
    Deadline(Duration),
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
    /// Whether the same call may succeed later.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Deadline(_) => FailureClass::Transient,
            Self::Driver(source) | Self::Migration { source, .. } => classify_sql(source).class,
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
        matches!(self, Self::Driver(source) if classify_sql(source).kind == SqlFailureKind::Refused)
    }
}
