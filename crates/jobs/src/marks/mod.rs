//! The secret fields of a kind, found in the text of a payload.
//!
//! A kind of the code marks its fields with [`Job::secret_fields`](crate::Job::secret_fields), a declared one with `redact`. Both
//! become [`Marks`], and everything that treats secret fields apart works on the ranges that [`Marks::find`] gives: views replace them,
//! encryption seals them, errors are cleaned of them. All other bytes of a payload stay as the producer wrote them.
//!
//! # Invariants
//! - A field that is there twice (`{"a":1,"a":2}`) is found twice.
//! - Where a payload has another form than a path expects (a text in place of an object), all of that part is found: it is not known where
//!   in it the secret is. So a payload that is not even an object is found whole.
//! - `null` and what is not there is no secret.
//! - The reader does not recurse deeper than the longest path, however deep the payload is.

mod json;
mod lookup;
mod path;
pub(crate) mod sealed;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::job::{SecretField, SecretPart};
use json::{Cursor, said};
pub use path::{FieldPath, InvalidPath};
use path::{Part, Shape};

/// Shortest secret text that an error is cleaned of, in characters: shorter ones occur by chance.
const SHORTEST_SECRET: usize = 4;

/// Replaces a secret.
pub const REDACTED: &str = "[redacted]";

/// The secret fields of a kind.
#[derive(Debug, Clone, Default)]
pub struct Marks(Vec<(FieldPath, SecretPart)>);

/// A secret value in the text of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MarkedValue {
    /// The bytes of the value.
    pub range: Range<usize>,
    /// The path of this very value, such as `items[2].secret`; empty: the payload itself.
    pub place: String,
    part: SecretPart,
}

impl Marks {
    /// # Errors
    /// The field that is no path.
    pub fn of_fields(fields: &[SecretField]) -> Result<Self, (&'static str, InvalidPath)> {
        let marks = fields
            .iter()
            .map(|(path, part)| Ok((path.parse().map_err(|invalid| (*path, invalid))?, *part)));
        Ok(Self(marks.collect::<Result<_, _>>()?))
    }

