//! JSON whose fields are mapped: a source says by JSON pointers (RFC 6901) where an entry's fields are.
//!
//! The list is walked through in place, and one entry at a time is a tree: so a body of brackets costs no more memory than
//! a body of prose.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::entry::{Texts, position};
use super::ical::{iana, windows_zone};
use super::text::{decode, is_html, plain, plain_line};
use super::{Entry, Note, ParseFault, ParsedItem, Reading, Sink, dates};

/// Longest pointer, in bytes.
const MAX_POINTER: usize = 256;

/// Where an entry's fields are. `entries` leads from the root to the list, the others from an entry to its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Empty: the body is the list.
    #[serde(default)]
    pub entries: String,
    /// Left out: entries are named by what they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    pub title: String,
    /// A text in any usual format, or the Unix epoch in seconds or milliseconds.
    pub starts_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// An IANA name, in which this entry's times are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lat: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lon: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// `true`, or a text such as `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<String>,
}

impl Mapping {
    /// What is wrong with it: the field, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let optional = [
            ("uid", &self.uid),
            ("ends_at", &self.ends_at),
            ("description", &self.description),
            ("url", &self.url),
            ("category", &self.category),
            ("time_zone", &self.time_zone),
            ("lat", &self.lat),
            ("lon", &self.lon),
            ("place", &self.place),
            ("cancelled", &self.cancelled),
        ];
        let given = [
            ("entries", Some(&self.entries)),
            ("title", Some(&self.title)),
            ("starts_at", Some(&self.starts_at)),
        ];
        let pointers = given
            .into_iter()
            .chain(optional.map(|(field, pointer)| (field, pointer.as_ref())));
        for (field, pointer) in pointers {
            let Some(pointer) = pointer else { continue };
            let reason = if pointer.is_empty() && field != "entries" {
                "must not be empty".to_owned()
            } else if pointer.len() > MAX_POINTER {
                format!("is longer than {MAX_POINTER} bytes")
            } else if !pointer.is_empty() && !pointer.starts_with('/') {
                "is not a JSON pointer; it begins with a slash, such as /start/date".to_owned()
            } else {
                continue;
            };
            return Some((field, reason));
        }
        (self.lat.is_some() != self.lon.is_some())
            .then(|| ("lat", "comes with lon, or both are left out".to_owned()))
    }

    fn of_json_feed() -> Self {
        let some = |pointer: &str| Some(pointer.to_owned());
        Self {
            entries: "/items".to_owned(),
            uid: some("/id"),
            title: "/title".to_owned(),
            starts_at: "/date_published".to_owned(),
            ends_at: None,
            description: some("/summary"),
            url: some("/url"),
            category: some("/tags/0"),
            time_zone: None,
            lat: None,
            lon: None,
            place: None,
            cancelled: None,
        }
    }
}

