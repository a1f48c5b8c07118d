//! Encryption of stored values under keys that come from the environment and that no database holds.
//!
//! A *sealed* value is the text `$sealed:1:ID:BASE64(nonce ‖ ciphertext ‖ tag)`: the version of the form, the id of the key, and
//! XChaCha20-Poly1305 with a random nonce of 192 bits. The caller that seals or opens a value gives the *place* that it belongs to as
//! associated data: a sealed value that was moved to another place does not open.
//!
//! # States
//! *Off*: there are no keys. Values are stored as they are, and sealed ones (from before the keys were taken away) cannot be opened.
//! *On*: the first key seals, all of them open.
//!
//! # Invariants
//! - Keys and plain texts appear in no error, no log and no `Debug`. An error names the id of a key, and nothing else of it.
//! - Keys are erased from memory when the last clone is dropped; what was opened is erased by its [`Zeroizing`].
//!
//! # When things fail
//! *A key is missing* ([`OpenFailure::MissingKey`]): the value may open once the key is back, so callers put off what needs it. The id
//! is reported by [`Encryption::missing`] for [`REPORT_MISSING_FOR`]. *A value is not authentic* ([`OpenFailure::NotAuthentic`]): it was
//! altered or moved, or was sealed under another key of the same id, and will never open.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// What every sealed value begins with.
pub const SEALED_PREFIX: &str = "$sealed:1:";

/// What a plain value begins with that would else be taken for a sealed one; only where there are no keys.
const PLAIN_PREFIX: &str = "$plain:";

/// Longest id of a key, in characters.
pub const MAX_KEY_ID: usize = 32;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// How long a missing key is reported after it was last needed.
pub const REPORT_MISSING_FOR: Duration = Duration::from_mins(10);

/// Most missing keys that are remembered: their ids come from stored values.
const MAX_MISSING: usize = 16;

const NONCE_BYTES: usize = 24;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Encryption(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The first one seals.
    keys: Vec<Key>,
    /// By id: when it was needed last.
    missing: Mutex<BTreeMap<String, Instant>>,
}

struct Key {
    id: String,
    /// Erases itself.
    cipher: XChaCha20Poly1305,
    /// For [`Encryption::digests`].
    digests_by: Zeroizing<[u8; 32]>,
}

/// The ids of the keys.
impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Encryption")
            .field(&self.ids().collect::<Vec<_>>())
            .finish()
    }
}

/// The text is no list of keys. It names places and ids, never a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    #[error("entry {0} is not ID:KEY")]
    Form(usize),
    #[error("the id of entry {0} is not 1 to {MAX_KEY_ID} of a-z, 0-9 and -")]
    Id(usize),
    #[error("the key {0:?} is not {KEY_BYTES} bytes in base64")]
    Key(String),
    #[error("two keys have the id {0:?}")]
    Twice(String),
}

/// Why a sealed value was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    #[error(
        "it is encrypted under the key {0:?}, which HOLDFAST_ENCRYPTION_KEYS of this process does not hold"
    )]
    MissingKey(String),
    #[error(
        "the encrypted value is not authentic: it was altered or moved, or its key was replaced under the same id"
    )]
    NotAuthentic,
}

impl FromStr for Encryption {
    type Err = InvalidKeys;

    /// Reads `ID:KEY,ID:KEY…`; an empty text is no key at all.
    fn from_str(text: &str) -> Result<Self, InvalidKeys> {
        let mut keys: Vec<Key> = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        for (place, entry) in (1..).zip(text.split(',')) {
            let key = Key::parse(place, entry.trim())?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(InvalidKeys::Twice(key.id));
            }
            keys.push(key);
        }
        Ok(Self(Arc::new(Inner {
            keys,
            missing: Mutex::default(),
        })))
    }
}

impl Key {
    fn parse(place: usize, entry: &str) -> Result<Self, InvalidKeys> {
        let (id, key) = entry.split_once(':').ok_or(InvalidKeys::Form(place))?;
        if !is_key_id(id) {
            return Err(InvalidKeys::Id(place));
        }
        let refused = || InvalidKeys::Key(id.to_owned());
        let bytes = Zeroizing::new(BASE64.decode(key).map_err(|_| refused())?);
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| refused())?;
        let mut hash = Sha256::new();
        hash.update(b"holdfast digests ");
        hash.update(&*bytes);
        Ok(Self {
            id: id.to_owned(),
            cipher,
            digests_by: Zeroizing::new(hash.finalize().into()),
        })
    }
}

fn is_key_id(id: &str) -> bool {
    (1..=MAX_KEY_ID).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether a text is a sealed value by its form.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(SEALED_PREFIX)
}

