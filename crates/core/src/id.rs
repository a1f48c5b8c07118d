//! Ids: ULIDs on the wire, `uuid` in SQL, so that they sort by their creation. Every type of id is made by [`ids!`](crate::ids).

use std::fmt;

#[doc(hidden)]
pub use serde;
use serde::{Deserialize as _, Deserializer};
#[doc(hidden)]
pub use ulid::Ulid;
#[doc(hidden)]
pub use uuid::Uuid;

use crate::clock;

/// The text is not a ULID (26 characters of Crockford base 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected a ULID, 26 characters such as 01JD3V0S7W8Q4M2XKZC5T9R6BH")]
pub struct InvalidId;

/// A fresh id, stamped with this host's clock (which orders ids, and decides nothing else).
pub fn fresh() -> Ulid {
    Ulid::from_parts(clock::unix_millis(), rand::random::<u128>())
}

/// A ULID.
pub fn parse(text: &str) -> Result<Ulid, InvalidId> {
    Ulid::from_string(text).map_err(|_| InvalidId)
}

/// A ULID, or what SQL shows of it: 36 characters with hyphens.
pub fn parse_either(text: &str) -> Result<Ulid, InvalidId> {
    if text.len() == 36 {
        let uuid = Uuid::try_parse(text).map_err(|_| InvalidId)?;
        return Ok(Ulid(uuid.as_u128()));
    }
    parse(text)
}

/// For [`ids!`](crate::ids).
#[doc(hidden)]
pub fn deserialize<'de, D: Deserializer<'de>, E: fmt::Display, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// Declares types of ids. Each is `Copy`, is ordered by its creation, and is a text of 26 characters to `Display`, `FromStr` and
/// serde.
///
/// ```
/// holdfast_core::ids! {
///     /// Names an order.
///     OrderId;
/// }
/// let id = OrderId::generate();
/// assert_eq!(id.to_string().parse(), Ok(id));
/// ```
///
/// `= parse_either -> InvalidId` after the name reads texts in another way.
#[macro_export]
macro_rules! ids {
    ($( $(#[$attribute:meta])* $name:ident $(= $parse:path => $error:ty)?; )+) => {
        $( $crate::ids!(@one $(#[$attribute])* $name $(= $parse => $error)?); )+
    };
    (@one $(#[$attribute:meta])* $name:ident) => {
        $crate::ids!(@one $(#[$attribute])* $name = $crate::id::parse => $crate::id::InvalidId);
    };
    (@one $(#[$attribute:meta])* $name:ident = $parse:path => $error:ty) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(unreachable_pub, reason = "some are of one crate alone")]
        pub struct $name($crate::id::Ulid);

        #[allow(dead_code, unreachable_pub, reason = "every id has all of them")]
        impl $name {
            /// A fresh id, stamped with this host's clock (which orders ids, and decides nothing else).
            pub fn generate() -> Self {
                Self($crate::id::fresh())
            }

            /// The smallest id of a millisecond: the border between older and newer ids.
            pub const fn first_of_ms(unix_ms: u64) -> Self {
                Self($crate::id::Ulid::from_parts(unix_ms, 0))
            }

            /// Milliseconds since the epoch at which the id was made.
            pub const fn created_ms(self) -> u64 {
                self.0.timestamp_ms()
            }

            pub const fn from_ulid(ulid: $crate::id::Ulid) -> Self {
                Self(ulid)
            }

            pub const fn as_ulid(self) -> $crate::id::Ulid {
                self.0
            }

            /// As SQL stores it.
            pub const fn from_uuid(uuid: $crate::id::Uuid) -> Self {
                Self($crate::id::Ulid(uuid.as_u128()))
            }

            /// As SQL stores it.
            pub const fn as_uuid(self) -> $crate::id::Uuid {
                $crate::id::Uuid::from_u128(self.0.0)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $parse(text).map(Self)
            }
        }

        impl $crate::id::serde::Serialize for $name {
            fn serialize<S: $crate::id::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> $crate::id::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::id::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::id::deserialize(deserializer, str::parse::<Self>)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::ids! {
        /// For the tests.
        TestId = parse_either => InvalidId;
        /// For the tests.
        StrictId;
    }

    #[test]
    fn an_id_survives_text_and_uuid() {
        let id = TestId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(TestId::from_uuid(id.as_uuid()), id);
        assert_eq!(id.as_uuid().to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 26);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<TestId>(&json).unwrap(), id);
        assert_eq!(id.as_uuid().to_string().parse::<StrictId>(), Err(InvalidId));
    }

    #[test]
    fn text_and_uuid_sort_alike() {
        let mut ids: Vec<TestId> = (0..100).map(|_| TestId::generate()).collect();
        ids.sort();
        let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        assert!(texts.is_sorted() && uuids.is_sorted());
    }
}
