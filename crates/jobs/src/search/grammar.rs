//! The language of searches, the same in `GET /v1/jobs?q=`, `holdfast jobs list --where` and the console:
//!
//! ```text
//! kind:http.request state:discarded error:"timed out" payload.customer.id:42 queue:a,b age:>1h attempt:>=2 -state:completed
//! ```
//!
//! A text is a list of terms, and a job matches if all of them hold. A term is `field:value`; of several values, separated by commas, one
//! is enough; `-` before the field means the opposite. A value with white space, commas or quotation marks is written in `"`, with `\"` and
//! `\\` inside.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::query::{Comparison, Condition, JobQuery, Term};
use crate::id::JobId;
use crate::ledger::Priority;
use crate::marks::{FieldPath, InvalidPath};

/// Longest text of a search, in bytes.
pub const MAX_QUERY_BYTES: usize = 2_000;

/// Most terms of a search.
pub const MAX_TERMS: usize = 20;

/// Most values of one term.
pub const MAX_VALUES: usize = 50;

/// Longest piece of a term that a fault repeats, in characters.
const QUOTED: usize = 80;

/// What stands before the path of a field of the payload.
const PAYLOAD: &str = "payload";

/// Every field but those of the payload.
const FIELDS: [&str; 16] = [
    "kind", "queue", "state", "priority", "tag", "key", "unique", "by", "batch", "worker", "id", "attempt",
    "crashes", "age", "error", PAYLOAD,
];

/// A term that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{term}`: {reason}")]
pub struct TermFault {
    /// The term as it was given, shortened.
    pub term: String,
    pub reason: String,
}

impl TermFault {
    fn new(term: &str, reason: impl Into<String>) -> Self {
        Self {
            term: term.chars().take(QUOTED).collect(),
            reason: reason.into(),
        }
    }
}

impl FromStr for JobQuery {
    type Err = TermFault;

    fn from_str(text: &str) -> Result<Self, TermFault> {
        if text.len() > MAX_QUERY_BYTES {
            return Err(TermFault::new(
                text,
                format!("a search has at most {MAX_QUERY_BYTES} bytes"),
            ));
        }
        let mut query = Self::default();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (term, after) = split_term(rest)?;
            if query.terms.len() == MAX_TERMS {
                return Err(TermFault::new(
                    term,
                    format!("a search has at most {MAX_TERMS} terms"),
                ));
            }
            query.terms.push(term_of(term)?);
            rest = after.trim_start();
        }
        Ok(query)
    }
}

/// The first term of a text, and what follows it.
fn split_term(text: &str) -> Result<(&str, &str), TermFault> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            space if space.is_whitespace() && !is_quoted => return Ok(text.split_at(at)),
            _ => {}
        }
    }
    if is_quoted {
        return Err(TermFault::new(text, "the quotation mark is not closed"));
    }
    Ok((text, ""))
}

fn term_of(term: &str) -> Result<Term, TermFault> {
    let fault = |reason: String| TermFault::new(term, reason);
    let (is_negated, positive) = match term.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, term),
    };
    let (field, text) = positive
        .split_once(':')
        .ok_or_else(|| fault(format!("a term is `field:value`; the fields are {}", fields())))?;
    let values = values(text).map_err(|reason| fault(reason.to_owned()))?;
    let condition = condition(field, &values).map_err(fault)?;
    Ok(Term {
        is_negated,
        condition,
    })
}

fn fields() -> String {
    format!("{} and payload.PATH", FIELDS.join(", "))
}

/// A value, and whether it was written in quotation marks.
struct Value {
    text: String,
    is_quoted: bool,
}

/// The values between commas.
fn values(text: &str) -> Result<Vec<Value>, &'static str> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let (value, after) = if let Some(inside) = rest.strip_prefix('"') {
            quoted(inside)?
        } else {
            let (bare, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            if bare.contains('"') {
                return Err("write all of a value in quotation marks, or none of it");
            }
            let value = Value {
                text: bare.to_owned(),
                is_quoted: false,
            };
            (value, after)
        };
        if value.text.is_empty() && !value.is_quoted {
            return Err("a value is missing");
        }
        values.push(value);
        if values.len() > MAX_VALUES {
            return Err("a term has at most 50 values");
        }
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None if after.is_empty() => return Ok(values),
            None => return Err("write a comma between values"),
        };
    }
}

/// The value up to its closing quotation mark, and what follows it.
fn quoted(inside: &str) -> Result<(Value, &str), &'static str> {
    let mut text = String::new();
    let mut characters = inside.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let after = inside.get(at + 1..).unwrap_or_default();
                return Ok((
                    Value {
                        text,
                        is_quoted: true,
                    },
                    after,
                ));
            }
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                _ => return Err("inside quotation marks, `\\` stands before `\"` or `\\`"),
            },
            other => text.push(other),
        }
    }
    Err("the quotation mark is not closed")
}

