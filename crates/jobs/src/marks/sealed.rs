//! Payloads whose secret fields are encrypted.
//!
//! Each secret value is replaced in place by a sealed one (a string), and so it is wherever the payload goes: jobs, what follows them,
//! callbacks, schedules, dead letters, Redis. What is sealed is the text of the value, so that it opens byte for byte.
//!
//! # Invariants
//! - **The place of a sealed value** is the kind, its path, a random number that all sealed values of one payload share, and the SHA-256 of
//!   what is not sealed (in its canonical form). A value that is moved to another payload, kind or field does not open, and neither
//!   does one whose payload was changed around it.
//! - **Opening does not ask what is marked**: it opens every string that begins as a sealed value does. So a release that marks more or
//!   fewer fields opens what others have sealed. In return no producer may send such a string: [`first_sealed`].
//! - A value is sealed once. What is sealed already stays as it is.

use std::borrow::Cow;

use holdfast_core::encryption::{Encryption, OpenFailure, SEALED_PREFIX};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::json::{Cursor, said};
use super::path::Part;
use super::{MarkedValue, Marks, add_part, spliced};
use crate::job::SecretPart;
use crate::json_text;

/// Separates the shared number from the sealed value: `$sealed:1:ID:…#NUMBER`.
const GROUP_MARK: char = '#';

/// What stands for a sealed value in the text that the others are bound to.
const PLACEHOLDER: &str = "0";

/// A sealed value of a payload that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("payload{}{place}: {reason}", if place.is_empty() { "" } else { "." })]
pub struct FieldOpenFailure {
    /// Its path in the payload.
    pub place: String,
    pub reason: OpenFailure,
}

impl FieldOpenFailure {
    /// It may open once the key is back.
    pub fn is_missing_key(&self) -> bool {
        matches!(self.reason, OpenFailure::MissingKey(_))
    }
}

/// The payload with its secret values sealed. `None`: nothing is to be sealed, or there are no keys.
pub(crate) fn seal(
    encryption: &Encryption,
    marks: &Marks,
    kind: &str,
    payload: &RawValue,
) -> Option<Box<RawValue>> {
    if !encryption.is_on() || marks.is_empty() || !sealed_values(payload.get()).is_empty() {
        return None;
    }
    seal_values(encryption, kind, payload.get(), &marks.find(payload.get()))
}

/// The payload with its sealed values opened. `None`: none is sealed.
///
/// # Errors
/// The first value that cannot be opened.
pub(crate) fn open(
    encryption: &Encryption,
    kind: &str,
    payload: &RawValue,
) -> Result<Option<Box<RawValue>>, FieldOpenFailure> {
    let Some((plain, _)) = open_values(encryption, kind, payload.get())? else {
        return Ok(None);
    };
    let broken = |_| FieldOpenFailure {
        place: String::new(),
        reason: OpenFailure::NotAuthentic,
    };
    RawValue::from_string(plain).map(Some).map_err(broken)
}

/// The payload with all that is sealed or marked sealed under the first key. What is sealed stays so, whether it is marked now or not.
/// `None`: it is already, or there is nothing to seal.
///
/// # Errors
/// The first value that cannot be opened.
pub(crate) fn seal_anew(
    encryption: &Encryption,
    marks: Option<&Marks>,
    kind: &str,
    payload: &RawValue,
) -> Result<Option<Box<RawValue>>, FieldOpenFailure> {
    let Some(prefix) = encryption.current_prefix() else {
        return Ok(None);
    };
    let sealed = sealed_values(payload.get());
    let is_current = |found: &MarkedValue| {
        let token = payload.get().get(found.range.clone());
        token.is_some_and(|token| token.get(1..).is_some_and(|value| value.starts_with(&prefix)))
    };
    let opened = open_values(encryption, kind, payload.get())?;
    let (plain, mut found) = opened.unwrap_or_else(|| (payload.get().to_owned(), Vec::new()));
    let before = found.len();
    found.extend(marks.map(|marks| marks.find(&plain)).unwrap_or_default());
    let found = outermost(found);
    if sealed.iter().all(is_current) && found.len() == before {
        return Ok(None);
    }
    Ok(seal_values(encryption, kind, &plain, &found))
}

/// Of values that are inside one another, or found twice, the outermost; in the order of the text.
fn outermost(mut found: Vec<MarkedValue>) -> Vec<MarkedValue> {
    found.sort_by_key(|one| (one.range.start, std::cmp::Reverse(one.range.end)));
    let mut end = 0;
    found.retain(|one| {
        let is_outside = one.range.start >= end;
        end = end.max(one.range.end);
        is_outside
    });
    found
}

