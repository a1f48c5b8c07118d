//! The API's documents as the pages read them: exact and lenient.
//!
//! A number keeps the text that the API sent, so a 40-digit integer is shown and copied as it is. A field that a document does not have
//! reads as null: a console shows the documents of older and newer APIs, and draws what it does not find as absent.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Nesting beyond this is kept as text. The API refuses payloads that are nested deeper.
const MAX_DEPTH: usize = 128;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Json {
    #[default]
    Null,
    Bool(bool),
    /// As it was written.
    Number(String),
    Text(String),
    List(Vec<Json>),
    /// In the order of the document.
    Object(Vec<(String, Json)>),
}

static NULL: Json = Json::Null;

/// The text is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("the API answered something that is not JSON")]
pub(crate) struct NotJson(#[from] serde_json::Error);

impl Json {
    pub(crate) fn parse(text: &str) -> Result<Self, NotJson> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Self::of(raw, 0)?)
    }

    fn of(raw: &RawValue, depth: usize) -> Result<Self, serde_json::Error> {
        let text = raw.get();
        if depth > MAX_DEPTH {
            return Ok(Self::Text(text.to_owned()));
        }
        match text.as_bytes().first() {
            Some(b'{') => {
                let Fields(fields) = serde_json::from_str(text)?;
                let parsed = fields
                    .into_iter()
                    .map(|(name, value)| Ok((name, Self::of(value, depth + 1)?)));
                Ok(Self::Object(parsed.collect::<Result<_, serde_json::Error>>()?))
            }
            Some(b'[') => {
                let Items(items) = serde_json::from_str(text)?;
                let parsed = items.into_iter().map(|item| Self::of(item, depth + 1));
                Ok(Self::List(parsed.collect::<Result<_, _>>()?))
            }
            Some(b'"') => Ok(Self::Text(serde_json::from_str(text)?)),
            Some(b't' | b'f') => Ok(Self::Bool(serde_json::from_str(text)?)),
            Some(b'n') | None => Ok(Self::Null),
            Some(_) => Ok(Self::Number(text.to_owned())),
        }
    }

    /// A field; null where there is none.
    pub(crate) fn get(&self, name: &str) -> &Self {
        match self {
            Self::Object(fields) => fields
                .iter()
                .find(|(field, _)| field == name)
                .map_or(&NULL, |(_, value)| value),
            _ => &NULL,
        }
    }

    /// A field of a field.
    pub(crate) fn at(&self, path: &[&str]) -> &Self {
        path.iter().fold(self, |value, name| value.get(name))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a field; empty where it has none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).as_text().unwrap_or_default()
    }

    /// A count. The API's own counts fit; those in payloads are never read as numbers.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.get(name).as_count().unwrap_or_default()
    }

    pub(crate) fn as_count(&self) -> Option<u64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn float(&self, name: &str) -> f64 {
        self.get(name).as_float().unwrap_or_default()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Self::Bool(true))
    }

    pub(crate) fn moment(&self, name: &str) -> Option<DateTime<Utc>> {
        self.get(name).as_moment()
    }

    pub(crate) fn as_moment(&self) -> Option<DateTime<Utc>> {
        self.as_text()?.parse().ok()
    }

    /// The items of a list; none of anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// The items of a list in a field.
    pub(crate) fn list(&self, name: &str) -> &[Self] {
        self.get(name).items()
    }

    pub(crate) fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Object(fields) => fields,
            _ => &[],
        }
    }

    /// The texts of a list in a field.
    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.list(name).iter().filter_map(Self::as_text)
    }

    /// A short text for a value of any type.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(flag) => flag.to_string(),
            Self::Number(number) => number.clone(),
            Self::Text(text) => text.clone(),
            Self::List(_) | Self::Object(_) => self.to_string(),
        }
    }

    /// As text on indented lines.
    pub(crate) fn pretty(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Some(0)).ok();
        text
    }

    fn write(&self, out: &mut dyn fmt::Write, indent: Option<usize>) -> fmt::Result {
        let line = |out: &mut dyn fmt::Write, depth: usize| match indent {
            Some(_) => write!(out, "\n{:width$}", "", width = depth * 2),
            None => Ok(()),
        };
        let depth = indent.unwrap_or_default();
        let deeper = indent.map(|depth| depth + 1);
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(flag) => write!(out, "{flag}"),
            Self::Number(number) => out.write_str(number),
            Self::Text(text) => out.write_str(&quoted(text)),
            Self::List(items) if items.is_empty() => out.write_str("[]"),
            Self::Object(fields) if fields.is_empty() => out.write_str("{}"),
            Self::List(items) => {
                out.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    out.write_str(if index == 0 { "" } else { "," })?;
                    line(out, depth + 1)?;
                    item.write(out, deeper)?;
                }
                line(out, depth)?;
                out.write_char(']')
            }
            Self::Object(fields) => {
                out.write_char('{')?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    out.write_str(if index == 0 { "" } else { "," })?;
                    line(out, depth + 1)?;
                    out.write_str(&quoted(name))?;
                    out.write_str(if indent.is_some() { ": " } else { ":" })?;
                    value.write(out, deeper)?;
                }
                line(out, depth)?;
                out.write_char('}')
            }
        }
    }
}

/// On one line.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

/// A text as JSON writes it.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// The fields of an object in their order; a repeated name is kept.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsFields;
        impl<'de> Visitor<'de> for AsFields {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(AsFields)
    }
}

struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsItems;
        impl<'de> Visitor<'de> for AsItems {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Items<'de>, A::Error> {
                let mut found = Vec::new();
                while let Some(item) = items.next_element::<&'de RawValue>()? {
                    found.push(item);
                }
                Ok(Items(found))
            }
        }
        deserializer.deserialize_seq(AsItems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit() {
        let text = r#"{"big":9223372036854775808,"bigger":1234567890123456789012345678901234567890,"float":1.10,"e":1E400}"#;
        let json = Json::parse(text).unwrap();
        assert_eq!(json.to_string(), text);
        assert!(json.pretty().contains("1234567890123456789012345678901234567890"));
    }

    #[test]
    fn what_is_absent_reads_as_null() {
        let json = Json::parse(r#"{"a":{"b":[1,"x",true,null]}}"#).unwrap();
        assert_eq!(json.at(&["a", "b"]).items().len(), 4);
        assert!(json.at(&["a", "c", "d"]).is_null());
        assert_eq!(json.text("a"), "");
        assert!(Json::parse("{").is_err());
    }

    #[test]
    fn texts_are_quoted_as_json_quotes_them() {
        let json = Json::parse(r#"["\u0000\"\\\n", {}, []]"#).unwrap();
        assert_eq!(json.to_string(), r#"["\u0000\"\\\n",{},[]]"#);
        assert_eq!(json.pretty(), "[\n  \"\\u0000\\\"\\\\\\n\",\n  {},\n  []\n]");
    }
}