pub(super) fn parse(
    mapping: &Mapping,
    body: &[u8],
    reading: &Reading<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ParseFault> {
    const EXPECTED: &str = "JSON";
    let (text, note) = decode(body, reading.content_type);
    if text.trim_start().is_empty() {
        return Err(ParseFault::Empty);
    }
    if is_html(&text) {
        return Err(ParseFault::Html(EXPECTED));
    }
    if let Some(note) = note
        && sink(ParsedItem::Noted(note)).is_break()
    {
        return Ok(());
    }
    let list = list_at(&text, &mapping.entries, EXPECTED)?;
    each(list, EXPECTED, &mut |index, raw| match tree(index, raw) {
        Ok(value) => entry(mapping, index, &value, reading, sink),
        Err(note) => sink(ParsedItem::Skipped(note)),
    })
}

/// A JSON Feed, of which `text` is the whole.
pub(super) fn parse_feed(text: &str, reading: &Reading<'_>, sink: &mut Sink<'_>) -> Result<(), ParseFault> {
    const EXPECTED: &str = "a feed";
    let mapping = Mapping::of_json_feed();
    let version = child(whole(text, EXPECTED)?, "version")
        .map(RawValue::get)
        .unwrap_or_default();
    if !version.contains("://jsonfeed.org/version/1") {
        return Err(ParseFault::not(
            EXPECTED,
            "it is JSON without the version of a JSON Feed",
        ));
    }
    let list = list_at(text, &mapping.entries, EXPECTED)?;
    each(list, EXPECTED, &mut |index, raw| {
        let mut raw_entry = match tree(index, raw) {
            Ok(value) => value,
            Err(note) => return sink(ParsedItem::Skipped(note)),
        };
        fill_in_feed_entry(&mut raw_entry);
        entry(&mapping, index, &raw_entry, reading, sink)
    })
}

/// JSON Feed has alternatives where a mapping has one place.
fn fill_in_feed_entry(entry: &mut Value) {
    let Some(fields) = entry.as_object_mut() else {
        return;
    };
    // What has no id is named by its link.
    let alternatives: [(&str, &[&str]); 5] = [
        ("id", &["url", "external_url"]),
        ("summary", &["content_text", "content_html"]),
        ("title", &["summary", "content_text", "content_html"]),
        ("date_published", &["date_modified"]),
        ("url", &["external_url"]),
    ];
    for (field, others) in alternatives {
        let missing = fields
            .get(field)
            .is_none_or(|value| value.is_null() || value == "");
        let other = others.iter().find_map(|other| fields.get(*other)).cloned();
        if missing && let Some(other) = other {
            fields.insert(field.to_owned(), other);
        }
    }
}

fn whole<'a>(text: &'a str, expected: &'static str) -> Result<&'a RawValue, ParseFault> {
    serde_json::from_str(text).map_err(|error| ParseFault::not(expected, error.to_string()))
}

fn list_at<'a>(text: &'a str, pointer: &str, expected: &'static str) -> Result<&'a RawValue, ParseFault> {
    let mut at = whole(text, expected)?;
    for segment in pointer.split('/').skip(1) {
        let name = segment.replace("~1", "/").replace("~0", "~");
        at = child(at, &name)
            .ok_or_else(|| ParseFault::not(expected, format!("it has nothing at {pointer}")))?;
    }
    if !at.get().starts_with('[') {
        let place = if pointer.is_empty() { "the root" } else { pointer };
        return Err(ParseFault::not(
            expected,
            format!("what is at {place} is not a list"),
        ));
    }
    Ok(at)
}

fn child<'a>(value: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    if value.get().starts_with('{') {
        let fields: HashMap<String, &'a RawValue> = serde_json::from_str(value.get()).ok()?;
        return fields.get(name).copied();
    }
    let elements: Vec<&'a RawValue> = serde_json::from_str(value.get()).ok()?;
    elements.get(name.parse::<usize>().ok()?).copied()
}

/// Calls `take` with each element, and keeps none.
fn each(
    list: &RawValue,
    expected: &'static str,
    take: &mut dyn FnMut(usize, &RawValue) -> ControlFlow<()>,
) -> Result<(), ParseFault> {
    struct Walk<'t>(&'t mut dyn FnMut(usize, &RawValue) -> ControlFlow<()>);

    impl<'de> DeserializeSeed<'de> for Walk<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_seq(self)
        }
    }

    impl<'de> Visitor<'de> for Walk<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
            let mut more = ControlFlow::Continue(());
            let mut index = 0;
            while let Some(element) = elements.next_element::<&'de RawValue>()? {
                if more.is_continue() {
                    more = (self.0)(index, element);
                }
                index += 1;
            }
            Ok(())
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(list.get());
    Walk(take)
        .deserialize(&mut deserializer)
        .map_err(|error| ParseFault::not(expected, error.to_string()))
}

fn tree(index: usize, raw: &RawValue) -> Result<Value, Note> {
    serde_json::from_str(raw.get()).map_err(|error| Note::new(place(index), error.to_string()))
}

fn place(index: usize) -> String {
    format!("entry {}", index + 1)
}

/// Hands over an entry, after a note of the optional fields that could not be read.
fn entry(
    mapping: &Mapping,
    index: usize,
    value: &Value,
    reading: &Reading<'_>,
    sink: &mut Sink<'_>,
) -> ControlFlow<()> {
    let mut faults = Vec::new();
    let found = match read(mapping, value, reading, &mut faults) {
        Ok(Some(entry)) => ParsedItem::Entry(Box::new(entry)),
        Ok(None) => return sink(ParsedItem::Outside),
        Err(reason) => return sink(ParsedItem::Skipped(Note::new(place(index), reason))),
    };
    if !faults.is_empty() {
        let note = Note::new(
            place(index),
            format!("is read without a field: it {}", faults.join("; ")),
        );
        if sink(ParsedItem::Noted(note)).is_break() {
            return ControlFlow::Break(());
        }
    }
    sink(found)
}

/// An optional value, or `None` and a fault.
fn unless<T>(read: Result<Option<T>, String>, faults: &mut Vec<String>) -> Option<T> {
    read.unwrap_or_else(|fault| {
        faults.push(fault);
        None
    })
}

