//! Job, batch and worker identities: ULIDs on the wire, `uuid` in PostgreSQL, so that ids sort by creation.

use std::fmt;
use std::str::FromStr;

use holdfast_core::clock;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;
use uuid::Uuid;

macro_rules! ulid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// A fresh id, stamped with this host's clock (which orders ids, and decides nothing else).
            pub fn generate() -> Self {
                Self(Ulid::from_parts(clock::unix_millis(), rand::random::<u128>()))
            }

            /// The smallest id of a millisecond: the border between older and newer ids.
            pub fn first_of_ms(unix_ms: u64) -> Self {
                Self(Ulid::from_parts(unix_ms, 0))
            }

            pub fn as_uuid(self) -> Uuid {
                Uuid::from_u128(self.0.0)
            }

            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(Ulid(uuid.as_u128()))
            }

            /// Milliseconds since the epoch at which the id was made.
            pub fn created_ms(self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // As SQL shows it: 36 characters with hyphens.
                if text.len() == 36 {
                    return Uuid::try_parse(text).map(Self::from_uuid).map_err(|_| InvalidId);
                }
                Ulid::from_string(text).map(Self).map_err(|_| InvalidId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

ulid_newtype!(
    /// One job, made before its first write: a write repeated after a lost reply cannot double it.
    JobId
);
ulid_newtype!(
    /// One batch of jobs.
    BatchId
);
ulid_newtype!(
    /// One incarnation of one worker process: unique per boot, and renewed when its leases were lost.
    WorkerId
);

/// The text is not a ULID (26 characters of Crockford base 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected a ULID, 26 characters such as 01JD3V0S7W8Q4M2XKZC5T9R6BH")]
pub struct InvalidId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_uuid() {
        let id = JobId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(JobId::from_uuid(id.as_uuid()), id);
        assert_eq!(id.to_string().len(), 26);
    }

    #[test]
    fn text_and_uuid_sort_alike() {
        let mut ids: Vec<JobId> = (0..100).map(|_| JobId::generate()).collect();
        ids.sort();
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        assert!(texts.is_sorted() && uuids.is_sorted());
    }
}