/// The id of the key that a sealed value names.
pub fn key_of(sealed: &str) -> Option<&str> {
    let (id, _) = sealed.strip_prefix(SEALED_PREFIX)?.split_once(':')?;
    is_key_id(id).then_some(id)
}

impl Encryption {
    /// Whether there are keys.
    pub fn is_on(&self) -> bool {
        !self.0.keys.is_empty()
    }

    /// The ids of the keys; the first one seals.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys.iter().map(|key| key.id.as_str())
    }

    /// What a value begins with that is sealed under the first key; `None`: there are no keys.
    pub fn current_prefix(&self) -> Option<String> {
        let key = self.0.keys.first()?;
        Some(format!("{SEALED_PREFIX}{}:", key.id))
    }

    /// Seals a value for a place, under the first key. `None`: there are no keys.
    pub fn seal(&self, place: &[&[u8]], plain: &[u8]) -> Option<String> {
        let key = self.0.keys.first()?;
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let place = joined(place);
        let payload = Payload {
            msg: plain,
            aad: &place,
        };
        // Fails only for messages of more than 256 GiB.
        let sealed = key.cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed);
        Some(format!("{SEALED_PREFIX}{}:{}", key.id, BASE64.encode(bytes)))
    }

    /// Opens a value that was sealed for this place.
    ///
    /// # Errors
    /// The key is missing, or the value is not one that was sealed for this place.
    pub fn open(&self, place: &[&[u8]], sealed: &str) -> Result<Zeroizing<Vec<u8>>, OpenFailure> {
        let id = key_of(sealed).ok_or(OpenFailure::NotAuthentic)?;
        let Some(key) = self.0.keys.iter().find(|key| key.id == id) else {
            self.note_missing(id);
            return Err(OpenFailure::MissingKey(id.to_owned()));
        };
        let encoded = sealed
            .get(SEALED_PREFIX.len() + id.len() + 1..)
            .unwrap_or_default();
        let bytes = BASE64.decode(encoded).map_err(|_| OpenFailure::NotAuthentic)?;
        let (nonce, msg) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(OpenFailure::NotAuthentic)?;
        let place = joined(place);
        let payload = Payload { msg, aad: &place };
        let opened = key.cipher.decrypt(&XNonce::from(*nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| OpenFailure::NotAuthentic)
    }

    /// A text column's value as it is stored: sealed where there are keys.
    pub fn seal_text(&self, column: &Column<'_>, plain: &str) -> String {
        self.seal(&column.place(), plain.as_bytes()).unwrap_or_else(|| {
            let is_ambiguous = is_sealed(plain) || plain.starts_with(PLAIN_PREFIX);
            let prefix = if is_ambiguous { PLAIN_PREFIX } else { "" };
            format!("{prefix}{plain}")
        })
    }

    /// The value of a text column, whether it was stored sealed or plain.
    ///
    /// # Errors
    /// It is sealed and cannot be opened.
    pub fn open_text(&self, column: &Column<'_>, stored: String) -> Result<String, OpenFailure> {
        if is_sealed(&stored) {
            let plain = self.open(&column.place(), &stored)?;
            return String::from_utf8(plain.to_vec()).map_err(|_| OpenFailure::NotAuthentic);
        }
        Ok(match stored.strip_prefix(PLAIN_PREFIX) {
            Some(plain) => plain.to_owned(),
            None => stored,
        })
    }

    /// Digests of a message under each key, for comparing what was said without storing what can be guessed; none without keys.
    pub fn digests(&self, message: &[u8]) -> Vec<String> {
        let digest = |key: &Key| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&*key.digests_by).ok()?;
            mac.update(message);
            Some(format!("{}:{:x}", key.id, mac.finalize().into_bytes()))
        };
        self.0.keys.iter().filter_map(digest).collect()
    }

    /// The ids of keys that values asked for within [`REPORT_MISSING_FOR`] and that are not here.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|_, at| at.elapsed() < REPORT_MISSING_FOR);
        missing.keys().cloned().collect()
    }

    fn note_missing(&self, id: &str) {
        let mut missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.len() < MAX_MISSING || missing.contains_key(id) {
            let before = missing.insert(id.to_owned(), Instant::now());
            if before.is_none() {
                tracing::error!(
                    encryption.key = id,
                    "stored values are encrypted under a key that HOLDFAST_ENCRYPTION_KEYS of this process does not hold"
                );
            }
        }
    }
}

/// The column of one row, as the place of a sealed value.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    pub table: &'a str,
    pub column: &'a str,
    /// The primary key; of a UUID the 36 characters in lower case.
    pub row: &'a str,
}

impl<'a> Column<'a> {
    /// The place for [`Encryption::seal`].
    pub fn place(&self) -> [&'a [u8]; 4] {
        [
            b"column",
            self.table.as_bytes(),
            self.column.as_bytes(),
            self.row.as_bytes(),
        ]
    }
}