fn condition(field: &str, values: &[Value]) -> Result<Condition, String> {
    let texts = || values.iter().map(|value| value.text.clone()).collect::<Vec<_>>();
    let one = |what: &str| match values {
        [one] => Ok(&*one.text),
        _ => Err(format!("{field} takes one value: {what}")),
    };
    Ok(match field {
        "kind" => Condition::Kind(texts()),
        "queue" => Condition::Queue(texts()),
        "key" => Condition::LimitKey(texts()),
        "unique" => Condition::UniqueKey(texts()),
        "tag" => Condition::Tag(texts()),
        "by" => Condition::EnqueuedBy(texts()),
        "error" => Condition::Error(needles(values)?),
        PAYLOAD => Condition::PayloadText(needles(values)?),
        "state" => Condition::State(parsed(values)?),
        "batch" => Condition::Batch(parsed(values)?),
        "worker" => Condition::Worker(parsed(values)?),
        "priority" => Condition::Priority(values.iter().map(priority).collect::<Result<_, _>>()?),
        "id" => Condition::Id(
            values
                .iter()
                .map(|value| id_range(&value.text))
                .collect::<Result<_, _>>()?,
        ),
        "attempt" | "crashes" => {
            let what = "a whole number such as 2, >=2 or <5";
            let (comparison, rest) = comparison(one(what)?);
            let number = rest.parse::<u32>().map_err(|_| format!("expected {what}"))?;
            match field {
                "attempt" => Condition::Attempt(comparison, i64::from(number)),
                _ => Condition::Crashes(comparison, i64::from(number)),
            }
        }
        "age" => {
            let what = "a span such as >1h or <=90s; the units are s, m, h and d";
            let (comparison, rest) = comparison(one(what)?);
            if comparison == Comparison::Equal {
                return Err(format!("expected {what}"));
            }
            Condition::Age(comparison, span(rest).ok_or_else(|| format!("expected {what}"))?)
        }
        path => match path.strip_prefix(PAYLOAD) {
            Some(path) if path.starts_with(['.', '/', '[']) => Condition::PayloadValue(
                payload_path(path).map_err(|error| format!("`{field}` {error}"))?,
                payload_values(values)?,
            ),
            _ => {
                return Err(format!(
                    "there is no field `{}`; the fields are {}",
                    ShortenedText(field),
                    fields()
                ));
            }
        },
    })
}

struct ShortenedText<'t>(&'t str);

impl fmt::Display for ShortenedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .take(QUOTED)
            .try_for_each(|character| write!(f, "{character}"))
    }
}

/// What follows `payload`: `.customer.id`, `[0].sku`, `/customer/id`.
fn payload_path(path: &str) -> Result<FieldPath, InvalidPath> {
    match path.strip_prefix('.') {
        Some("") => Err(InvalidPath),
        Some(members) => members.parse(),
        None => path.parse(),
    }
}

/// Values that are compared as a whole. What looks like a comparison of numbers is refused: it would match nothing.
fn payload_values(values: &[Value]) -> Result<Vec<String>, String> {
    if let Some(value) = values
        .iter()
        .find(|value| !value.is_quoted && value.text.starts_with(['<', '>']))
    {
        return Err(format!(
            "fields of the payload are compared for equality; write \"{}\" if that is the value",
            value.text
        ));
    }
    Ok(values.iter().map(|value| value.text.clone()).collect())
}

/// Pieces of a text, in lower case.
fn needles(values: &[Value]) -> Result<Vec<String>, String> {
    if values.iter().any(|value| value.text.is_empty()) {
        return Err("an empty text is in every text".to_owned());
    }
    Ok(values.iter().map(|value| value.text.to_lowercase()).collect())
}

fn parsed<T: FromStr<Err: fmt::Display>>(values: &[Value]) -> Result<Vec<T>, String> {
    let parse = |value: &Value| value.text.parse::<T>().map_err(|error| error.to_string());
    values.iter().map(parse).collect()
}

fn priority(value: &Value) -> Result<Priority, String> {
    match value.text.as_str() {
        "high" => Ok(Priority::High),
        "normal" => Ok(Priority::Normal),
        "low" => Ok(Priority::Low),
        _ => Err("the priorities are high, normal and low".to_owned()),
    }
}

fn comparison(text: &str) -> (Comparison, &str) {
    [
        (">=", Comparison::AtLeast),
        ("<=", Comparison::AtMost),
        (">", Comparison::More),
        ("<", Comparison::Less),
        ("=", Comparison::Equal),
    ]
    .into_iter()
    .find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?)))
    .unwrap_or((Comparison::Equal, text))
}

/// `90s`, `15m`, `1h`, `2d`; up to a hundred years.
fn span(text: &str) -> Option<Duration> {
    const CENTURY: u64 = 100 * 366 * 86_400;
    let (number, seconds) = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    let seconds = number.parse::<u64>().ok()?.checked_mul(seconds)?;
    (seconds <= CENTURY).then(|| Duration::from_secs(seconds))
}

