//! What a key may do.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One permission. `Admin` includes the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Enqueue, cancel and retry jobs.
    Produce,
    /// Run jobs: the pull protocol.
    Work,
    /// See jobs, queues and workers, without payloads, results and the texts of errors.
    Read,
    /// The same with payloads, results and the texts of errors; includes `Read`.
    ReadPayload,
    /// Pause and resume queues, and everything else.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 5] = [
        Self::Produce,
        Self::Work,
        Self::Read,
        Self::ReadPayload,
        Self::Admin,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Work => "work",
            Self::Read => "read",
            Self::ReadPayload => "read:payload",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Produce => 1,
            Self::Read => 2,
            Self::Admin => 4,
            Self::Work => 8,
            Self::ReadPayload => 16,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.chars().take(40).collect()))
    }
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope {0:?}: expected produce, work, read, read:payload or admin, with commas between")]
pub struct UnknownScope(pub String);

/// The scopes of one key, at least one. Written and read as `produce,read`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    pub const ADMIN: Self = Self(Scope::Admin.bit());

    /// `None` without any scope: such a key would be good for nothing.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Option<Self> {
        let bits = scopes.into_iter().fold(0, |bits, scope| bits | scope.bit());
        (bits != 0).then_some(Self(bits))
    }

    /// Whether a key with these scopes may do what needs `scope`.
    pub const fn allow(self, scope: Scope) -> bool {
        let including = match scope {
            Scope::Read => Scope::ReadPayload.bit() | Scope::Admin.bit(),
            _ => Scope::Admin.bit(),
        };
        self.0 & (scope.bit() | including) != 0
    }

    /// The same with another one.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether this very scope is among them.
    pub const fn names(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// As releases before `read:payload` know them: with `read` in its place.
    #[must_use]
    pub const fn without_payloads(self) -> Self {
        if self.names(Scope::ReadPayload) {
            Self((self.0 & !Scope::ReadPayload.bit()) | Scope::Read.bit())
        } else {
            self
        }
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let scopes = text
            .split(',')
            .map(|name| name.trim().parse())
            .collect::<Result<Vec<Scope>, _>>()?;
        Self::of(scopes).ok_or_else(|| UnknownScope(String::new()))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let scopes: Result<Vec<Scope>, _> = names.iter().map(|name| name.parse()).collect();
        Self::of(scopes.map_err(D::Error::custom)?)
            .ok_or_else(|| D::Error::custom("expected at least one scope"))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_allows_everything_and_the_others_only_themselves() {
        for scope in Scope::ALL {
            assert!(Scopes::ADMIN.allow(scope));
        }
        let read: Scopes = "read".parse().unwrap();
        assert!(read.allow(Scope::Read) && !read.allow(Scope::Produce) && !read.allow(Scope::Admin));
        assert!(!read.allow(Scope::ReadPayload));
        let payloads: Scopes = "read:payload".parse().unwrap();
        assert!(payloads.allow(Scope::Read) && payloads.allow(Scope::ReadPayload));
        assert_eq!(payloads.without_payloads(), read);
        let both: Scopes = "read, produce".parse().unwrap();
        assert!(both.allow(Scope::Read) && both.allow(Scope::Produce) && !both.allow(Scope::Admin));
    }

    #[test]
    fn scopes_survive_text() {
        for text in [
            "produce",
            "work",
            "produce,work,read,read:payload",
            "produce,read,admin",
        ] {
            assert_eq!(text.parse::<Scopes>().unwrap().to_string(), text);
        }
        for text in ["", "root", "read,,produce", "Read"] {
            assert!(text.parse::<Scopes>().is_err(), "{text:?}");
        }
    }
}
