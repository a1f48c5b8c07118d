//! What a user wants to be sent, and how: typed, and as it is worded and kept.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use lettre::Address;
use serde::{Deserialize, Serialize};

use super::quiet_hours::{QuietHours, TimeOfDay};
use crate::names::is_name;
use holdfast_product::mail_address::composed;

/// Most topics of one user.
pub const MAX_TOPICS: usize = 100;

/// Longest language, in bytes: `zh-hant-hk` has ten.
const MAX_LANGUAGE: usize = 35;

/// What becomes of mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    On,
    Off,
    /// Put aside, and sent with others in one mail.
    Digest,
}

/// Whether webhooks are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    #[default]
    On,
    Off,
}

/// What a topic's channels do; what is not said follows the user's own default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Mode>,
    /// Whether news of events (`event.news`) say that a subscription of this user wants them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Switch>,
}

/// Preferences as they are worded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferencesText {
    /// `en`, `de-at`. With it the template `hello.de-at` or `hello.de` is taken for `hello`, where there is one.
    #[serde(default)]
    pub language: Option<String>,
    /// An IANA time zone; default UTC.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The address for mail; default: the user's name, if it is an address.
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub quiet_hours: Option<Quiet>,
    /// The time of the digest, `HH:MM`; default 08:00.
    #[serde(default)]
    pub digest_at: Option<String>,
    /// Of every topic that says nothing else.
    #[serde(default)]
    pub email: Mode,
    #[serde(default)]
    pub webhook: Switch,
    /// By topic: the `list` of a mail.
    #[serde(default)]
    pub topics: BTreeMap<String, Channels>,
}

/// Quiet hours as they are worded, `HH:MM`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quiet {
    pub from: String,
    pub until: String,
}

/// What is wrong with preferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceFault {
    /// `quiet_hours.from`.
    pub field: String,
    pub reason: String,
}

impl fmt::Display for PreferenceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// What a user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// In lower case.
    pub language: Option<String>,
    pub time_zone: Tz,
    pub address: Option<Address>,
    pub quiet_hours: Option<QuietHours>,
    pub digest_at: TimeOfDay,
    pub email: Mode,
    pub webhook: Switch,
    /// [`MAX_TOPICS`] at most.
    pub topics: BTreeMap<String, Channels>,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            language: None,
            time_zone: Tz::UTC,
            address: None,
            quiet_hours: None,
            digest_at: TimeOfDay::MORNING,
            email: Mode::On,
            webhook: Switch::On,
            topics: BTreeMap::new(),
        }
    }
}

impl Preferences {
    /// # Errors
    /// Everything that is wrong with the text.
    pub fn parse(text: PreferencesText) -> Result<Self, Vec<PreferenceFault>> {
        let mut faults = Faults::default();
        let language = text.language.map(|language| language.to_lowercase());
        if language.as_deref().is_some_and(|language| !is_language(language)) {
            faults.add("language", "is not a language tag, such as en or de-AT");
        }
        let time_zone = faults.take("time_zone", text.time_zone.map(|zone| zone.parse::<Tz>()), |_| {
            "is not a time zone of the IANA database, such as Europe/Vienna".to_owned()
        });
        let address = faults.take(
            "address",
            text.address.map(|address| composed::<Address>(&address)),
            |error| format!("is not a mail address: {error}"),
        );
        let digest_at = faults.take(
            "digest_at",
            text.digest_at.map(|time| time.parse::<TimeOfDay>()),
            |error| error.to_string(),
        );
        let quiet_hours = text.quiet_hours.and_then(|quiet| faults.quiet_hours(&quiet));
        if text.topics.len() > MAX_TOPICS {
            faults.add("topics", &format!("are more than {MAX_TOPICS}"));
        }
        for topic in text.topics.keys().filter(|topic| !is_name(topic)) {
            faults.add(
                &format!("topics.{topic}"),
                "must be 1 to 100 of a-z, 0-9, _, - and .",
            );
        }
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        Ok(Self {
            language,
            time_zone: time_zone.unwrap_or(Tz::UTC),
            address,
            quiet_hours,
            digest_at: digest_at.unwrap_or(TimeOfDay::MORNING),
            email: text.email,
            webhook: text.webhook,
            topics: text.topics,
        })
    }

    /// As they are worded, with what was left out.
    pub fn text(&self) -> PreferencesText {
        PreferencesText {
            language: self.language.clone(),
            time_zone: Some(self.time_zone.name().to_owned()),
            address: self.address.as_ref().map(ToString::to_string),
            quiet_hours: self.quiet_hours.map(|quiet| Quiet {
                from: quiet.from.to_string(),
                until: quiet.until.to_string(),
            }),
            digest_at: Some(self.digest_at.to_string()),
            email: self.email,
            webhook: self.webhook,
            topics: self.topics.clone(),
        }
    }

