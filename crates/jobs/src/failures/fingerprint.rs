//! What failures have in common: the kind, the class of the error, and its message without what differs from job to job.
//!
//! A fingerprint is stored with the error that discards a job ([`ErrorRecord::fingerprint`](crate::ledger::ErrorRecord)). Messages are
//! cleaned of the values of secret fields before they become errors, so none is in the text of a fingerprint.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Characters of a message that count. What follows rarely tells failures apart.
const MAX_CHARS: usize = 300;

/// Longest quoted text that is left out as one, in characters. A longer one is probably two apostrophes.
const MAX_QUOTED: usize = 200;

/// Changes with the rules below: fingerprints of other rules are others.
const VERSION: &str = "1";

/// 16 hexadecimal digits.
pub fn fingerprint(kind: &str, class: &str, message: &str) -> String {
    let message = normalized(message);
    let digest = Sha256::digest([VERSION, kind, class, &message].join("\0"));
    digest[..8].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
        hex
    })
}

/// Whether a text may be a fingerprint.
pub fn is_fingerprint(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A message with `#` for numbers and ids, `'…'` for quoted texts and `/…` for the paths of URLs.
pub fn normalized(message: &str) -> String {
    let text: Vec<char> = message.chars().take(4 * MAX_CHARS).collect();
    let mut out = String::with_capacity(text.len().min(MAX_CHARS));
    let mut at = 0;
    while at < text.len() && out.chars().count() < MAX_CHARS {
        let rest = &text[at..];
        if let Some(length) = quoted(rest, at.checked_sub(1).map(|before| text[before])) {
            out.push_str("'…'");
            at += length;
        } else if rest.starts_with(&[':', '/', '/']) {
            let length = url_rest(rest, &mut out);
            at += length;
        } else if let Some(length) = uuid(rest) {
            number(&mut out);
            at += length;
        } else if rest[0].is_alphanumeric() {
            let word: Vec<char> = rest.iter().copied().take_while(|c| c.is_alphanumeric()).collect();
            push_word(&word, &mut out);
            at += word.len();
        } else {
            let c = if rest[0].is_whitespace() || rest[0].is_control() {
                ' '
            } else {
                rest[0]
            };
            if c != ' ' || !out.ends_with(' ') {
                out.push(c);
            }
            at += 1;
        }
    }
    out.trim().to_owned()
}

/// One `#` for numbers that are joined: `1.5`, `10.0.0.1:80`, `2030-01-31`.
fn number(out: &mut String) {
    let joined = |joint: char| out.ends_with(&['#', joint][..].iter().collect::<String>());
    if ['.', ',', ':', '-', '/', '_'].into_iter().any(joined) {
        out.pop();
    } else {
        out.push('#');
    }
}

/// A word; digits are left out, and a word of both is left out whole unless the digits are at one of its ends.
fn push_word(word: &[char], out: &mut String) {
    let is_digit = |c: &char| c.is_numeric();
    let prefix = word.iter().take_while(|c| !is_digit(c)).count();
    if prefix == word.len() {
        out.extend(word);
        return;
    }
    let digits = word[prefix..].iter().take_while(|c| is_digit(c)).count();
    let suffix = &word[prefix + digits..];
    match (prefix, suffix) {
        // 42, 30ms, 404th
        (0, suffix) if suffix.len() <= 3 && !suffix.iter().any(is_digit) => {
            number(out);
            out.extend(suffix);
        }
        // utf8, worker12
        (1.., []) => {
            out.extend(&word[..prefix]);
            out.push('#');
        }
        _ => number(out),
    }
}

/// The length of a quoted text, with its quotes. An apostrophe inside a word is none.
fn quoted(rest: &[char], before: Option<char>) -> Option<usize> {
    let close = match rest[0] {
        '"' => '"',
        '`' => '`',
        '\'' if !before.is_some_and(char::is_alphanumeric) => '\'',
        '“' => '”',
        '«' => '»',
        _ => return None,
    };
    let end = rest
        .iter()
        .skip(1)
        .take(MAX_QUOTED + 1)
        .position(|c| *c == close)?;
    let length = end + 2;
    let after = rest.get(length);
    // The end of one is not the apostrophe of another word.
    (close != '\'' || !after.is_some_and(|c| c.is_alphanumeric())).then_some(length)
}

/// `://host` of a URL, without what follows it; the length of all of it.
fn url_rest(rest: &[char], out: &mut String) -> usize {
    let is_end = |c: &char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ')' | '>' | ']' | '}' | ',');
    let whole = rest.iter().position(is_end).unwrap_or(rest.len());
    let host = rest[3..whole]
        .iter()
        .take_while(|c| !matches!(c, '/' | '?' | '#'))
        .count();
    // What stands before an @ is a password.
    let host_text: String = rest[3..3 + host].iter().collect();
    let host_text = host_text.rsplit('@').next().unwrap_or_default();
    out.push_str("://");
    out.extend(host_text.chars().map(|c| if c.is_numeric() { '#' } else { c }));
    if 3 + host < whole {
        out.push_str("/…");
    }
    whole
}

/// The length of a UUID: groups of letters alone would pass for words.
fn uuid(rest: &[char]) -> Option<usize> {
    const LENGTH: usize = 36;
    let is_uuid = rest.len() >= LENGTH
        && rest[..LENGTH].iter().enumerate().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => *c == '-',
            _ => c.is_ascii_hexdigit(),
        })
        && !rest.get(LENGTH).is_some_and(|c| c.is_alphanumeric());
    is_uuid.then_some(LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_job_to_job_is_left_out() {
        for (message, expected) in [
            ("user 42 not found", "user # not found"),
            ("no user 'ada@example.com' here", "no user '…' here"),
            (
                "can't open \"a\\b\" of job 01JD3V0S7W8Q4M2XKZC5T9R6BH",
                "can't open '…' of job #",
            ),
            (
                "connect to 10.0.0.1:5432 failed after 1.5s",
                "connect to # failed after #s",
            ),
            ("id abcdefab-abcd-abcd-abcd-abcdefabcdef is gone", "id # is gone"),
            ("at 2030-01-31T12:00:00Z", "at #Z"),
            (
                "POST https://u:pw@api.example.com/v1/orders/9?token=x: 503",
                "POST https://api.example.com/… #",
            ),
            ("utf8 error in worker12, line 7", "utf# error in worker#, line #"),
            ("commit 3f9ab1c04d of main", "commit # of main"),
            (
                "it's the users' file and it isn't there",
                "it's the users' file and it isn't there",
            ),
            ("a  b\n\tc", "a b c"),
            ("", ""),
        ] {
            assert_eq!(normalized(message), expected, "{message}");
        }
    }

    #[test]
    fn long_and_odd_messages_are_bounded() {
        for message in [
            "'".repeat(10_000),
            "é ".repeat(10_000),
            "7".repeat(10_000),
            "://".repeat(5_000),
        ] {
            assert!(
                normalized(&message).chars().count() <= MAX_CHARS + 300,
                "{message:.20}"
            );
        }
    }

    #[test]
    fn a_fingerprint_tells_kind_class_and_message_apart_and_nothing_else() {
        let print = fingerprint("http.request", "transient", "status 503 of order 7");
        assert!(is_fingerprint(&print), "{print}");
        assert_eq!(
            print,
            fingerprint("http.request", "transient", "status 502 of order 12")
        );
        for other in [
            fingerprint("http.get", "transient", "status 503 of order 7"),
            fingerprint("http.request", "timeout", "status 503 of order 7"),
            fingerprint("http.request", "transient", "state 503 of order 7"),
        ] {
            assert_ne!(print, other);
        }
    }
}