fn seal_values(
    encryption: &Encryption,
    kind: &str,
    text: &str,
    found: &[MarkedValue],
) -> Option<Box<RawValue>> {
    if found.is_empty() {
        return None;
    }
    let group = Ulid(rand::random::<u128>()).to_string();
    let rest = digest_of_rest(text, found);
    let sealed: Option<Vec<_>> = found
        .iter()
        .map(|found| {
            let place = place(kind, &found.place, &group, &rest);
            let plain = text.get(found.range.clone())?;
            let sealed = encryption.seal(&place, plain.as_bytes())?;
            Some((found.range.clone(), format!("\"{sealed}{GROUP_MARK}{group}\"")))
        })
        .collect();
    RawValue::from_string(spliced(text, sealed?.into_iter())).ok()
}

/// The text with its sealed values opened, and where these are in it. `None`: none is sealed.
fn open_values(
    encryption: &Encryption,
    kind: &str,
    text: &str,
) -> Result<Option<(String, Vec<MarkedValue>)>, FieldOpenFailure> {
    let sealed = sealed_values(text);
    if sealed.is_empty() {
        return Ok(None);
    }
    let rest = digest_of_rest(text, &sealed);
    let refused = |found: &MarkedValue, reason| FieldOpenFailure {
        place: found.place.clone(),
        reason,
    };
    let (mut opened, mut found, mut first_group, mut shift) = (Vec::new(), Vec::new(), None, 0);
    for one in &sealed {
        let inner = text
            .get(one.range.start + 1..one.range.end - 1)
            .unwrap_or_default();
        let (value, group) = inner.split_once(GROUP_MARK).unwrap_or((inner, ""));
        if *first_group.get_or_insert(group) != group {
            return Err(refused(one, OpenFailure::NotAuthentic));
        }
        let place = place(kind, &one.place, group, &rest);
        let plain = encryption
            .open(&place, value)
            .map_err(|reason| refused(one, reason))?;
        let plain = String::from_utf8(plain.to_vec()).map_err(|_| refused(one, OpenFailure::NotAuthentic))?;
        // A sealed value is longer than what is in it.
        let start = one.range.start - shift;
        shift += one.range.len() - plain.len();
        found.push(MarkedValue {
            range: start..start + plain.len(),
            ..one.clone()
        });
        opened.push((one.range.clone(), plain));
    }
    Ok(Some((spliced(text, opened.into_iter()), found)))
}

/// Whether two stored payloads of one kind say the same. One that cannot be opened because its key is missing is taken for the same: it
/// stands under the same key, and this process cannot say more.
pub(crate) fn same(encryption: &Encryption, kind: &str, a: &str, b: &str) -> bool {
    if json_text::same(a, b) {
        return true;
    }
    if !may_hold_sealed(a) && !may_hold_sealed(b) {
        return false;
    }
    let opened = |text: &str| {
        let raw = RawValue::from_string(text.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Ok(open(encryption, kind, &raw)?.unwrap_or(raw))
    };
    match (opened(a), opened(b)) {
        (Ok(a), Ok(b)) => json_text::same(a.get(), b.get()),
        (Err(FieldOpenFailure { reason, .. }), _) | (_, Err(FieldOpenFailure { reason, .. })) => {
            matches!(reason, OpenFailure::MissingKey(_))
        }
    }
}

/// The path of the first string that begins as a sealed value does.
pub(crate) fn first_sealed(text: &str) -> Option<String> {
    sealed_values(text).into_iter().next().map(|found| found.place)
}

/// The text without its sealed values.
pub(crate) fn left_out(text: &str) -> Cow<'_, [u8]> {
    let found = sealed_values(text);
    if found.is_empty() {
        return Cow::Borrowed(text.as_bytes());
    }
    let placeholders = found
        .into_iter()
        .map(|found| (found.range, PLACEHOLDER.to_owned()));
    Cow::Owned(spliced(text, placeholders).into_bytes())
}

fn place<'p>(kind: &'p str, path: &'p str, group: &'p str, rest: &'p [u8]) -> [&'p [u8]; 5] {
    [
        b"payload",
        kind.as_bytes(),
        path.as_bytes(),
        group.as_bytes(),
        rest,
    ]
}

