//! What a value is called, in the process and on Redis.
//!
//! `holdfast:cache:<class>:<name>.<version>:<parts>`. Class and namespace come from the source code and hold no colon.
//! The parts come from anywhere: each is written as `<length>:<bytes>`, so no two lists of parts read the same; where
//! that would be long, hold odd bytes, or show what must not be shown, `#` and the SHA-256 of it stands instead (a
//! length starts with a digit, so the two forms cannot be taken for each other).

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::class::{Class, Overrides};
use crate::codec::Codec;

/// Parts that take more bytes are hashed: a user's input shall not decide how much memory a key takes.
const LONGEST_PLAIN: usize = 96;

/// A kind of cached value: its class, its name, and how values of type `V` become bytes.
///
/// Made once, as a constant:
///
/// ```
/// use holdfast_cache::{Class, Namespace};
///
/// const PRICES: Namespace<Vec<u32>> = Namespace::json(Class::Static, "prices", 1);
/// let key = PRICES.key(&["tenant-7", "2026"]);
/// ```
pub struct Namespace<V> {
    pub(crate) meta: Meta,
    pub(crate) codec: Codec<V>,
}

/// What does not depend on the type of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) id: NamespaceId,
    pub(crate) overrides: Overrides,
    /// Whether this process keeps copies while Redis serves.
    pub(crate) copied: bool,
    /// Whether parts are always hashed.
    opaque: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NamespaceId {
    pub(crate) class: Class,
    pub(crate) name: &'static str,
    pub(crate) version: u16,
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}.{}", self.class, self.name, self.version)
    }
}

impl<V: Serialize + DeserializeOwned> Namespace<V> {
    /// Values as JSON. `name` is of `a-z`, `0-9`, `-` and `_`; raise `version` when the shape of `V` changes, and
    /// processes of both versions live side by side.
    pub const fn json(class: Class, name: &'static str, version: u16) -> Self {
        Self::of(class, name, version, Codec::json())
    }
}

impl Namespace<Bytes> {
    /// Values that are bytes already.
    pub const fn raw(class: Class, name: &'static str, version: u16) -> Self {
        Self::of(class, name, version, Codec::raw())
    }
}

impl<V> Namespace<V> {
    const fn of(class: Class, name: &'static str, version: u16, codec: Codec<V>) -> Self {
        assert!(is_plain(name), "a namespace's name is of a-z, 0-9, - and _");
        let id = NamespaceId { class, name, version };
        let overrides = Overrides {
            ttl: None,
            while_revalidate: None,
            if_error: None,
        };
        let meta = Meta {
            id,
            overrides,
            copied: !matches!(class, Class::Session),
            opaque: false,
        };
        Self { meta, codec }
    }

    /// Fresh for this long instead of its class' time.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.meta.overrides.ttl = Some(ttl);
        self
    }

    /// Served for this long past its TTL while a newer value is loaded, and if loading fails.
    #[must_use]
    pub const fn stale(mut self, while_revalidate: Duration, if_error: Duration) -> Self {
        self.meta.overrides.while_revalidate = Some(while_revalidate);
        self.meta.overrides.if_error = Some(if_error);
        self
    }

    /// No copies in the process while Redis serves: every read asks Redis.
    #[must_use]
    pub const fn not_copied(mut self) -> Self {
        self.meta.copied = false;
        self
    }

    /// The parts of its keys are secrets, or odd: only their hash appears on Redis.
    #[must_use]
    pub const fn opaque(mut self) -> Self {
        self.meta.opaque = true;
        self
    }

    /// The key of one value. Different lists of parts are different keys: `["a", "b"]`, `["ab"]` and `["a", "b", ""]`
    /// are three.
    pub fn key(&self, parts: &[impl AsRef<str>]) -> Key<V> {
        Key {
            id: self.meta.name(parts),
            namespace: *self,
        }
    }
}