    /// Whole fields. What is no path marks nothing: a declaration is checked before it is stored.
    pub fn of_paths<'p>(paths: impl IntoIterator<Item = &'p str>) -> Self {
        let paths = paths.into_iter().filter_map(|path| path.parse().ok());
        Self(paths.map(|path| (path, SecretPart::Whole)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a field is secret that this path leads to, or leads into.
    pub fn cover(&self, path: &FieldPath) -> bool {
        self.0.iter().any(|(secret, _)| secret.overlaps(path))
    }

    /// The secret values of a well-formed text, in its order; none is inside another.
    pub(crate) fn find(&self, text: &str) -> Vec<MarkedValue> {
        let mut search = Search {
            marks: &self.0,
            cursor: Cursor::new(text),
            found: Vec::new(),
        };
        let all: Vec<(usize, usize)> = (0..self.0.len()).map(|mark| (mark, 0)).collect();
        if !all.is_empty() {
            search.value(&all, &mut String::new());
        }
        search.found
    }

    /// The payload with each secret value replaced by what `shown` makes of it; `None`: no field is marked.
    pub fn replaced(
        &self,
        payload: &RawValue,
        shown: impl Fn(SecretPart, Value) -> Value,
    ) -> Option<Box<RawValue>> {
        if self.is_empty() {
            return None;
        }
        let text = payload.get();
        let value = |found: &MarkedValue| {
            let secret = text.get(found.range.clone()).map(serde_json::from_str::<Value>);
            match secret {
                Some(Ok(secret)) => shown(found.part, secret).to_string(),
                // A value that is no value of ours, such as 1e999.
                _ => Value::from(REDACTED).to_string(),
            }
        };
        let found = self.find(text);
        let replaced = spliced(
            text,
            found.iter().map(|found| (found.range.clone(), value(found))),
        );
        let whole = || serde_json::value::to_raw_value(REDACTED).ok();
        RawValue::from_string(replaced).ok().or_else(whole)
    }

    /// A text, such as a handler's error, without the secret values that it repeats.
    pub(crate) fn cleaned(&self, payload: &RawValue, text: String) -> String {
        if self.is_empty() {
            return text;
        }
        self.secrets_of(payload).removed_from(text)
    }

    /// The texts in a payload that no other text may repeat.
    pub(crate) fn secrets_of(&self, payload: &RawValue) -> SecretTexts {
        let mut secrets = BTreeSet::new();
        for found in self.find(payload.get()) {
            let value = payload.get().get(found.range).map(serde_json::from_str::<Value>);
            if let Some(Ok(value)) = value {
                texts_of(&value, &mut secrets);
            }
        }
        // The longest first: a secret may hold another one.
        let mut secrets: Vec<String> = secrets
            .into_iter()
            .filter(|text| text.chars().count() >= SHORTEST_SECRET)
            .collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        SecretTexts(secrets)
    }
}

/// The secret texts of one payload. No `Debug`.
pub(crate) struct SecretTexts(Vec<String>);

impl SecretTexts {
    /// A text without them.
    pub(crate) fn removed_from(&self, text: String) -> String {
        self.0
            .iter()
            .fold(text, |text, secret| text.replace(secret.as_str(), REDACTED))
    }
}

/// The texts and numbers of a value.
fn texts_of(value: &Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            texts.insert(text.clone());
        }
        Value::Number(number) => {
            texts.insert(number.to_string());
        }
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, texts)),
        Value::Object(members) => members.values().for_each(|member| texts_of(member, texts)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The text with these ranges, which follow one another, replaced.
pub(crate) fn spliced(text: &str, parts: impl Iterator<Item = (Range<usize>, String)>) -> String {
    let (mut spliced, mut end) = (String::with_capacity(text.len()), 0);
    for (range, part) in parts {
        spliced.push_str(text.get(end..range.start).unwrap_or_default());
        spliced.push_str(&part);
        end = range.end;
    }
    spliced.push_str(text.get(end..).unwrap_or_default());
    spliced
}

struct Search<'m, 't> {
    marks: &'m [(FieldPath, SecretPart)],
    cursor: Cursor<'t>,
    found: Vec<MarkedValue>,
}

impl Search<'_, '_> {
    /// Looks into the value that begins here. `under_way` are marks, each with the steps that were taken towards it.
    fn value(&mut self, under_way: &[(usize, usize)], place: &mut String) {
        let shape = match self.cursor.peek() {
            Some(b'{') => Shape::Object,
            Some(b'[') => Shape::List,
            _ => Shape::Scalar,
        };
        let ends = |&&(mark, step): &&(usize, usize)| {
            let path = &self.marks[mark].0;
            step == path.len() || !path.fits(step, shape)
        };
        if let Some(&(mark, step)) = under_way.iter().find(ends) {
            let start = self.cursor.at();
            let is_null = self.cursor.peek() == Some(b'n');
            self.cursor.skip_value();
            if !is_null {
                // What is not of the expected form is hidden whole.
                let is_there = step == self.marks[mark].0.len();
                self.found.push(MarkedValue {
                    range: start..self.cursor.at(),
                    place: place.clone(),
                    part: if is_there {
                        self.marks[mark].1
                    } else {
                        SecretPart::Whole
                    },
                });
            }
            return;
        }
        match shape {
            Shape::Object => self.object(under_way, place),
            Shape::List => self.list(under_way, place),
            Shape::Scalar => self.cursor.skip_value(),
        }
    }

    fn object(&mut self, under_way: &[(usize, usize)], place: &mut String) {
        self.cursor.pass();
        while self.cursor.peek() == Some(b'"') {
            let name = said(self.cursor.string());
            self.cursor.takes(b':');
            self.part(under_way, Part::Member(&name), place);
            self.cursor.takes(b',');
        }
        self.cursor.takes(b'}');
    }

    fn list(&mut self, under_way: &[(usize, usize)], place: &mut String) {
        self.cursor.pass();
        let mut item = 0;
        while self.cursor.peek().is_some_and(|byte| byte != b']') {
            self.part(under_way, Part::Item(item), place);
            self.cursor.takes(b',');
            item += 1;
        }
        self.cursor.takes(b']');
    }

    fn part(&mut self, under_way: &[(usize, usize)], part: Part<'_>, place: &mut String) {
        let next: Vec<(usize, usize)> = under_way
            .iter()
            .filter(|(mark, step)| self.marks[*mark].0.leads_to(*step, part))
            .map(|(mark, step)| (*mark, step + 1))
            .collect();
        self.cursor.skip_space();
        if next.is_empty() {
            return self.cursor.skip_value();
        }
        let length = place.len();
        add_part(place, part);
        self.value(&next, place);
        place.truncate(length);
    }
}

fn add_part(place: &mut String, part: Part<'_>) {
    match part {
        Part::Member(name) => {
            if !place.is_empty() {
                place.push('.');
            }
            place.push_str(name);
        }
        Part::Item(item) => {
            let _ = write!(place, "[{item}]"); // writing to a String does not fail
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(paths: &[&str], payload: &str) -> String {
        let payload: Box<RawValue> = serde_json::from_str(payload).unwrap();
        let marks = Marks::of_paths(paths.iter().copied());
        let hidden = marks.replaced(&payload, |_, _| Value::from("X"));
        hidden.unwrap_or(payload).get().to_owned()
    }

    #[test]
    fn marked_fields_are_found_wherever_they_are_and_all_other_bytes_stay() {
        for (paths, payload, expected) in [
            (
                &["token"][..],
                r#"{ "a": 1e2, "token" : "s" , "b":[] }"#,
                r#"{ "a": 1e2, "token" : "X" , "b":[] }"#,
            ),
            (
                &["auth.token"],
                r#"{"auth":{"token":{"deep":[1]},"user":"u"},"token":"t"}"#,
                r#"{"auth":{"token":"X","user":"u"},"token":"t"}"#,
            ),
            (
                &["items[].secret"],
                r#"{"items":[{"secret":1},{"open":2},{"secret":[3]}]}"#,
                r#"{"items":[{"secret":"X"},{"open":2},{"secret":"X"}]}"#,
            ),
            (
                &["items[1]"],
                r#"{"items":["a","b","c"]}"#,
                r#"{"items":["a","X","c"]}"#,
            ),
            (
                &["h.*"],
                r#"{"h":{"a":1,"b":{"c":2}},"i":3}"#,
                r#"{"h":{"a":"X","b":"X"},"i":3}"#,
            ),
            (
                &["/items/1/a", "/b~1c"],
                r#"{"items":[{"a":1},{"a":2}],"b/c":3}"#,
                r#"{"items":[{"a":1},{"a":"X"}],"b/c":"X"}"#,
            ),
            (
                &["[].s"],
                r#"[{"s":1},{"s":2,"t":3}]"#,
                r#"[{"s":"X"},{"s":"X","t":3}]"#,
            ),
            (
                &["a"],
                r#"{"a":1,"\u0061":2,"b":{"a":3}}"#,
                r#"{"a":"X","\u0061":"X","b":{"a":3}}"#,
            ),
            (&["a", "a.b"], r#"{"a":{"b":1}}"#, r#"{"a":"X"}"#),
            (&[""], r#"{"a":1}"#, r#""X""#),
            (
                &["a"],
                r#"{"a":null,"b":"\"a\":1"}"#,
                r#"{"a":null,"b":"\"a\":1"}"#,
            ),
            (&["a"], "{}", "{}"),
        ] {
            assert_eq!(shown(paths, payload), expected, "{paths:?} {payload}");
        }
    }

    #[test]
    fn a_part_of_another_form_than_the_path_expects_is_found_whole() {
        for (path, payload, expected) in [
            (
                "auth.token",
                r#"{"auth":"SECRET","b":1}"#,
                r#"{"auth":"X","b":1}"#,
            ),
            (
                "auth.token",
                r#"{"auth":[{"token":"SECRET"}]}"#,
                r#"{"auth":"X"}"#,
            ),
            ("items[].a", r#"{"items":{"a":"SECRET"}}"#, r#"{"items":"X"}"#),
            ("a", r#"["SECRET"]"#, r#""X""#),
            ("a", r#""SECRET""#, r#""X""#),
            ("/a/b", r#"{"a":["SECRET"]}"#, r#"{"a":"X"}"#),
            ("a.b", r#"{"a":null}"#, r#"{"a":null}"#),
        ] {
            assert_eq!(shown(&[path], payload), expected, "{path} {payload}");
        }
    }

    #[test]
    fn an_error_is_cleaned_of_the_secrets_that_it_repeats() {
        let payload: Box<RawValue> =
            serde_json::from_str(r#"{"auth":{"token":"tok\u0065n-1","pin":4711},"user":"ada"}"#).unwrap();
        let marks = Marks::of_paths(["auth"]);
        assert_eq!(
            marks.cleaned(&payload, "ada: token-1 and 4711 refused".to_owned()),
            "ada: [redacted] and [redacted] refused"
        );
    }

    #[test]
    fn a_payload_of_any_depth_is_searched() {
        let deep = format!(
            "{{\"b\":{}1{},\"a\":2}}",
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        let found = Marks::of_paths(["a", "b[].c"]).find(&deep);
        assert_eq!(found.len(), 2);
    }
}