/// Of all that is not sealed.
fn digest_of_rest(text: &str, sealed: &[MarkedValue]) -> Vec<u8> {
    let placeholders = sealed
        .iter()
        .map(|found| (found.range.clone(), PLACEHOLDER.to_owned()));
    let rest = spliced(text, placeholders);
    Sha256::digest(json_text::canonical(&rest)).to_vec()
}

/// Whether it is worth to read the text.
pub(crate) fn may_hold_sealed(text: &str) -> bool {
    text.contains(SEALED_PREFIX)
}

/// A level of the text around the place where the reader is.
struct Level {
    /// The length of the place outside of it.
    outside: usize,
    /// `None`: an object.
    item: Option<usize>,
    /// Of an object: a name comes next.
    expects_name: bool,
}

/// The strings that begin as sealed values do, in the order of the text. Only values count, no names.
fn sealed_values(text: &str) -> Vec<MarkedValue> {
    let mut found = Vec::new();
    if !may_hold_sealed(text) {
        return found;
    }
    let mut cursor = Cursor::new(text);
    let (mut levels, mut place): (Vec<Level>, String) = (Vec::new(), String::new());
    while let Some(byte) = cursor.peek() {
        match byte {
            b'{' | b'[' => {
                let is_list = byte == b'[';
                levels.push(Level {
                    outside: place.len(),
                    item: is_list.then_some(0),
                    expects_name: !is_list,
                });
                if is_list {
                    add_part(&mut place, Part::Item(0));
                }
                cursor.pass();
            }
            b'}' | b']' => {
                if let Some(level) = levels.pop() {
                    place.truncate(level.outside);
                }
                cursor.pass();
            }
            b',' => {
                cursor.pass();
                let Some(level) = levels.last_mut() else { continue };
                place.truncate(level.outside);
                match &mut level.item {
                    Some(item) => {
                        *item += 1;
                        add_part(&mut place, Part::Item(*item));
                    }
                    None => level.expects_name = true,
                }
            }
            b'"' => {
                let start = cursor.at();
                let token = cursor.string();
                match levels.last_mut() {
                    Some(level) if level.expects_name => {
                        level.expects_name = false;
                        add_part(&mut place, Part::Member(&said(token)));
                    }
                    _ if token
                        .get(1..)
                        .is_some_and(|value| value.starts_with(SEALED_PREFIX)) =>
                    {
                        found.push(MarkedValue {
                            range: start..cursor.at(),
                            place: place.clone(),
                            part: SecretPart::Whole,
                        });
                    }
                    _ => {}
                }
            }
            b':' => cursor.pass(),
            _ => cursor.skip_scalar(),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "k2:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
    const PAYLOAD: &str = r#"{ "n":1e2,"auth":{"token":"S3CRET\u0041","x":[1]},"items":[{"pin":4711},{"pin":"S3CRET-B"}],"n":2 }"#;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn marks() -> Marks {
        Marks::of_paths(["auth.token", "items[].pin"])
    }

    fn sealed() -> Box<RawValue> {
        seal(&KEYS.parse().unwrap(), &marks(), "shop.pay", &raw(PAYLOAD)).unwrap()
    }

    #[test]
    fn a_payload_opens_byte_for_byte_and_holds_no_secret_while_it_is_sealed() {
        let sealed = sealed();
        assert!(
            !sealed.get().contains("S3CRET") && !sealed.get().contains("4711"),
            "{sealed}"
        );
        assert!(sealed.get().contains(r#"{ "n":1e2,"#) && sealed.get().ends_with(r#","n":2 }"#));
        let ring: Encryption = format!("{OTHER},{KEYS}").parse().unwrap();
        let opened = open(&ring, "shop.pay", &sealed).unwrap().unwrap();
        assert_eq!(opened.get(), PAYLOAD);
        assert!(
            seal(&ring, &marks(), "shop.pay", &sealed).is_none(),
            "it is sealed once"
        );
        assert!(open(&ring, "shop.pay", &raw(PAYLOAD)).unwrap().is_none());
    }

    #[test]
    fn spaces_and_the_order_of_members_may_change_on_the_way() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":{"t":"S3CRET"}}"#).unwrap();
        let ring: Encryption = KEYS.parse().unwrap();
        let marks = Marks::of_paths(["a.t"]);
        let sealed = seal(
            &ring,
            &marks,
            "k",
            &raw(r#"{ "b" : 1, "a" : { "t" : "S3CRET" } }"#),
        )
        .unwrap();
        let reordered: serde_json::Value = serde_json::from_str(sealed.get()).unwrap();
        let opened = open(&ring, "k", &raw(&reordered.to_string())).unwrap().unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(opened.get()).unwrap(),
            value
        );
    }

    #[test]
    fn a_moved_value_and_a_changed_payload_do_not_open() {
        let (first, second, ring) = (sealed(), sealed(), KEYS.parse::<Encryption>().unwrap());
        let values = |payload: &RawValue| -> Vec<String> {
            let found = sealed_values(payload.get());
            found
                .iter()
                .map(|found| payload.get()[found.range.clone()].to_owned())
                .collect()
        };
        let (ours, theirs) = (values(&first), values(&second));
        let moved = [
            // From another payload that says the same around it; between fields; alone in another payload.
            first.get().replace(&ours[0], &theirs[0]),
            first
                .get()
                .replace(&ours[1], "\"*\"")
                .replace(&ours[2], &ours[1])
                .replace("\"*\"", &ours[2]),
            format!(r#"{{"auth":{{"token":{}}}}}"#, ours[0]),
            first.get().replace("1e2", "1e3"),
            first.get().replace("[1]", "[1,2]"),
        ];
        for payload in moved {
            let refused = open(&ring, "shop.pay", &raw(&payload)).unwrap_err();
            assert_eq!(refused.reason, OpenFailure::NotAuthentic, "{payload}");
        }
        let refused = open(&ring, "shop.other", &first).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("payload.auth.token: {}", OpenFailure::NotAuthentic),
            "of another kind"
        );
    }

    #[test]
    fn sealing_anew_keeps_what_is_sealed_and_adds_what_is_marked() {
        let ring: Encryption = format!("{OTHER},{KEYS}").parse().unwrap();
        let old = sealed();
        // Of a kind that marks nothing here, and of one that marks more.
        for marks in [None, Some(Marks::of_paths(["auth", "n"]))] {
            let new = seal_anew(&ring, marks.as_ref(), "shop.pay", &old)
                .unwrap()
                .unwrap();
            assert!(
                !new.get().contains("$sealed:1:k1:") && !new.get().contains("S3CRET"),
                "{new}"
            );
            assert_eq!(open(&ring, "shop.pay", &new).unwrap().unwrap().get(), PAYLOAD);
            assert!(
                seal_anew(&ring, marks.as_ref(), "shop.pay", &new)
                    .unwrap()
                    .is_none(),
                "once"
            );
            assert_eq!(marks.is_some(), !new.get().contains("1e2"));
        }
        assert!(
            seal_anew(&ring, Some(&marks()), "shop.pay", &raw("{}"))
                .unwrap()
                .is_none()
        );
        assert!(seal_anew(&OTHER.parse().unwrap(), None, "shop.pay", &old).is_err());
    }

    #[test]
    fn without_the_key_the_field_and_the_key_are_named() {
        let refused = open(&OTHER.parse().unwrap(), "shop.pay", &sealed()).unwrap_err();
        assert_eq!(refused.place, "auth.token");
        assert_eq!(refused.reason, OpenFailure::MissingKey("k1".to_owned()));
    }

    #[test]
    fn payloads_are_compared_by_what_they_say() {
        let ring: Encryption = KEYS.parse().unwrap();
        let (first, second) = (sealed(), sealed());
        assert!(same(&ring, "shop.pay", first.get(), second.get()));
        assert!(
            same(&ring, "shop.pay", first.get(), PAYLOAD),
            "from before the keys"
        );
        assert!(!same(
            &ring,
            "shop.pay",
            first.get(),
            &PAYLOAD.replace("S3CRET-B", "other")
        ));
        assert!(
            !same(&ring, "shop.other", first.get(), second.get()),
            "not authentic"
        );
        assert!(
            same(&Encryption::default(), "shop.pay", first.get(), PAYLOAD),
            "nobody can tell"
        );
        assert!(!same(&ring, "k", "1", "2"));
    }

    #[test]
    fn only_values_that_begin_as_sealed_ones_count() {
        assert_eq!(
            first_sealed(r#"{"a":["$sealed:1:x:AA"]}"#).as_deref(),
            Some("a[0]")
        );
        assert_eq!(first_sealed(r#""$sealed:1:x:AA""#).as_deref(), Some(""));
        for text in [
            r#"{"$sealed:1:x:AA":1}"#,
            r#"{"a":"{\"b\":\"$sealed:1:x:AA\"}"}"#,
            r#"{"a":"a $sealed:1:"}"#,
        ] {
            assert_eq!(first_sealed(text), None, "{text}");
        }
    }
}
