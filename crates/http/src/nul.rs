//! Refuses U+0000, which no text column of PostgreSQL takes, in requests, and names the field.
//!
//! Fields that are stored as they were sent (`payload` of a job, `result` and `progress` of a pull worker, `data` of a notice or a mail)
//! may contain the escape.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::form_urlencoded;

use crate::problem::{FieldFault, Problem, ProblemKind};

/// Its escape in JSON; the character itself is not valid there.
const ESCAPE: &[u8] = b"\\u0000";

/// Fields whose values are stored as they were sent.
const OPAQUE: [&str; 4] = ["payload", "data", "result", "progress"];

/// Deepest nesting that is searched; deeper documents are refused by the parser.
const MAX_DEPTH: usize = 128;

/// The reason in the problem.
pub(crate) const REASON: &str = "contains U+0000, which no name and no text may have";

/// Refuses a path or a query that contains it, percent-encoded or not.
pub(crate) fn check_uri(path: &str, query: &str) -> Result<(), Problem> {
    if path.contains('%') && percent_decode_str(path).any(|byte| byte == 0) {
        return Err(Problem::field(ProblemKind::InvalidParameter, "path", REASON));
    }
    if query.contains('%') {
        let mut given = form_urlencoded::parse(query.as_bytes());
        if let Some((name, _)) = given.find(|(name, value)| name.contains('\0') || value.contains('\0')) {
            let name = name.replace('\0', "\u{fffd}");
            return Err(Problem::field(ProblemKind::InvalidParameter, name, REASON));
        }
    }
    Ok(())
}

/// Refuses a JSON document in which a key or a text contains it, outside [`OPAQUE`] fields. Invalid JSON passes: the parser refuses
/// it. `list` names the items of a bare list.
pub(crate) fn check_json(bytes: &[u8], list: &str) -> Result<(), Problem> {
    if !bytes.windows(ESCAPE.len()).any(|window| window == ESCAPE) {
        return Ok(());
    }
    let mut path = Vec::new();
    let seed = Finder {
        path: &mut path,
        depth: 0,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match seed.deserialize(&mut deserializer) {
        Ok(true) => Err(Problem::faults(
            ProblemKind::InvalidField,
            vec![FieldFault::new(worded(&path, list), REASON)],
        )),
        Ok(false) | Err(_) => Ok(()),
    }
}

enum Step {
    Key(String),
    Index(usize),
}

fn worded(path: &[Step], list: &str) -> String {
    let mut text = String::new();
    if let Some(Step::Index(_)) = path.first() {
        text.push_str(list);
    }
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(&key.replace('\0', "\u{fffd}")),
            Step::Key(key) => text = format!("{text}.{}", key.replace('\0', "\u{fffd}")),
            Step::Index(index) => text = format!("{text}[{index}]"),
        }
    }
    if text.is_empty() {
        "body".to_owned()
    } else {
        text.chars().take(200).collect()
    }
}

/// Finds the first one; then `path` leads to it.
struct Finder<'p> {
    path: &'p mut Vec<Step>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        if self.depth > MAX_DEPTH {
            return IgnoredAny::deserialize(deserializer).map(|_| false);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(text.contains('\0'))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut index = 0;
        loop {
            self.path.push(Step::Index(index));
            let inner = Finder {
                path: &mut *self.path,
                depth: self.depth + 1,
            };
            match list.next_element_seed(inner)? {
                None => {
                    self.path.pop();
                    return Ok(false);
                }
                Some(true) => {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(true);
                }
                Some(false) => {
                    self.path.pop();
                }
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if OPAQUE.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let is_key = key.contains('\0');
            self.path.push(Step::Key(key));
            let inner = Finder {
                path: &mut *self.path,
                depth: self.depth + 1,
            };
            if map.next_value_seed(inner)? || is_key {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(true);
            }
            self.path.pop();
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(body: &str) -> Option<String> {
        let problem = check_json(body.as_bytes(), "events").err()?;
        Some(problem.to_string())
    }

    #[test]
    fn it_is_found_wherever_it_is_and_named_by_its_path() {
        for (body, path) in [
            (r#"{"filter":{"queue":"a\u0000b"}}"#, "filter.queue"),
            (r#"[{"title":"x"},{"title":"\u0000"}]"#, "events[1].title"),
            (r#"{"jobs":[{"then":{"queue":"\u0000"}}]}"#, "jobs[0].then.queue"),
            (r#""\u0000""#, "body"),
        ] {
            let told = field(body).unwrap();
            assert!(told.contains(&format!("{path}: ")), "{told}");
        }
        assert!(field(r#"{"a\u0000":1}"#).is_some());
    }

    #[test]
    fn what_is_kept_as_it_was_sent_may_hold_it() {
        for body in [
            r#"{"kind":"a","payload":{"x":"\u0000"}}"#,
            r#"{"jobs":[{"kind":"a","payload":["\u0000"]}]}"#,
            r#"{"data":{"a":"\u0000"}}"#,
            r#"{"outcomes":[{"outcome":"completed","result":{"a":"\u0000\ud800"}}]}"#,
            r#"{"progress":{"01J":{"a":"\u0000"}}}"#,
            r#"{"a":"\\u0000"}"#,
            r#"{"a": broken \u0000"#,
        ] {
            assert_eq!(field(body), None, "{body}");
        }
    }

    #[test]
    fn paths_and_queries_are_decoded_first() {
        assert!(check_uri("/v1/schedules/a%00/run", "").is_err());
        assert!(check_uri("/v1/jobs", "limit=1&queue=a%00").is_err());
        assert!(check_uri("/v1/jobs/%2500", "queue=%2500").is_ok());
    }
}
