//! Conditions that only the contents of a job tell: its payload and its errors.
//!
//! They are held against the payload as the caller is shown it. So a search says no more than a page of jobs does: what is hidden matches
//! nothing.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::query::{Condition, JobQuery};
use crate::json_text;
use crate::ledger::ErrorRecord;

/// What a row says beside its columns.
#[derive(Debug)]
pub(super) struct Contents<'r> {
    /// As it is shown.
    pub(super) payload: &'r str,
    pub(super) errors: Option<&'r str>,
}

impl JobQuery {
    /// Whether every condition about contents holds.
    pub(super) fn holds_for(&self, contents: &Contents<'_>) -> bool {
        self.terms
            .iter()
            .all(|term| holds(&term.condition, contents) != Some(term.is_negated))
    }
}

/// `None`: the condition is not about contents.
fn holds(condition: &Condition, contents: &Contents<'_>) -> Option<bool> {
    match condition {
        Condition::Error(needles) => Some(contents.errors.is_some_and(|errors| has_error(errors, needles))),
        Condition::PayloadText(needles) => {
            let payload = contents.payload.to_lowercase();
            Some(needles.iter().any(|needle| payload.contains(needle)))
        }
        Condition::PayloadValue(path, values) => {
            let found = path.values(contents.payload);
            Some(
                found
                    .iter()
                    .any(|token| values.iter().any(|value| is_value(token, value))),
            )
        }
        _ => None,
    }
}

fn has_error(errors: &str, needles: &[String]) -> bool {
    let errors: Vec<ErrorRecord> = serde_json::from_str(errors).unwrap_or_default();
    errors.iter().any(|error| {
        let message = error.message.to_lowercase();
        needles
            .iter()
            .any(|needle| message.contains(needle) || error.class.contains(needle))
    })
}

/// Whether a value of a document is what was asked for: a text by its characters, a number by its exact decimal value, `true`, `false`
/// and `null` by their names.
fn is_value(token: &str, asked: &str) -> bool {
    if token.starts_with('"') {
        let said: Cow<'_, str> = if token.contains('\\') {
            serde_json::from_str::<String>(token).unwrap_or_default().into()
        } else {
            token.trim_matches('"').into()
        };
        return said == asked;
    }
    token == asked
        || token.starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && serde_json::from_str::<&RawValue>(asked)
                .is_ok_and(|asked| is_number(asked.get()) && json_text::same(token, asked.get()))
}

fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(query: &str, payload: &str, errors: Option<&str>) -> bool {
        let query: JobQuery = query.parse().unwrap();
        query.holds_for(&Contents { payload, errors })
    }

    #[test]
    fn values_are_compared_exactly() {
        let payload = r#"{"n":9007199254740993,"f":4.20e1,"t":"a\u0062c","b":true,"z":null,"items":[{"sku":"x"},{"sku":"y"}],"q":"\""}"#;
        for (query, expected) in [
            ("payload.n:9007199254740993", true),
            ("payload.n:9007199254740992", false),
            ("payload.f:42", true),
            ("payload.t:abc", true),
            ("payload.t:ABC", false),
            ("payload.b:true", true),
            ("payload.z:null", true),
            ("payload.items[].sku:y", true),
            ("payload.items[0].sku:y", false),
            ("payload.items:x", false),
            (r#"payload.q:"\"""#, true),
            ("payload.n:1,9007199254740993", true),
            ("-payload.b:true", false),
            ("-payload.absent:1", true),
            ("payload.absent:1", false),
            ("payload:SKU", true),
            ("payload:absent", false),
        ] {
            assert_eq!(holds(query, payload, None), expected, "{query}");
        }
    }

    #[test]
    fn errors_are_searched_by_class_and_message() {
        let errors = r#"[{"at":"2030-01-01T00:00:00Z","attempt":1,"class":"timeout","message":"Timed OUT after 5 s"}]"#;
        assert!(holds(r#"error:"timed out""#, "{}", Some(errors)));
        assert!(holds("error:timeout", "{}", Some(errors)));
        assert!(!holds("error:refused", "{}", Some(errors)));
        assert!(!holds("error:timeout", "{}", None));
        assert!(holds("-error:timeout", "{}", None));
    }
}
