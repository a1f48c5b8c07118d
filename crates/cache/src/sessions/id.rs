//! What names a session.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const BYTES: usize = 32;
/// Of the time of creation, in milliseconds since the Unix epoch.
const TIME_BYTES: usize = 6;

/// 26 random bytes behind the time of creation; 43 characters of base64url as text. Whoever knows it and the user's
/// name has what a token has, but for the signature: `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; BYTES]);

/// The text is no session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a session id")]
pub struct InvalidSessionId;

impl SessionId {
    pub(super) fn generate(now_ms: u64) -> Self {
        let mut bytes: [u8; BYTES] = rand::random();
        bytes[..TIME_BYTES].copy_from_slice(&now_ms.to_be_bytes()[8 - TIME_BYTES..]);
        Self(bytes)
    }

    /// When it was made, in milliseconds since the epoch. The token's signature vouches for it.
    pub fn created_ms(&self) -> u64 {
        let mut time = [0; 8];
        time[8 - TIME_BYTES..].copy_from_slice(&self.0[..TIME_BYTES]);
        u64::from_be_bytes(time)
    }

    /// Its SHA-256: what stores know it by.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// What Redis knows it by.
    pub(super) fn hashed(&self) -> String {
        hashed(&self.0)
    }
}

/// What Redis knows a user by.
pub(super) fn hashed_user(user: &str) -> String {
    hashed(user.as_bytes())
}

fn hashed(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        // Longer texts need no decoding to be refused.
        if text.len() != 43 {
            return Err(InvalidSessionId);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidSessionId)?;
        bytes.try_into().map(Self).map_err(|_| InvalidSessionId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_knows_its_time() {
        let id = SessionId::generate(1_700_000_000_123);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.created_ms(), 1_700_000_000_123);
        assert_ne!(id, SessionId::generate(1_700_000_000_123));
        assert!(!format!("{id:?}").contains(&id.to_string()));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "x",
            &"a".repeat(42),
            &"a".repeat(44),
            &"ä".repeat(22),
            &"=".repeat(43),
        ] {
            assert_eq!(text.parse::<SessionId>(), Err(InvalidSessionId), "{text}");
        }
    }
}