/// The parts, each behind its length: two lists that differ never become one text.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        joined.extend((part.len() as u64).to_be_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "new-1:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn keys(text: &str) -> Encryption {
        text.parse().unwrap()
    }

    #[test]
    fn a_value_opens_in_its_place_under_any_key_of_the_ring_and_nowhere_else() {
        let sealed = keys(OLD).seal(&[b"a", b"bc"], b"plain").unwrap();
        assert!(
            sealed.starts_with("$sealed:1:old:") && !sealed.contains("plain"),
            "{sealed}"
        );
        let ring = keys(&format!("{NEW}, {OLD}"));
        assert_eq!(ring.open(&[b"a", b"bc"], &sealed).unwrap().as_slice(), b"plain");
        for place in [&[&b"a"[..], b"b"][..], &[b"ab", b"c"], &[b"abc"]] {
            assert_eq!(ring.open(place, &sealed).unwrap_err(), OpenFailure::NotAuthentic);
        }
        assert!(ring.missing().is_empty());
        assert_eq!(
            keys(NEW).open(&[b"a", b"bc"], &sealed).unwrap_err(),
            OpenFailure::MissingKey("old".to_owned())
        );
    }

    #[test]
    fn each_bit_of_a_sealed_value_counts() {
        let ring = keys(OLD);
        let sealed = ring.seal(&[b"p"], b"plain").unwrap();
        let start = "$sealed:1:old:".len();
        for at in start..sealed.len() {
            let mut altered = sealed.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(
                ring.open(&[b"p"], &altered).unwrap_err(),
                OpenFailure::NotAuthentic,
                "{at}"
            );
        }
        for text in [
            "",
            "$sealed:1:",
            "$sealed:1:old:",
            "$sealed:1:old:AAAA",
            "$sealed:2:old:AAAA",
        ] {
            assert_eq!(
                ring.open(&[b"p"], text).unwrap_err(),
                OpenFailure::NotAuthentic,
                "{text}"
            );
        }
    }

    #[test]
    fn a_missing_key_is_reported_and_no_debug_shows_a_key() {
        let ring = keys(NEW);
        let sealed = keys(OLD).seal(&[], b"plain").unwrap();
        assert!(ring.open(&[], &sealed).is_err());
        assert_eq!(ring.missing(), ["old"]);
        assert_eq!(format!("{ring:?}"), r#"Encryption(["new-1"])"#);
    }

    #[test]
    fn faults_name_the_entry_and_never_the_key() {
        for (text, fault) in [
            ("nonsense", InvalidKeys::Form(1)),
            (&format!("{OLD},B:AAAA"), InvalidKeys::Id(2)),
            (":AAAA", InvalidKeys::Id(1)),
            ("a:c2hvcnQ=", InvalidKeys::Key("a".to_owned())),
            ("a:***", InvalidKeys::Key("a".to_owned())),
            (&format!("{OLD},{OLD}"), InvalidKeys::Twice("old".to_owned())),
        ] {
            let found = text.parse::<Encryption>().unwrap_err();
            assert_eq!(found, fault, "{text}");
            assert!(!found.to_string().contains("c2hvcnQ"), "{found}");
        }
        assert!(!keys(" ").is_on());
        assert!(keys(OLD.trim_end_matches('=')).is_on(), "without padding");
    }

    #[test]
    fn a_column_is_plain_without_keys_whatever_it_holds() {
        let column = Column {
            table: "t",
            column: "c",
            row: "1",
        };
        let off = Encryption::default();
        for plain in ["text", "$sealed:1:x:AAAA", "$plain:$plain:a", ""] {
            let stored = off.seal_text(&column, plain);
            assert!(!is_sealed(&stored));
            assert_eq!(off.open_text(&column, stored.clone()).unwrap(), plain);
            let ring = keys(OLD);
            assert_eq!(
                ring.open_text(&column, stored).unwrap(),
                plain,
                "from before the keys"
            );
            let sealed = ring.seal_text(&column, plain);
            assert_eq!(ring.open_text(&column, sealed.clone()).unwrap(), plain);
            let other = Column { row: "2", ..column };
            assert_eq!(
                ring.open_text(&other, sealed).unwrap_err(),
                OpenFailure::NotAuthentic
            );
        }
    }

    #[test]
    fn digests_differ_by_key_and_message() {
        let ring = keys(&format!("{NEW},{OLD}"));
        let (a, b) = (ring.digests(b"a"), ring.digests(b"b"));
        assert_eq!(a.len(), 2);
        assert!(a[0] != a[1] && a[0] != b[0] && a[1] == keys(OLD).digests(b"a")[0]);
        assert!(Encryption::default().digests(b"a").is_empty());
    }
}
