//! Why an application does not start.

use std::error::Error as _;
use std::fmt;
use std::io;

use holdfast_core::config::ConfigFaults;
use holdfast_core::redis::OpenError;
use holdfast_core::sql::SqlError;
use holdfast_jobs::stock::StorageError;
use holdfast_services::UnknownRole;

/// Why an application does not start. Its `Debug` is the text for people, with all causes: it is what Rust prints when `main`
/// returns an error. It contains no secret.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `HOLDFAST_ROLE` names no role.
    #[error(transparent)]
    Role(#[from] UnknownRole),
    /// The configuration, or a kind that was registered, has faults: all of them, each with its fix.
    #[error(transparent)]
    Configuration(#[from] ConfigFaults),
    /// The settings of the database are invalid.
    #[error("the database cannot be used")]
    Database(#[from] SqlError),
    /// The settings of Redis are invalid.
    #[error("the Redis settings are invalid")]
    Redis(#[from] OpenError),
    /// The queue has no storage of apalis-redis.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The operating system gives no thread.
    #[error("no thread can be started")]
    Thread(#[from] io::Error),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "\n  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_prints_is_a_sentence_with_its_causes() {
        let error = Error::from(io::Error::other("the limit is reached"));
        assert_eq!(
            format!("{error:?}"),
            "no thread can be started\n  because: the limit is reached"
        );
    }
}