/// The first and the last id that begins with a text.
fn id_range(text: &str) -> Result<(JobId, JobId), String> {
    const LENGTH: usize = 26;
    let edge = |fill: &str| {
        let left = LENGTH.checked_sub(text.len())?;
        format!("{text}{}", fill.repeat(left)).parse::<JobId>().ok()
    };
    match (edge("0"), edge("Z")) {
        (Some(first), Some(last)) if !text.is_empty() => Ok((first, last)),
        _ => match text.parse::<JobId>() {
            Ok(id) => Ok((id, id)),
            Err(_) => Err(format!(
                "`{}` is neither an id nor the beginning of one",
                ShortenedText(text)
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn parse(text: &str) -> Result<Vec<(bool, Condition)>, String> {
        let query: Result<JobQuery, _> = text.parse();
        query
            .map(|query| {
                query
                    .terms
                    .into_iter()
                    .map(|term| (term.is_negated, term.condition))
                    .collect()
            })
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_example_of_the_documents_is_read() {
        let text = r#"kind:http.request state:discarded error:"timed out" payload.customer.id:42 queue:a,b age:>1h attempt:>=2 -state:completed"#;
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            parse(text).unwrap(),
            [
                (false, Condition::Kind(strings(&["http.request"]))),
                (false, Condition::State(vec![State::Discarded])),
                (false, Condition::Error(strings(&["timed out"]))),
                (
                    false,
                    Condition::PayloadValue("customer.id".parse().unwrap(), strings(&["42"]))
                ),
                (false, Condition::Queue(strings(&["a", "b"]))),
                (false, Condition::Age(Comparison::More, Duration::from_hours(1))),
                (false, Condition::Attempt(Comparison::AtLeast, 2)),
                (true, Condition::State(vec![State::Completed])),
            ]
        );
        assert_eq!(parse("  ").unwrap(), []);
    }

    #[test]
    fn quotation_marks_hold_what_would_end_a_value() {
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (text, condition) in [
            (r#"key:"a,b",c"#, Condition::LimitKey(strings(&["a,b", "c"]))),
            (
                r#"key:"a \"b\" \\ c""#,
                Condition::LimitKey(strings(&[r#"a "b" \ c"#])),
            ),
            (
                r#"payload.note:"""#,
                Condition::PayloadValue("note".parse().unwrap(), strings(&[""])),
            ),
            (
                "payload/a~1b:1",
                Condition::PayloadValue("/a~1b".parse().unwrap(), strings(&["1"])),
            ),
            (
                "payload[].id:x",
                Condition::PayloadValue("[].id".parse().unwrap(), strings(&["x"])),
            ),
            (
                r#"payload.sign:">1""#,
                Condition::PayloadValue("sign".parse().unwrap(), strings(&[">1"])),
            ),
            ("payload:ACME", Condition::PayloadText(strings(&["acme"]))),
            ("kind:a:b", Condition::Kind(strings(&["a:b"]))),
        ] {
            assert_eq!(parse(text).unwrap(), [(false, condition)], "{text}");
        }
    }

    #[test]
    fn a_wrong_term_is_named_with_what_is_allowed() {
        for (text, part) in [
            (
                "kind:a stat:done",
                "`stat:done`: there is no field `stat`; the fields are kind,",
            ),
            ("timeout", "`timeout`: a term is `field:value`"),
            ("state:done", "unknown state \"done\": expected one of scheduled,"),
            ("state:", "a value is missing"),
            ("queue:a,,b", "a value is missing"),
            (r#"error:"open"#, "is not closed"),
            (r#"key:"a"b"#, "write a comma between values"),
            (r#"key:a"b"c"#, "all of a value in quotation marks"),
            ("attempt:many", "a whole number such as 2"),
            ("attempt:1,2", "attempt takes one value"),
            ("age:1h", "a span such as >1h"),
            ("age:>soon", "a span such as >1h"),
            ("priority:urgent", "the priorities are high, normal and low"),
            ("batch:7", "not an id"),
            ("id:UUU", "the beginning of one"),
            ("payload.a:>1", "compared for equality"),
            ("payload.a..b:1", "no path"),
            ("payloads.a:1", "there is no field `payloads.a`"),
            (r#"error:"""#, "an empty text"),
            ("payload.:1", "no path"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
        let many = "kind:a ".repeat(MAX_TERMS + 1);
        assert!(parse(&many).unwrap_err().contains("at most 20 terms"));
        let long = "k".repeat(MAX_QUERY_BYTES + 1);
        assert!(parse(&long).unwrap_err().contains("at most 2000 bytes"));
    }

    #[test]
    fn the_beginning_of_an_id_is_a_range_of_ids() {
        let id: JobId = "01JD3V0S7W8Q4M2XKZC5T9R6BH".parse().unwrap();
        for text in ["0", "01JD3V", "01jd3v0s7w", "01JD3V0S7W8Q4M2XKZC5T9R6BH"] {
            let (first, last) = id_range(text).unwrap();
            assert!(first <= id && id <= last, "{text}");
        }
        let (first, last) = id_range("01JD3W").unwrap();
        assert!(id < first && first < last);
        let uuid = id.as_uuid().to_string();
        assert_eq!(id_range(&uuid), Ok((id, id)));
    }
}
