//! Names of another system as this one takes them.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Longest name of a queue.
const QUEUE: usize = 63;

/// A queue of this name: the name itself where it is one here, and otherwise a similar one with a piece of the name's hash behind it, so
/// that no two names meet. The transport for Celery makes the same.
pub(super) fn queue(name: &str) -> String {
    let is_valid = name.len() <= QUEUE
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
    if is_valid {
        return name.to_owned();
    }
    let (mut slug, mut in_run) = (String::new(), false);
    for c in name.to_lowercase().chars() {
        let is_kept = matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
        match (is_kept, in_run) {
            (true, _) => slug.push(c),
            (false, false) => slug.push('-'),
            (false, true) => {}
        }
        in_run = !is_kept;
    }
    let mut slug = slug.trim_matches('-').to_owned();
    if !slug.starts_with(|c: char| c.is_ascii_lowercase()) {
        slug.insert_str(0, "q-");
    }
    slug.truncate(50);
    format!("{}-{}", slug.trim_end_matches('-'), hash(name.as_bytes(), 8))
}

/// A kind of this name: other characters become `-`.
pub(super) fn kind(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let mut kind: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    if !kind.starts_with(|c: char| c.is_ascii_alphabetic()) {
        kind.insert_str(0, "k-");
    }
    kind.truncate(100);
    kind
}

/// The key under which a job is accepted once: the other system's id, and a piece of the hash of what it says, since some systems use an
/// id again.
pub(super) fn key(system: &str, id: &str, content: &[u8]) -> String {
    let hash = hash(content, 16);
    let is_printable = id.len() <= 120 && id.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if is_printable {
        format!("{system}-import/{id}/{hash}")
    } else {
        format!("{system}-import/{}/{hash}", self::hash(id.as_bytes(), 32))
    }
}

fn hash(bytes: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a text cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_keeps_its_name_where_it_can_and_others_get_one_that_is_their_own() {
        for name in ["celery", "a-b_c9"] {
            assert_eq!(queue(name), name);
        }
        for (name, slug) in [
            ("High.Prio", "high-prio-"),
            ("high.prio", "high-prio-"),
            ("9lives", "q-9lives-"),
            ("-", "q-"),
            ("", "q-"),
        ] {
            let made = queue(name);
            assert!(made.starts_with(slug) && made.len() <= QUEUE, "{name}: {made}");
            assert_eq!(queue(&made), made);
        }
        assert_ne!(queue("High.Prio"), queue("high.prio"));
        assert!(queue(&"x.".repeat(100)).len() <= QUEUE);
    }

    #[test]
    fn a_key_is_short_and_printable() {
        for id in ["4fe1", "a b", &"x".repeat(500), "é"] {
            let key = key("celery", id, b"body");
            assert!(
                key.len() <= 200 && key.bytes().all(|byte| (b'!'..=b'~').contains(&byte)),
                "{key}"
            );
        }
        assert_ne!(key("celery", "1", b"a"), key("celery", "1", b"b"));
    }
}
