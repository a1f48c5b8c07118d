//! What an event may say.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;

use super::NewEvent;

/// Longest name of a source, in bytes.
const MAX_SOURCE: usize = 128;
/// In bytes.
pub const MAX_UID: usize = 512;
/// In bytes.
pub const MAX_TITLE: usize = 500;
/// In bytes.
pub const MAX_DESCRIPTION: usize = 20_000;
/// In bytes.
const MAX_URL: usize = 2_048;
/// In bytes.
const MAX_CATEGORY: usize = 64;
/// In bytes.
const MAX_PLACE: usize = 500;

/// 1970 and 9999: beyond them no database and no JSON agree on what a time is.
const YEARS: std::ops::RangeInclusive<i64> = 0..=253_402_300_799;

/// What is wrong with an event, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct EventFault {
    pub field: &'static str,
    pub reason: String,
}

fn fault(field: &'static str, reason: impl Into<String>) -> EventFault {
    EventFault {
        field,
        reason: reason.into(),
    }
}

impl NewEvent {
    /// Texts without blanks around them, the category in lower case, empty ones left out, times to the millisecond: what is
    /// the same to people shall be the same to us.
    #[must_use]
    pub fn tidy(mut self) -> Self {
        let trimmed = |text: Option<String>| {
            text.map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        self.title = self.title.trim().to_owned();
        self.source = trimmed(self.source);
        self.description = trimmed(self.description);
        self.url = trimmed(self.url);
        self.category = trimmed(self.category).map(|category| category.to_lowercase());
        self.time_zone = trimmed(self.time_zone);
        self.place = trimmed(self.place);
        self.starts_at = to_the_millisecond(self.starts_at);
        self.ends_at = self.ends_at.map(to_the_millisecond);
        self
    }

    /// Whether it can be stored as it is.
    pub fn check(&self) -> Result<(), EventFault> {
        line("uid", &self.uid, MAX_UID)?;
        line("title", &self.title, MAX_TITLE)?;
        optional("source", self.source.as_deref(), MAX_SOURCE)?;
        optional("category", self.category.as_deref(), MAX_CATEGORY)?;
        optional("place", self.place.as_deref(), MAX_PLACE)?;
        let description = self.description.as_deref().unwrap_or_default();
        if description.len() > MAX_DESCRIPTION || description.contains('\0') {
            let reason = format!("has at most {MAX_DESCRIPTION} bytes, and no NUL");
            return Err(fault("description", reason));
        }
        self.check_url()?;
        self.check_times()?;
        self.check_position()
    }

    fn check_url(&self) -> Result<(), EventFault> {
        let Some(text) = &self.url else { return Ok(()) };
        let sound = text.len() <= MAX_URL
            && !text.chars().any(char::is_control)
            && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if sound {
            return Ok(());
        }
        let reason = format!("must be an http or https URL of at most {MAX_URL} bytes");
        Err(fault("url", reason))
    }

    fn check_times(&self) -> Result<(), EventFault> {
        for (field, at) in [("starts_at", Some(self.starts_at)), ("ends_at", self.ends_at)] {
            if at.is_some_and(|at| !YEARS.contains(&at.timestamp())) {
                return Err(fault(field, "must lie between the years 1970 and 9999"));
            }
        }
        if self.ends_at.is_some_and(|ends| ends < self.starts_at) {
            return Err(fault("ends_at", "lies before starts_at"));
        }
        match &self.time_zone {
            Some(zone) if zone.parse::<chrono_tz::Tz>().is_err() => Err(fault(
                "time_zone",
                "is not an IANA time zone, such as Europe/Vienna",
            )),
            _ => Ok(()),
        }
    }

    fn check_position(&self) -> Result<(), EventFault> {
        let Some((lat, lon)) = self.position else {
            return Ok(());
        };
        // A NaN is in no range.
        if !(-90.0..=90.0).contains(&lat) {
            return Err(fault("lat", "must lie between -90 and 90 degrees"));
        }
        if !(-180.0..=180.0).contains(&lon) {
            return Err(fault("lon", "must lie between -180 and 180 degrees"));
        }
        Ok(())
    }

    /// 128 bits of the SHA-256 of what it says: all but who says it, by what name, and whether it was cancelled.
    pub fn content_hash(&self) -> Uuid {
        let Self {
            source: _,
            uid: _,
            title,
            description,
            url,
            category,
            starts_at,
            ends_at,
            time_zone,
            position,
            place,
            cancelled: _,
        } = self;
        let mut hash = Sha256::new();
        let texts = [Some(title), description.as_ref(), url.as_ref()];
        let more = [category.as_ref(), time_zone.as_ref(), place.as_ref()];
        for text in texts.into_iter().chain(more) {
            // Lengths part the texts; a text that is missing is not an empty one.
            hash.update(text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            hash.update(text.map_or("", String::as_str));
        }
        hash.update(starts_at.timestamp_millis().to_le_bytes());
        hash.update(
            ends_at
                .map_or(i64::MIN, |ends| ends.timestamp_millis())
                .to_le_bytes(),
        );
        let (lat, lon) = position.unwrap_or((f64::INFINITY, f64::INFINITY));
        hash.update(lat.to_le_bytes());
        hash.update(lon.to_le_bytes());
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Uuid::from_bytes(bytes)
    }
}

fn to_the_millisecond(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap_or(at)
}

/// One line of text.
fn line(field: &'static str, text: &str, most: usize) -> Result<(), EventFault> {
    if (1..=most).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let reason = format!("must have 1 to {most} bytes, and no control characters");
    Err(fault(field, reason))
}

fn optional(field: &'static str, text: Option<&str>, most: usize) -> Result<(), EventFault> {
    text.map_or(Ok(()), |text| line(field, text, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> NewEvent {
        NewEvent {
            source: None,
            uid: "a".to_owned(),
            title: "Jazz".to_owned(),
            description: None,
            url: Some("https://example.com/a".to_owned()),
            category: Some("music".to_owned()),
            starts_at: DateTime::from_timestamp(1_900_000_000, 0).unwrap(),
            ends_at: DateTime::from_timestamp(1_900_003_600, 0),
            time_zone: Some("Europe/Vienna".to_owned()),
            position: Some((47.27, 11.4)),
            place: None,
            cancelled: false,
        }
    }

    type Spoil = fn(&mut NewEvent);

    #[test]
    fn every_fault_is_found_and_named() {
        assert_eq!(event().check(), Ok(()));
        let faulty: [(&str, Spoil); 14] = [
            ("uid", |e| e.uid = String::new()),
            ("uid", |e| e.uid = "x".repeat(MAX_UID + 1)),
            ("title", |e| e.title = "two\nlines".to_owned()),
            ("source", |e| e.source = Some("x".repeat(129))),
            ("category", |e| e.category = Some(String::new())),
            ("place", |e| e.place = Some("\u{7}".to_owned())),
            ("description", |e| e.description = Some("\0".to_owned())),
            ("url", |e| e.url = Some("javascript:alert(1)".to_owned())),
            ("url", |e| e.url = Some("no url".to_owned())),
            ("ends_at", |e| {
                e.ends_at = DateTime::from_timestamp(1_899_999_999, 0);
            }),
            ("starts_at", |e| {
                e.starts_at = DateTime::from_timestamp(-1, 0).unwrap();
            }),
            ("time_zone", |e| e.time_zone = Some("Mars/Base".to_owned())),
            ("lat", |e| e.position = Some((f64::NAN, 0.0))),
            ("lon", |e| e.position = Some((0.0, 180.5))),
        ];
        for (field, spoil) in faulty {
            let mut event = event();
            spoil(&mut event);
            assert_eq!(event.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn the_hash_tells_what_is_said_and_nothing_else() {
        let hash = event().content_hash();
        let same: [fn(&mut NewEvent); 3] = [
            |e| e.uid = "b".to_owned(),
            |e| e.source = Some("feed".to_owned()),
            |e| e.cancelled = true,
        ];
        for change in same {
            let mut event = event();
            change(&mut event);
            assert_eq!(event.content_hash(), hash);
        }
        let other: [fn(&mut NewEvent); 6] = [
            |e| e.title = "Blues".to_owned(),
            |e| e.description = Some(String::new()),
            |e| e.ends_at = None,
            |e| e.position = None,
            |e| (e.category, e.place) = (None, Some("music".to_owned())),
            |e| e.starts_at += chrono::Duration::milliseconds(1),
        ];
        for change in other {
            let mut event = event();
            change(&mut event);
            assert_ne!(event.content_hash(), hash);
        }
    }

    #[test]
    fn what_is_the_same_to_people_is_made_the_same() {
        let mut untidy = event();
        untidy.title = " Jazz ".to_owned();
        untidy.category = Some(" MUSIC".to_owned());
        untidy.description = Some("  ".to_owned());
        untidy.starts_at += chrono::Duration::nanoseconds(999);
        assert_eq!(untidy.tidy(), event());
    }
}
