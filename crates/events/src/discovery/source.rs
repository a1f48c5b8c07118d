//! What a source is, and what it may be.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use url::Url;

use super::parse::Mapping;
use super::run::Report;
use crate::DiscoverySettings;

/// Most sources that are kept.
pub const MAX_SOURCES: i64 = 10_000;

/// Longest name of a source, in bytes.
pub const MAX_NAME: usize = 100;

/// Most pages of a listing of Reddit, a hundred posts each.
pub const MAX_PAGES: u32 = 10;

const MAX_URL: usize = 2_048;
const MAX_CATEGORY: usize = 64;
const MAX_PLACE: usize = 500;
const MAX_INTERVAL: Duration = Duration::from_secs(30 * 86_400);

holdfast_core::ids! {
    /// Names a source; a ULID. Its events carry it as their `source`.
    SourceId;
}

/// What is published there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Ical,
    Rss,
    Json,
    Reddit,
}

/// In which order a subreddit's posts are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listing {
    #[default]
    New,
    Hot,
    Rising,
}

impl Listing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Hot => "hot",
            Self::Rising => "rising",
        }
    }
}

/// Where to look, and how to read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    pub kind: SourceKind,
    /// Of all kinds but `reddit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Of `json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// For `reddit`, without `r/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subreddit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Listing>,
    /// Of `reddit`: how many are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
    pub interval_seconds: u64,
    /// Of times that name none; IANA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// For entries that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lat: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lon: Option<f64>,
}

/// A source as it is requested.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSource {
    pub name: String,
    pub enabled: bool,
    pub definition: Definition,
}

/// A source as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRecord {
    pub id: SourceId,
    pub name: String,
    pub enabled: bool,
    pub definition: Definition,
    pub revision: i32,
    pub next_run_at: Option<DateTime<Utc>>,
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// In a row.
    pub failures: u32,
    pub last_run_at: Option<DateTime<Utc>>,
    pub last_success_at: Option<DateTime<Utc>>,
    pub report: Option<Report>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct SourceFault {
    pub field: String,
    pub reason: String,
}

impl Definition {
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds)
    }

    /// The address of what is not Reddit's.
    pub(super) fn address(&self) -> Option<Url> {
        self.url.as_deref().and_then(|url| Url::parse(url).ok())
    }

    pub(super) fn zone(&self) -> Option<Tz> {
        self.time_zone.as_deref().and_then(|zone| zone.parse().ok())
    }
}

impl NewSource {
    /// Everything that is wrong with it.
    pub fn faults(&self, settings: &DiscoverySettings) -> Vec<SourceFault> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, reason: String| {
            faults.push(SourceFault {
                field: field.to_owned(),
                reason,
            });
        };
        let definition = &self.definition;
        text(&mut fault, "name", Some(&self.name), MAX_NAME);
        text(&mut fault, "category", definition.category.as_ref(), MAX_CATEGORY);
        text(&mut fault, "place", definition.place.as_ref(), MAX_PLACE);
        self.check_where(&mut fault);
        let least = settings.min_interval;
        if definition.interval() < least || definition.interval() > MAX_INTERVAL {
            let reason = format!(
                "must lie between {} (discovery.min_interval_seconds) and {} seconds",
                least.as_secs(),
                MAX_INTERVAL.as_secs()
            );
            fault("interval_seconds", reason);
        }
        if definition.time_zone.is_some() && definition.zone().is_none() {
            fault(
                "time_zone",
                "is not an IANA time zone, such as Europe/Vienna".to_owned(),
            );
        }
        match (definition.lat, definition.lon) {
            (None, None) => {}
            (Some(lat), Some(lon)) => {
                if !(-90.0..=90.0).contains(&lat) {
                    fault("lat", "must lie between -90 and 90 degrees".to_owned());
                }
                if !(-180.0..=180.0).contains(&lon) {
                    fault("lon", "must lie between -180 and 180 degrees".to_owned());
                }
            }
            (Some(_), None) => fault("lon", "is missing: give lat and lon, or neither".to_owned()),
            (None, Some(_)) => fault("lat", "is missing: give lat and lon, or neither".to_owned()),
        }
        faults
    }

    fn check_where(&self, fault: &mut impl FnMut(&str, String)) {
        let definition = &self.definition;
        let is_reddit = definition.kind == SourceKind::Reddit;
        let belongs = |other: bool, name: &str| {
            format!(
                "{name} belongs to the kind {}",
                if other { "reddit" } else { "json" }
            )
        };
        if is_reddit {
            let sound = |name: &String| {
                (2..=21).contains(&name.len())
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            if !definition.subreddit.as_ref().is_some_and(sound) {
                fault(
                    "subreddit",
                    "must be a subreddit's name without r/, such as vienna".to_owned(),
                );
            }
            if definition.url.is_some() {
                fault("url", "is not for the kind reddit: name the subreddit".to_owned());
            }
            if definition
                .pages
                .is_some_and(|pages| !(1..=MAX_PAGES).contains(&pages))
            {
                fault("pages", format!("must lie between 1 and {MAX_PAGES}"));
            }
        } else {
            self.check_url(fault);
            for (field, given) in [
                ("subreddit", definition.subreddit.is_some()),
                ("listing", definition.listing.is_some()),
                ("pages", definition.pages.is_some()),
            ] {
                if given {
                    fault(field, belongs(true, field));
                }
            }
        }
        match (&definition.mapping, definition.kind == SourceKind::Json) {
            (Some(mapping), true) => {
                if let Some((field, reason)) = mapping.fault() {
                    fault(&format!("mapping.{field}"), reason);
                }
            }
            (None, true) => fault(
                "mapping",
                "is missing: say where title and starts_at are".to_owned(),
            ),
            (Some(_), false) => fault("mapping", belongs(false, "mapping")),
            (None, false) => {}
        }
    }

    fn check_url(&self, fault: &mut impl FnMut(&str, String)) {
        let Some(text) = &self.definition.url else {
            return fault("url", "is missing".to_owned());
        };
        let parsed = Url::parse(text);
        match parsed {
            _ if text.len() > MAX_URL => fault("url", format!("is longer than {MAX_URL} bytes")),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                let reason = match url.scheme() {
                    "webcal" | "webcals" | "feed" => {
                        "must begin with http:// or https://, which is what it means"
                    }
                    _ => "must begin with http:// or https://",
                };
                fault("url", reason.to_owned());
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                fault(
                    "url",
                    "must not hold a user or password: they would be shown".to_owned(),
                );
            }
            Ok(_) => {}
            Err(error) => fault("url", format!("is not an absolute URL: {error}")),
        }
    }
}

/// One line of text.
fn text(fault: &mut impl FnMut(&str, String), field: &str, text: Option<&String>, most: usize) {
    let Some(text) = text else { return };
    let sound =
        (1..=most).contains(&text.len()) && !text.trim().is_empty() && !text.chars().any(char::is_control);
    if !sound {
        fault(
            field,
            format!("must have 1 to {most} bytes, and no control characters"),
        );
    }
}
