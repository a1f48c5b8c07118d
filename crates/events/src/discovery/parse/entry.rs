//! An entry of a source, and what makes it fit to be stored.

use chrono::{DateTime, NaiveDateTime, Utc};
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;

use super::text::{cut, one_line};

/// The store's limits, in bytes.
const MAX_UID: usize = 512;
const MAX_TITLE: usize = 500;
const MAX_PLACE: usize = 500;
const MAX_CATEGORY: usize = 64;
const MAX_DESCRIPTION: usize = 20_000;
const MAX_URL: usize = 2_048;

/// What a source says of one event.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What the source calls it; of one occurrence among many: with `#` and its own time.
    pub uid: String,
    pub title: String,
    pub description: Option<String>,
    pub url: Option<String>,
    pub category: Option<String>,
    pub starts_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    /// An IANA name.
    pub time_zone: Option<String>,
    /// Degrees: latitude, longitude.
    pub position: Option<(f64, f64)>,
    pub place: Option<String>,
    pub cancelled: bool,
}

/// The texts of an entry as they were found.
#[derive(Debug, Default)]
pub(super) struct Texts<'a> {
    pub(super) uid: Option<&'a str>,
    pub(super) title: Option<&'a str>,
    pub(super) description: Option<&'a str>,
    pub(super) url: Option<&'a str>,
    pub(super) category: Option<&'a str>,
    pub(super) place: Option<&'a str>,
}

impl Entry {
    /// An entry whose texts fit, if there is a title. Without a name of its own it is named by what it says: the same
    /// entry has the same name the next time.
    pub(super) fn new(texts: &Texts<'_>, starts_at: DateTime<Utc>, base: &Url) -> Option<Self> {
        let title = short(texts.title, MAX_TITLE)?;
        let url = texts.url.and_then(|url| link(url, base));
        let uid = match texts.uid.map(str::trim).filter(|uid| !uid.is_empty()) {
            Some(uid) => name(uid),
            None => digest(
                "content",
                &[
                    &title,
                    url.as_deref().unwrap_or_default(),
                    &starts_at.to_rfc3339(),
                ],
            ),
        };
        let description = texts
            .description
            .map(|text| cut(text.trim(), MAX_DESCRIPTION).replace('\0', ""))
            .filter(|text| !text.is_empty());
        Some(Self {
            uid,
            title,
            description,
            url,
            category: short(texts.category, MAX_CATEGORY).map(|category| category.to_lowercase()),
            starts_at,
            ends_at: None,
            time_zone: None,
            position: None,
            place: short(texts.place, MAX_PLACE),
            cancelled: false,
        })
    }

    /// One occurrence of what repeats: the one that was planned for this moment.
    pub(super) fn occurrence(&mut self, planned: DateTime<Utc>) {
        self.uid = format!("{}{}", self.uid, planned.format(OCCURRENCE));
    }
}

/// What follows the name of an event in the name of an occurrence: 17 bytes, of years with four digits.
const OCCURRENCE: &str = "#%Y%m%dT%H%M%SZ";
const OCCURRENCE_BYTES: usize = 17;

/// The name of the event to which an entry belongs: an occurrence has its moment behind it.
pub(super) fn event_of(name: &str) -> &str {
    if is_occurrence(name) {
        &name[..name.len() - OCCURRENCE_BYTES]
    } else {
        name
    }
}

/// Whether a name is that of an occurrence.
pub(in super::super) fn is_occurrence(name: &str) -> bool {
    let at = name.len().checked_sub(OCCURRENCE_BYTES);
    at.and_then(|at| name.split_at_checked(at))
        .is_some_and(|(_, moment)| NaiveDateTime::parse_from_str(moment, OCCURRENCE).is_ok())
}

/// Degrees of a place on earth: latitude, longitude.
pub(super) fn position(lat: &str, lon: &str) -> Option<(f64, f64)> {
    let degrees = |text: &str, most: f64| -> Option<f64> {
        text.trim()
            .parse()
            .ok()
            .filter(|degrees: &f64| degrees.abs() <= most)
    };
    degrees(lat, 90.0).zip(degrees(lon, 180.0))
}

/// A name as it is, if it can be stored so, also with an occurrence behind it.
pub(super) fn name(uid: &str) -> String {
    let uid = uid.trim();
    if uid.len() <= MAX_UID - OCCURRENCE_BYTES && !uid.chars().any(char::is_control) {
        return uid.to_owned();
    }
    digest("uid", &[uid])
}

fn digest(what: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    format!("{what}:{}", Uuid::from_bytes(half).simple())
}

fn short(text: Option<&str>, most: usize) -> Option<String> {
    let line = one_line(text?);
    let line = cut(&line, most).trim_end();
    (!line.is_empty()).then(|| line.to_owned())
}

/// A link that leads somewhere.
fn link(text: &str, base: &Url) -> Option<String> {
    let url = base.join(text.trim()).ok()?;
    let sound = matches!(url.scheme(), "http" | "https") && url.as_str().len() <= MAX_URL;
    sound.then(|| url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(texts: &Texts<'_>) -> Option<Entry> {
        let base = Url::parse("https://example.com/feeds/all").unwrap();
        Entry::new(texts, DateTime::UNIX_EPOCH, &base)
    }

    #[test]
    fn texts_are_made_to_fit() {
        let long = "ä".repeat(20_000);
        let found = entry(&Texts {
            uid: Some(" a\u{7} "),
            title: Some(" Jazz\n in\tthe  park\u{0} "),
            description: Some(&long),
            url: Some("../jazz?x=1"),
            category: Some("Music & More"),
            place: Some("  "),
        })
        .unwrap();
        assert_eq!(found.title, "Jazz in the park");
        assert_eq!(found.uid.len(), "uid:".len() + 32);
        assert_eq!(found.description.unwrap().len(), MAX_DESCRIPTION);
        assert_eq!(found.url.as_deref(), Some("https://example.com/jazz?x=1"));
        assert_eq!(found.category.as_deref(), Some("music & more"));
        assert_eq!(found.place, None);
        assert_eq!(entry(&Texts::default()), None);
    }

    #[test]
    fn an_entry_without_a_name_is_named_by_what_it_says() {
        let named = |title| {
            entry(&Texts {
                title: Some(title),
                ..Texts::default()
            })
            .unwrap()
            .uid
        };
        assert_eq!(named("Jazz"), named("Jazz"));
        assert_ne!(named("Jazz"), named("Blues"));
    }

    #[test]
    fn a_link_to_anything_but_the_web_is_dropped() {
        for odd in [
            "javascript:alert(1)",
            "file:///etc/passwd",
            "mailto:a@example.com",
            "http://",
        ] {
            let texts = Texts {
                title: Some("x"),
                url: Some(odd),
                ..Texts::default()
            };
            assert_eq!(entry(&texts).unwrap().url, None, "{odd}");
        }
    }
}
