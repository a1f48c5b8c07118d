//! Keys as text and as digests.

use std::fmt;
use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with, so that scanners for leaked secrets can know one.
const PREFIX: &str = "hf_";

/// 256 bits: no search finds one, so its hash needs neither salt nor stretching.
const KEY_BYTES: usize = 32;

/// A fresh key: `hf_` and 64 hexadecimal digits. The operating system seeds the generator.
pub fn generate() -> SecretString {
    let bytes: [u8; KEY_BYTES] = rand::random();
    let mut text = String::with_capacity(PREFIX.len() + 2 * KEY_BYTES);
    text.push_str(PREFIX);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    SecretString::from(text)
}

/// The SHA-256 of a key: all that is ever stored, or kept in memory for longer than a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    pub(crate) fn of_secret(key: &SecretString) -> Self {
        Self::of(key.expose_secret())
    }

    /// `None` for a stored value that is none of ours.
    pub(crate) fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes as long for a near miss as for a far one.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_by_its_prefix_and_no_two_are_alike() {
        let (one, other) = (generate(), generate());
        assert!(one.expose_secret().starts_with("hf_"));
        assert_eq!(one.expose_secret().len(), 67);
        assert_ne!(one.expose_secret(), other.expose_secret());
        assert!(Digest::of_secret(&one).matches(&Digest::of(one.expose_secret())));
        assert!(!Digest::of_secret(&one).matches(&Digest::of_secret(&other)));
    }
}