/// The zone of an entry's times. One that cannot be read matters to times that name no offset alone.
fn zone_of(
    name: Option<&str>,
    starts: Option<&Value>,
    faults: &mut Vec<String>,
) -> Result<Option<Tz>, String> {
    let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if let Some(zone) = iana(name).or_else(|| windows_zone(name)) {
        return Ok(Some(zone));
    }
    let fault = format!("names the time zone {name:?}, which is not an IANA zone");
    let text = starts.and_then(Value::as_str).unwrap_or_default();
    let floats = dates::parse(text, Tz::UTC) != dates::parse(text, Tz::Asia__Tokyo);
    if floats {
        return Err(fault);
    }
    faults.push(fault);
    Ok(None)
}

fn read(
    mapping: &Mapping,
    value: &Value,
    reading: &Reading<'_>,
    faults: &mut Vec<String>,
) -> Result<Option<Entry>, String> {
    if !value.is_object() && !value.is_array() {
        return Err("is not an object".to_owned());
    }
    let at = |pointer: &Option<String>| text_at(value, pointer.as_deref());
    let zone_name = at(&mapping.time_zone);
    let named = zone_of(zone_name.as_deref(), value.pointer(&mapping.starts_at), faults)?;
    let zone = named.unwrap_or(reading.zone());
    let starts_at = moment(value, &mapping.starts_at, zone)?.ok_or_else(|| {
        format!(
            "has nothing at {}, where it should say when it starts",
            mapping.starts_at
        )
    })?;
    let ends_at = mapping
        .ends_at
        .as_ref()
        .map_or(Ok(None), |pointer| moment(value, pointer, zone));
    let mut ends_at = unless(ends_at, faults);
    if ends_at.is_some_and(|ends| ends < starts_at) {
        faults.push("ends before it begins".to_owned());
        ends_at = None;
    }
    if !reading.covers(starts_at, ends_at) {
        return Ok(None);
    }
    let (uid, description) = (at(&mapping.uid), at(&mapping.description));
    let (url, category, place) = (at(&mapping.url), at(&mapping.category), at(&mapping.place));
    let title = text_at(value, Some(&mapping.title));
    let title = title.as_deref().map(plain_line);
    let description = description.as_deref().map(plain);
    let texts = Texts {
        uid: uid.as_deref(),
        title: title.as_deref(),
        description: description.as_deref(),
        url: url.as_deref(),
        category: category.as_deref(),
        place: place.as_deref(),
    };
    let mut entry = Entry::new(&texts, starts_at, reading.url)
        .ok_or_else(|| format!("has no title at {}", mapping.title))?;
    entry.ends_at = ends_at;
    entry.time_zone = named.or(reading.zone).map(|zone| zone.name().to_owned());
    entry.position = unless(place_of(mapping, value), faults);
    if let (Some(url), None) = (url.filter(|url| !url.trim().is_empty()), &entry.url) {
        faults.push(format!(
            "says {url:?} at {}, which is not a web address",
            mapping.url.as_deref().unwrap_or_default()
        ));
    }
    entry.cancelled = at(&mapping.cancelled).is_some_and(|text| {
        matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "cancelled" | "canceled" | "1"
        )
    });
    Ok(Some(entry))
}

fn text_at(value: &Value, pointer: Option<&str>) -> Option<String> {
    match value.pointer(pointer?)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The moment at a place, if there is anything.
fn moment(value: &Value, pointer: &str, zone: Tz) -> Result<Option<DateTime<Utc>>, String> {
    let fault = |said: &dyn fmt::Display| format!("says {said} at {pointer}, which is not a time");
    match value.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => dates::parse(text, zone)
            .map(Some)
            .ok_or_else(|| fault(&format!("{text:?}"))),
        Some(Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|number| number as i64))
            .and_then(dates::of_epoch)
            .map(Some)
            .ok_or_else(|| fault(number)),
        Some(_) => Err(format!(
            "has neither a text nor a number at {pointer}, where a time is expected"
        )),
    }
}

fn place_of(mapping: &Mapping, value: &Value) -> Result<Option<(f64, f64)>, String> {
    let text = |pointer: &Option<String>| text_at(value, pointer.as_deref());
    match (text(&mapping.lat), text(&mapping.lon)) {
        (Some(lat), Some(lon)) => position(&lat, &lon).map(Some).ok_or_else(|| {
            let at = mapping.lat.as_deref().unwrap_or_default();
            format!("says {lat:?}, {lon:?} at {at}, which are not degrees of latitude and longitude")
        }),
        // Half a place is none.
        _ => Ok(None),
    }
}
