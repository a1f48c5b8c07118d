//! Where JSON text names a user, however that is spelt, and the same text with another name in its place.
//!
//! Payloads and logged requests are kept as they were sent, so a name may stand there with escapes, and with any white space
//! around its colon. A logged request may also be the beginning of a document alone.

/// The name instead of the user's.
const DELETED: &str = "\"deleted\"";

/// `text` without `user`; `None` where it does not name them.
///
/// An account's id stands for itself wherever it is (`everywhere`); a name of the application's own, which may be any word,
/// only as the value of a member `user`.
pub(crate) fn without_user(text: &str, user: &str, everywhere: bool) -> Option<String> {
    let mut new = String::new();
    let (mut copied, mut at, mut is_member) = (0, 0, false);
    while let Some(start) = text[at..].find('"').map(|found| at + found) {
        let Some(end) = end_of_string(text, start) else {
            break;
        };
        let literal = &text[start..end];
        if (everywhere || is_member) && reads(literal, user) {
            new.push_str(&text[copied..start]);
            new.push_str(DELETED);
            copied = end;
        }
        let value = text[end..].trim_start().strip_prefix(':').map(str::trim_start);
        is_member = value.is_some_and(|value| value.starts_with('"')) && reads(literal, "user");
        at = end;
    }
    (copied > 0).then(|| new + &text[copied..])
}

/// Behind the closing quote of the string that begins here; `None` where the text was cut.
fn end_of_string(text: &str, start: usize) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(start + 1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn reads(literal: &str, text: &str) -> bool {
    serde_json::from_str::<String>(literal).is_ok_and(|decoded| decoded == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_however_it_is_spelt_and_only_where_it_is_a_users() {
        for text in [
            r#"{"user":"ada","n":1e400}"#,
            r#"{"user" : "ada","n":1e400}"#,
            "{\"\\u0075ser\":\n\"\\u0061da\",\"n\":1e400}",
        ] {
            let new = without_user(text, "ada", false).unwrap();
            assert!(
                !new.contains("ada") && !new.contains("0061") && new.contains(DELETED),
                "{new}"
            );
            assert!(new.ends_with(r#","n":1e400}"#), "{new}");
        }
        for text in [
            r#"{"word":"ada"}"#,
            r#"["user","ada"]"#,
            r#"{"user":["ada"]}"#,
            r#"{"user":"ad"#,
            "1",
            "",
        ] {
            assert_eq!(without_user(text, "ada", false), None, "{text}");
        }
        let twice = r#"["01J","\"01J",{"01J":"01J"#;
        assert_eq!(
            without_user(twice, "01J", true).unwrap(),
            r#"["deleted","\"01J",{"deleted":"01J"#
        );
    }
}
