//! Who sends a request.

use std::fmt;
use std::sync::Arc;

use holdfast_jobs::audit::Actor;
use ulid::Ulid;

use crate::binding::Binding;
use crate::scope::{Scope, Scopes};

/// The sender of a request, as the [`Authenticator`](crate::authentication::Authenticator) knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The holder of `HOLDFAST_API_KEY`.
    Bootstrap,
    /// The command line, which runs the API in its own process with a key of that run.
    Operator,
    /// An API key, by its id.
    Key {
        id: Ulid,
        scopes: Scopes,
        /// `None`: it may be used for every queue and kind.
        binding: Option<Arc<Binding>>,
    },
    /// A user who has logged in, by the user's id.
    User { id: Ulid, scopes: Scopes },
    /// This machine, while there is no key at all.
    Local,
}

impl Caller {
    /// Whether the caller may do what needs this scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes().allow(scope)
    }

    pub fn scopes(&self) -> Scopes {
        match self {
            Self::Bootstrap | Self::Operator | Self::Local => Scopes::ADMIN,
            Self::Key { scopes, .. } | Self::User { scopes, .. } => *scopes,
        }
    }

    /// The queues and kinds that it is bound to.
    pub fn binding(&self) -> Option<&Arc<Binding>> {
        match self {
            Self::Key { binding, .. } => binding.as_ref(),
            Self::Bootstrap | Self::Operator | Self::User { .. } | Self::Local => None,
        }
    }

    /// As the audit log names it.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Bootstrap => Actor::bootstrap(),
            Self::Operator => Actor::cli(),
            Self::Key { id, .. } => Actor::key(id),
            Self::User { id, .. } => Actor::user(id),
            Self::Local => Actor::local(),
        }
    }

    /// An `Idempotency-Key` as it is stored: behind the name of its caller, which contains neither `/` nor `#`, so that no two callers'
    /// keys, and no batch's and job's, are ever the same.
    pub fn job_key(&self, key: &str) -> String {
        format!("{self}/{key}")
    }

    /// The key of one job of a batch; see [`job_key`](Self::job_key).
    pub fn batch_key(&self, key: &str, index: usize) -> String {
        format!("{self}#{index}/{key}")
    }
}

/// The name under which a caller's idempotency keys and cached answers are stored.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap => f.write_str("bootstrap"),
            Self::Operator => f.write_str("operator"),
            Self::Key { id, .. } => id.fmt(f),
            Self::User { id, .. } => write!(f, "user-{id}"),
            Self::Local => f.write_str("local"),
        }
    }
}
