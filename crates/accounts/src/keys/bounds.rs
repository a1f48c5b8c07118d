//! How a key's scopes and its binding are stored, also beside a release that knows neither `read:payload` nor bindings.
//!
//! # Beside the release before
//! - `scopes` never says `read:payload`: `read` stands in its place, and the column `payloads` says which it was. A key that was made
//!   before there was a choice has no word there: it goes on seeing payloads.
//! - The digest of a bound key is stored with one byte more. The release before takes it for damaged and refuses the key, so it never
//!   serves one without its binding.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_core::config::is_queue_name;
use holdfast_http::{Binding, Scope, Scopes};
use serde::{Deserialize, Serialize};

use crate::secret::Digest;

/// Most queues, and most kinds, that one key is bound to.
const MAX_NAMES: usize = 100;

/// Longest name of a kind, in bytes.
const MAX_KIND: usize = 255;

/// Behind the digest of a bound key.
const MARK: u8 = 1;

#[derive(Serialize, Deserialize)]
struct StoredBinding {
    queues: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

/// What a key is bound to: the names of queues and kinds, both sound.
///
/// # Errors
/// The field, and what is wrong with it.
pub(crate) fn binding_of(
    queues: Option<Vec<String>>,
    kinds: Option<Vec<String>>,
    scopes: Scopes,
) -> Result<Option<Binding>, (String, String)> {
    for (field, names) in [("queues", &queues), ("kinds", &kinds)] {
        let Some(names) = names else { continue };
        if scopes.names(Scope::Admin) {
            let reason = "a key with the scope admin cannot be bound: name the scopes that it needs";
            return Err((field.to_owned(), reason.to_owned()));
        }
        if !(1..=MAX_NAMES).contains(&names.len()) {
            let reason =
                format!("must have 1 to {MAX_NAMES} names; leave it out for a key without this bound");
            return Err((field.to_owned(), reason));
        }
        let is_name = |name: &String| match field {
            "queues" => is_queue_name(name),
            _ => {
                (1..=MAX_KIND).contains(&name.len())
                    && !name.contains(|c: char| c.is_control() || c.is_whitespace())
            }
        };
        if let Some(index) = names.iter().position(|name| !is_name(name)) {
            return Err((format!("{field}[{index}]"), "is not a name".to_owned()));
        }
    }
    let set = |names: Option<Vec<String>>| names.unwrap_or_default().into_iter().collect();
    let binding = Binding {
        queues: set(queues),
        kinds: set(kinds),
    };
    Ok(Some(binding).filter(|binding| !binding.is_empty()))
}

/// The columns `scopes` and `payloads`.
pub(super) fn stored_scopes(scopes: Scopes) -> (String, bool) {
    (
        scopes.without_payloads().to_string(),
        scopes.names(Scope::ReadPayload),
    )
}

/// `None`: the row cannot be read.
pub(super) fn read_scopes(scopes: &str, payloads: Option<bool>) -> Option<Scopes> {
    let scopes: Scopes = scopes.parse().ok()?;
    let sees = payloads.unwrap_or(true) && scopes.names(Scope::Read);
    Some(if sees {
        scopes.with(Scope::ReadPayload)
    } else {
        scopes
    })
}

pub(super) fn stored_binding(binding: Option<&Binding>) -> Option<String> {
    let Binding { queues, kinds } = binding?.clone();
    serde_json::to_string(&StoredBinding { queues, kinds }).ok()
}

/// The row says that its key is bound, and not to what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnreadableBinding;

pub(super) fn read_binding(binding: Option<&str>) -> Result<Option<Arc<Binding>>, UnreadableBinding> {
    let Some(text) = binding else { return Ok(None) };
    let StoredBinding { queues, kinds } = serde_json::from_str(text).map_err(|_| UnreadableBinding)?;
    let binding = Binding { queues, kinds };
    if binding.is_empty() {
        return Err(UnreadableBinding);
    }
    Ok(Some(Arc::new(binding)))
}

pub(super) fn stored_digest(digest: &Digest, is_bound: bool) -> Vec<u8> {
    let mut bytes = digest.as_bytes().to_vec();
    bytes.extend(is_bound.then_some(MARK));
    bytes
}

pub(super) fn read_digest(bytes: &[u8], is_bound: bool) -> Option<Digest> {
    match bytes.split_last() {
        Some((&MARK, digest)) if is_bound && bytes.len() == 33 => Digest::from_stored(digest),
        _ => Digest::from_stored(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_made_before_there_was_a_choice_sees_what_it_saw() {
        let text = |scopes: Option<Scopes>| scopes.unwrap().to_string();
        assert_eq!(
            text(read_scopes("produce,read", None)),
            "produce,read,read:payload"
        );
        assert_eq!(text(read_scopes("produce,read", Some(false))), "produce,read");
        assert_eq!(text(read_scopes("produce", None)), "produce");
        assert_eq!(text(read_scopes("admin", None)), "admin");
        for scopes in ["read", "read,read:payload", "produce,work", "admin"] {
            let scopes: Scopes = scopes.parse().unwrap();
            let (column, payloads) = stored_scopes(scopes);
            assert!(
                !column.contains("payload"),
                "the release before reads it: {column}"
            );
            assert_eq!(read_scopes(&column, Some(payloads)), Some(scopes));
        }
    }

    #[test]
    fn the_release_before_takes_a_bound_keys_digest_for_damaged() {
        let digest = Digest::of("hf_0");
        let stored = stored_digest(&digest, true);
        assert_eq!(Digest::from_stored(&stored), None);
        assert_eq!(read_digest(&stored, true), Some(digest));
        assert_eq!(read_digest(&stored, false), None, "its binding is gone");
        assert_eq!(read_digest(&stored_digest(&digest, false), false), Some(digest));
        assert_eq!(read_binding(Some("{}")), Err(UnreadableBinding));
        assert_eq!(read_binding(None), Ok(None));
    }
}