impl Meta {
    fn name(&self, parts: &[impl AsRef<str>]) -> Arc<str> {
        let mut text = String::with_capacity(LONGEST_PLAIN);
        // Writing to a String does not fail.
        let _infallible = write!(text, "holdfast:cache:{}:", self.id);
        let head = text.len();
        let mut plain = !self.opaque;
        for part in parts {
            let part = part.as_ref();
            let _infallible = write!(text, "{}:{part}", part.len());
            plain &= part.bytes().all(|byte| byte.is_ascii_graphic());
        }
        if !plain || text.len() - head > LONGEST_PLAIN {
            let digest = Sha256::digest(&text.as_bytes()[head..]);
            text.truncate(head);
            text.push('#');
            URL_SAFE_NO_PAD.encode_string(digest, &mut text);
        }
        text.into()
    }
}

const fn is_plain(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty()
}

impl<V> Clone for Namespace<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Namespace<V> {}

impl<V> fmt::Debug for Namespace<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({})", self.meta.id)
    }
}

/// The name of one value of type `V`.
pub struct Key<V> {
    pub(crate) id: Arc<str>,
    pub(crate) namespace: Namespace<V>,
}

impl<V> Key<V> {
    pub(crate) fn meta(&self) -> &Meta {
        &self.namespace.meta
    }

    /// The class of its value.
    pub fn class(&self) -> Class {
        self.namespace.meta.id.class
    }

    /// The name it has on Redis.
    pub fn as_str(&self) -> &str {
        &self.id
    }
}

impl<V> Clone for Key<V> {
    fn clone(&self) -> Self {
        Self {
            id: Arc::clone(&self.id),
            namespace: self.namespace,
        }
    }
}

impl<V> fmt::Debug for Key<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Namespace<u32> = Namespace::json(Class::Static, "plain", 1);
    const OTHER_VERSION: Namespace<u32> = Namespace::json(Class::Static, "plain", 2);
    const OTHER_NAME: Namespace<u32> = Namespace::json(Class::Static, "plain1", 1);
    const OTHER_CLASS: Namespace<u32> = Namespace::json(Class::ApiResponse, "plain", 1);

    #[test]
    fn a_short_key_can_be_read() {
        let key = PLAIN.key(&["tenant-7", "a"]);
        assert_eq!(key.as_str(), "holdfast:cache:static:plain.1:8:tenant-71:a");
    }

    #[test]
    fn what_a_user_sends_cannot_reach_another_class_name_version_or_tenant() {
        let hostile = [
            "1:a",
            "a:plain.2:1:b",
            "#",
            "",
            "plain",
            ":",
            "\r\n",
            "\0",
            "8:tenant-7",
        ];
        let mut seen = std::collections::HashSet::new();
        for namespace in [PLAIN, OTHER_VERSION, OTHER_NAME, OTHER_CLASS] {
            for first in hostile {
                assert!(seen.insert(namespace.key(&[first]).as_str().to_owned()));
                for second in hostile {
                    assert!(seen.insert(namespace.key(&[first, second]).as_str().to_owned()));
                }
            }
        }
    }

    #[test]
    fn long_odd_and_secret_parts_are_hashed() {
        let long = "x".repeat(10_000);
        for key in [
            PLAIN.key(&[long.as_str()]),
            PLAIN.key(&["two words"]),
            PLAIN.opaque().key(&["secret"]),
        ] {
            let parts = key
                .as_str()
                .strip_prefix("holdfast:cache:static:plain.1:")
                .unwrap();
            assert!(parts.starts_with('#') && parts.len() == 44, "{parts}");
        }
    }

    proptest! {
        #[test]
        fn different_parts_are_different_keys(
            one in prop::collection::vec("[#:0-9a-c]{0,6}", 0..4),
            other in prop::collection::vec("[#:0-9a-c]{0,6}", 0..4),
        ) {
            let same = PLAIN.key(&one).as_str() == PLAIN.key(&other).as_str();
            prop_assert_eq!(same, one == other);
        }
    }
}