    /// What becomes of mail on a topic.
    pub(crate) fn email_on(&self, topic: &str) -> Mode {
        let own = self.topics.get(topic).and_then(|channels| channels.email);
        own.unwrap_or(self.email)
    }

    /// Whether webhooks are told on a topic.
    pub(crate) fn webhook_on(&self, topic: &str) -> Switch {
        let own = self.topics.get(topic).and_then(|channels| channels.webhook);
        own.unwrap_or(self.webhook)
    }

    /// How long it is still quiet; `None`: it is not.
    pub(crate) fn quiet_for(&self, now: DateTime<Utc>) -> Option<Duration> {
        let end = self.quiet_hours?.end(self.time_zone, now)?;
        (end - now).to_std().ok()
    }

    /// When what is put aside now is due.
    pub(crate) fn digest_due(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.digest_at.next(self.time_zone, now)
    }
}

#[derive(Default)]
struct Faults(Vec<PreferenceFault>);

impl Faults {
    fn add(&mut self, field: &str, reason: &str) {
        self.0.push(PreferenceFault {
            field: field.to_owned(),
            reason: reason.to_owned(),
        });
    }

    /// What was given, if it could be read.
    fn take<T, E>(
        &mut self,
        field: &str,
        given: Option<Result<T, E>>,
        reason: impl FnOnce(E) -> String,
    ) -> Option<T> {
        match given? {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(field, &reason(error));
                None
            }
        }
    }

    fn quiet_hours(&mut self, quiet: &Quiet) -> Option<QuietHours> {
        let reason = |error: super::quiet_hours::InvalidTime| error.to_string();
        let from = self.take("quiet_hours.from", Some(quiet.from.parse::<TimeOfDay>()), reason);
        let until = self.take(
            "quiet_hours.until",
            Some(quiet.until.parse::<TimeOfDay>()),
            reason,
        );
        let (from, until) = (from?, until?);
        if from == until {
            self.add(
                "quiet_hours.until",
                "is the same as from: no mail would ever be sent",
            );
            return None;
        }
        Some(QuietHours { from, until })
    }
}

/// Words of letters and digits with hyphens between, as in RFC 5646.
fn is_language(text: &str) -> bool {
    let is_word =
        |word: &str| (1..=8).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let first = text.split('-').next().unwrap_or_default();
    text.len() <= MAX_LANGUAGE && (2..=8).contains(&first.len()) && text.split('-').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: serde_json::Value) -> PreferencesText {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn preferences_are_read_back_as_they_were_worded() {
        let given = text(serde_json::json!({
            "language": "de-AT", "time_zone": "Europe/Vienna", "address": "ada@example.com",
            "quiet_hours": {"from": "22:00", "until": "07:00"}, "digest_at": "06:30", "email": "digest",
            "topics": {"events": {"email": "on"}, "news": {"webhook": "off"}},
        }));
        let preferences = Preferences::parse(given).unwrap();
        assert_eq!(preferences.language.as_deref(), Some("de-at"));
        assert_eq!(preferences.email_on("events"), Mode::On);
        assert_eq!(preferences.email_on("news"), Mode::Digest);
        assert_eq!(Preferences::parse(preferences.text()).unwrap(), preferences);
        let nothing = Preferences::parse(PreferencesText::default()).unwrap();
        assert_eq!(nothing, Preferences::default());
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let topics: BTreeMap<_, _> = [("Bad topic".to_owned(), Channels::default())].into();
        let given = PreferencesText {
            language: Some("de_AT".to_owned()),
            time_zone: Some("Vienna".to_owned()),
            address: Some("Ada <ada@example.com>".to_owned()),
            quiet_hours: Some(Quiet {
                from: "22".to_owned(),
                until: "25:00".to_owned(),
            }),
            digest_at: Some("8".to_owned()),
            topics,
            ..PreferencesText::default()
        };
        let faults = Preferences::parse(given).unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "language",
                "time_zone",
                "address",
                "digest_at",
                "quiet_hours.from",
                "quiet_hours.until",
                "topics.Bad topic"
            ]
        );
        let always = PreferencesText {
            quiet_hours: Some(Quiet {
                from: "07:00".to_owned(),
                until: "07:00".to_owned(),
            }),
            ..PreferencesText::default()
        };
        assert_eq!(Preferences::parse(always).unwrap_err().len(), 1);
    }
}
