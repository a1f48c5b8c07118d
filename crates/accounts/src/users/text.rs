//! The normal form of user names and passwords, and which are accepted.
//!
//! A name is NFC in lower case. Beyond ASCII it may have the letters, digits and marks of scripts in use (the identifiers of UTS #39),
//! of one script or of scripts that are written together: no invisible characters, no bidirectional controls, no fullwidth letters, no
//! look-alikes of another script. A password is prepared as PRECIS' OpaqueString (RFC 8265): NFC, every blank as U+0020.
//!
//! Rows of older releases hold names and passwords as they were given, so a look-up tries every spelling.

use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::{GeneralSecurityProfile as _, RestrictionLevel, RestrictionLevelDetection as _};

use super::MAX_USER_NAME;
use super::password::{MAX_PASSWORD, MIN_PASSWORD};

/// Fewest different characters of a password.
const MIN_DIFFERENT: usize = 4;

/// Common passwords of twelve characters and more.
const COMMON: [&str; 12] = [
    "123456789012",
    "1234567890123",
    "0123456789012",
    "password1234",
    "password12345",
    "passwordpassword",
    "qwertyuiop12",
    "qwertyuiopas",
    "qwertyuiop123",
    "administrator",
    "letmeinletmein",
    "iloveyou1234",
];

/// The normal form of a new name; `None` if it is not acceptable.
pub(super) fn new_name(name: &str) -> Option<String> {
    let normal = folded(name);
    let length = normal.chars().count();
    let is_sound =
        |letter: char| letter.is_ascii_graphic() || (!letter.is_ascii() && letter.identifier_allowed());
    // ASCII signs belong to no script.
    let letters: String = normal
        .chars()
        .filter(|letter| !letter.is_ascii_punctuation())
        .collect();
    let is_one = letters.check_restriction_level(RestrictionLevel::HighlyRestrictive);
    ((1..=MAX_USER_NAME).contains(&length) && normal.chars().all(is_sound) && is_one).then_some(normal)
}

/// The forms under which a name may be stored, the normal form first; none if it cannot be a name.
pub(super) fn spellings(name: &str) -> Vec<String> {
    let length = name.chars().count();
    let is_name = (1..=MAX_USER_NAME).contains(&length)
        && !name
            .chars()
            .any(|letter| letter.is_control() || letter.is_whitespace());
    if !is_name {
        return Vec::new();
    }
    let lower = name.to_lowercase();
    let mut all = vec![folded(name), lower.clone(), lower.nfd().collect()];
    all.dedup();
    all
}

/// NFC in lower case.
pub(crate) fn folded(name: &str) -> String {
    let lower = name.nfc().collect::<String>().to_lowercase();
    // Lower case may decompose.
    lower.nfc().collect()
}

/// Whether a new password is acceptable.
pub(super) fn is_acceptable(password: &SecretString) -> bool {
    let text = password.expose_secret();
    let prepared = prepared(password);
    let prepared = prepared.expose_secret();
    let mut different: Vec<char> = prepared.chars().collect();
    different.sort_unstable();
    different.dedup();
    (MIN_PASSWORD..=MAX_PASSWORD).contains(&text.len())
        && (MIN_PASSWORD..=MAX_PASSWORD).contains(&prepared.len())
        && !prepared.chars().any(char::is_control)
        && different.len() >= MIN_DIFFERENT
        && !COMMON.contains(&prepared.to_lowercase().as_str())
}

/// A password as it is hashed.
pub(super) fn prepared(password: &SecretString) -> SecretString {
    let blanks = |letter: char| {
        if letter.is_whitespace() && letter != '\n' {
            ' '
        } else {
            letter
        }
    };
    let text: String = password.expose_secret().chars().map(blanks).nfc().collect();
    SecretString::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form() {
        for (name, form) in [
            ("Ada@Example.com", "ada@example.com"),
            ("Rene\u{301}", "rené"),
            ("RENÉ", "rené"),
            ("ольга", "ольга"),
            ("山田", "山田"),
            ("o'brien+x@example.com", "o'brien+x@example.com"),
        ] {
            assert_eq!(new_name(name).as_deref(), Some(form), "{name:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_or_looks_like_another_is_no_name() {
        for name in [
            "",
            "two words",
            "a\tb",
            "a\u{200b}b",
            "a\u{202e}b",
            "a\u{ad}b",
            "a\u{feff}b",
            "a\u{2066}b",
            "r\u{43e}ot",
            "\u{440}aypal",
            "ａｄａ",
            "a\u{e000}b",
            "a\u{3164}b",
            "a\u{a0}b",
            &"n".repeat(255),
        ] {
            assert_eq!(new_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn names_of_before_are_found() {
        let all = spellings("Rene\u{301}");
        assert_eq!(all[0], "rené");
        assert!(all.contains(&"rene\u{301}".to_owned()));
        assert!(spellings("\u{430}\u{200b}da").contains(&"\u{430}\u{200b}da".to_owned()));
        assert!(spellings("not a name\n").is_empty());
    }

    #[test]
    fn passwords_are_composed_and_not_all_alike() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let decomposed = prepared(&secret("cafe\u{301} au lait sil vous plait"));
        assert_eq!(decomposed.expose_secret(), "café au lait sil vous plait");
        assert_eq!(prepared(&secret("a\u{a0}b")).expose_secret(), "a b");
        for weak in [
            &" ".repeat(12),
            "aaaaaaaaaaaa",
            "abababababab",
            "Password1234",
            "tab\tis\tcontrol\u{7}",
        ] {
            assert!(!is_acceptable(&secret(weak)), "{weak:?}");
        }
        assert!(is_acceptable(&secret("correct horse battery")));
    }
}
