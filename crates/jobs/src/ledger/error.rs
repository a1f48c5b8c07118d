//! Why the ledger could not do it.

use std::fmt;
use std::time::Duration;

use holdfast_core::encryption::OpenFailure;
use holdfast_core::failure::{Certainty, FailureClass, SqlFailureKind, classify_sql};
use holdfast_core::mode::DegradedReason;
use holdfast_core::sql::UnitError;

/// Why the ledger could not do it.
#[derive(thiserror::Error)]
pub enum LedgerError {
    #[error("the database failed to {doing}")]
    Sql {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// No answer in time. Whether it was applied is unknown.
    #[error("the database did not {doing} within {} ms", after.as_millis())]
    TimedOut { doing: &'static str, after: Duration },
    /// The gate of the database is open: nothing was sent, and a probe will close it. Transient, certainly not applied.
    #[error("the database is unavailable ({reason}); could not {doing}")]
    Unavailable {
        doing: &'static str,
        reason: DegradedReason,
    },
    #[error("a row of the ledger cannot be read: {0}")]
    Corrupt(String),
    /// An encrypted column cannot be opened.
    #[error("{what} cannot be decrypted")]
    Sealed {
        what: &'static str,
        #[source]
        source: OpenFailure,
    },
}

impl fmt::Debug for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Self::Sql { source, .. } = self {
            write!(f, ": {source}")?;
        }
        if let Self::Sealed { source, .. } = self {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl LedgerError {
    /// The error of a unit of work that was to do something (`claim jobs`).
    pub fn of(doing: &'static str, error: UnitError) -> Self {
        match error {
            UnitError::Sql(source) => Self::Sql { doing, source },
            UnitError::TimedOut { after } => Self::TimedOut { doing, after },
            UnitError::Unavailable { reason } => Self::Unavailable { doing, reason },
        }
    }

    /// The database does not serve this process at all: a repeat is of no use before the gate closes. Nothing was applied.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub fn class(&self) -> FailureClass {
        match self {
            Self::Sql { source, .. } => classify_sql(source).class,
            Self::TimedOut { .. } | Self::Unavailable { .. } => FailureClass::Transient,
            Self::Corrupt(_) => FailureClass::Permanent,
            // The key may come back.
            Self::Sealed { source, .. } => match source {
                OpenFailure::MissingKey(_) => FailureClass::Transient,
                OpenFailure::NotAuthentic => FailureClass::Permanent,
            },
        }
    }

    /// Whether the statement may have been applied although it failed.
    pub fn certainty(&self) -> Certainty {
        let Self::Sql { source, .. } = self else {
            return if matches!(self, Self::TimedOut { .. }) {
                Certainty::Unknown
            } else {
                Certainty::NotApplied
            };
        };
        match source {
            // No connection was had, so nothing was sent.
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => {
                Certainty::NotApplied
            }
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Certainty::NotApplied
            }
            // The server said no; only one that is going away may have said it after the commit.
            sqlx::Error::Database(_) => match classify_sql(source).kind {
                SqlFailureKind::Connection | SqlFailureKind::Restarting => Certainty::Unknown,
                _ => Certainty::NotApplied,
            },
            _ => Certainty::Unknown,
        }
    }

    /// Whether the same statement may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        self.class() == FailureClass::Transient
    }

    /// The statement waited longer for a lock than the server allows, or met a deadlock: another transaction holds a row
    /// that it needs. Nothing was applied.
    pub fn is_contention(&self) -> bool {
        matches!(self, Self::Sql { source, .. } if classify_sql(source).kind == SqlFailureKind::Contention)
    }

    /// The server ended the statement because it took too long. Nothing was applied.
    pub fn is_statement_timeout(&self) -> bool {
        matches!(self, Self::Sql { source, .. } if classify_sql(source).kind == SqlFailureKind::Timeout)
    }
}
