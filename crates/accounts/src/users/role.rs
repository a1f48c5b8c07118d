//! What a user is there for, and which scopes that gives.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use holdfast_http::{Scope, Scopes};

/// A user's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything but payloads: `read`.
    Viewer,
    /// Sees payloads, enqueues, cancels and retries as well: `produce`, `read`, `read:payload`.
    Operator,
    /// Everything: `admin`.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub fn scopes(self) -> Scopes {
        let scopes = match self {
            Self::Viewer => &[Scope::Read][..],
            Self::Operator => &[Scope::Produce, Scope::Read, Scope::ReadPayload],
            Self::Admin => &[Scope::Admin],
        };
        // None is empty, so there is always a value.
        Scopes::of(scopes.iter().copied()).unwrap_or(Scopes::ADMIN)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}: expected viewer, operator or admin")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.chars().take(40).collect()))
    }
}
