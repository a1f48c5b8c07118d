//! What endpoints and events are called: parsed at the border, once.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use holdfast_core::config::{MAX_KIND_NAME, is_queue_name};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use super::InvalidSecret;

/// Longest name of an event, in bytes.
pub(super) const MAX_EVENT: usize = 255;

/// Its form. [`MAX_EVENT`] is the longest.
pub(super) const EVENT_PATTERN: &str = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$";

/// Most filters of one endpoint.
const MAX_FILTERS: usize = 50;

/// Longest description of an endpoint, in bytes.
const MAX_DESCRIPTION: usize = 255;

/// Longest URL of an endpoint, in bytes.
const MAX_URL: usize = 2_048;

/// Published by the engine alone. They are sent to endpoints that name them, or their prefix.
pub const ENGINE_EVENTS: [&str; 5] = [
    JOB_COMPLETED,
    JOB_DISCARDED,
    BATCH_COMPLETED,
    SCHEDULE_MISSED,
    QUEUE_STALLED,
];
pub(super) const JOB_COMPLETED: &str = "job.completed";
pub(super) const JOB_DISCARDED: &str = "job.discarded";
pub(super) const BATCH_COMPLETED: &str = "batch.completed";
pub(super) const SCHEDULE_MISSED: &str = "schedule.missed";
pub(super) const QUEUE_STALLED: &str = "queue.stalled";

/// Matches every event that an application publishes.
const EVERYTHING: &str = "*";

holdfast_core::ids! {
    /// Names an endpoint; a ULID.
    WebhookId;
}

/// A text is no name of an event, or no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEvent(&'static str);

/// What happened: words of `a-z`, `A-Z`, `0-9`, `_` and `-`, with dots between: `order.paid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EventType(String);

impl EventType {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EventType {
    type Err = InvalidEvent;

    fn from_str(text: &str) -> Result<Self, InvalidEvent> {
        if is_dotted(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidEvent(
            "is not an event type: expected words of a-z, A-Z, 0-9, _ and - with dots between, such as order.paid, 255 bytes at most",
        ))
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn is_dotted(text: &str) -> bool {
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        !word.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    text.len() <= MAX_EVENT && text.split('.').all(is_word)
}

/// Which events an endpoint receives: one by its name, `order.*` (whatever begins with `order.`), or `*` (all).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Filter(String);

impl Filter {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, event: &EventType) -> bool {
        if self.0 == EVERYTHING {
            return true;
        }
        match self.0.strip_suffix('*') {
            // With its dot: `order.*` does not receive `orders.paid`.
            Some(prefix) => event.0.starts_with(prefix),
            None => self.0 == event.0,
        }
    }
}

impl Filter {
    /// Whether it asks for an event of the engine. `*` does not: it is for what an application publishes, and an event for each
    /// job is not to reach endpoints that were made before there was one.
    pub(super) fn names_engine_event(&self, event: &str) -> bool {
        match self.0.strip_suffix(".*") {
            Some(prefix) => event
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('.')),
            None => self.0 == event,
        }
    }
}

impl FromStr for Filter {
    type Err = InvalidEvent;

    fn from_str(text: &str) -> Result<Self, InvalidEvent> {
        let name = text.strip_suffix(".*").unwrap_or(text);
        if text == EVERYTHING || is_dotted(name) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidEvent(
            "is not a filter: expected an event such as order.paid, a prefix such as order.*, or * for all",
        ))
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is wrong with an endpoint as its owner words it, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct WebhookFault {
    /// `url`, `events[2]`, …
    pub field: String,
    pub reason: String,
}

impl WebhookFault {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl From<InvalidSecret> for WebhookFault {
    fn from(error: InvalidSecret) -> Self {
        Self::new("secret", error.to_string())
    }
}

/// An endpoint as its owner words it, checked but for its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookDraft {
    pub(super) url: Url,
    pub(super) description: String,
    pub(super) events: Vec<Filter>,
    pub(super) scope: Scope,
    pub(super) enabled: bool,
}

/// Of which kinds and queues an endpoint is sent the engine's events; an empty list: of all. An event that has no kind (or no
/// queue) is sent whatever the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// `report.make`, or `report.*`: whatever begins with `report.`.
    pub(super) kinds: Vec<String>,
    pub(super) queues: Vec<String>,
}

impl Scope {
    pub(super) fn takes(&self, kind: Option<&str>, queue: Option<&str>) -> bool {
        let is_meant = |pattern: &String, kind: &str| match pattern.strip_suffix(".*") {
            Some(prefix) => kind
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('.')),
            None => pattern == kind,
        };
        let takes_kind =
            |kind: &str| self.kinds.is_empty() || self.kinds.iter().any(|pattern| is_meant(pattern, kind));
        let takes_queue = |queue: &str| self.queues.is_empty() || self.queues.iter().any(|own| own == queue);
        kind.is_none_or(takes_kind) && queue.is_none_or(takes_queue)
    }
}

impl WebhookDraft {
    /// # Errors
    /// The first invalid field.
    pub fn parse(
        url: &str,
        description: Option<&str>,
        events: &[String],
        enabled: bool,
    ) -> Result<Self, WebhookFault> {
        let description = description.unwrap_or_default();
        if description.len() > MAX_DESCRIPTION || description.chars().any(char::is_control) {
            let reason = format!("must have {MAX_DESCRIPTION} bytes at most, and no control characters");
            return Err(WebhookFault::new("description", reason));
        }
        Ok(Self {
            url: parsed_url(url)?,
            description: description.to_owned(),
            events: parsed_filters(events)?,
            scope: Scope::default(),
            enabled,
        })
    }

    /// Narrows the events of jobs, schedules and queues to those of these kinds and queues.
    ///
    /// # Errors
    /// The first name that is invalid.
    pub fn only(self, kinds: Vec<String>, queues: Vec<String>) -> Result<Self, WebhookFault> {
        let scope = Scope {
            kinds: checked_names("kinds", kinds, |name| {
                let name = name.strip_suffix(".*").unwrap_or(name);
                (1..=MAX_KIND_NAME).contains(&name.len())
                    && !name.chars().any(|c| c.is_whitespace() || c.is_control())
            })?,
            queues: checked_names("queues", queues, is_queue_name)?,
        };
        Ok(Self { scope, ..self })
    }

    /// Whether it is sent events of the engine.
    pub(super) fn takes_engine_events(&self) -> bool {
        ENGINE_EVENTS
            .iter()
            .any(|event| self.events.iter().any(|filter| filter.names_engine_event(event)))
    }
}

fn checked_names(
    field: &str,
    mut names: Vec<String>,
    is_name: impl Fn(&str) -> bool,
) -> Result<Vec<String>, WebhookFault> {
    if names.len() > MAX_FILTERS {
        let reason = format!("must have {MAX_FILTERS} entries at most; leave it out for all");
        return Err(WebhookFault::new(field, reason));
    }
    if let Some(index) = names.iter().position(|name| !is_name(name)) {
        let reason = format!("is not a name that one of the {field} can have");
        return Err(WebhookFault::new(format!("{field}[{index}]"), reason));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn parsed_url(text: &str) -> Result<Url, WebhookFault> {
    let fault = |reason: String| WebhookFault::new("url", reason);
    if text.len() > MAX_URL {
        return Err(fault(format!("is longer than {MAX_URL} bytes")));
    }
    let url = Url::parse(text).map_err(|error| fault(format!("is not an absolute URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fault("must begin with https:// or http://".to_owned()));
    }
    if url.port() == Some(0) {
        return Err(fault("names port 0, where nothing can listen".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let reason = "has a user or a password, which everybody who lists webhooks would see; the signature is what \
                      tells the receiver who sends";
        return Err(fault(reason.to_owned()));
    }
    Ok(url)
}

fn parsed_filters(texts: &[String]) -> Result<Vec<Filter>, WebhookFault> {
    if !(1..=MAX_FILTERS).contains(&texts.len()) {
        let reason =
            format!("must name 1 to {MAX_FILTERS} events, such as [\"order.*\"]; [\"*\"] is all of them");
        return Err(WebhookFault::new("events", reason));
    }
    let parse = |(index, text): (usize, &String)| {
        let filter = text.parse::<Filter>();
        filter.map_err(|error| WebhookFault::new(format!("events[{index}]"), error.to_string()))
    };
    let mut filters: Vec<Filter> = texts.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    filters.sort();
    filters.dedup();
    Ok(filters)
}

/// An endpoint as it is shown: everything but its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebhookRecord {
    pub id: WebhookId,
    pub url: String,
    pub description: String,
    pub events: Vec<Filter>,
    /// Of which kinds events of jobs are sent; empty: of all.
    pub kinds: Vec<String>,
    /// The same of queues.
    pub queues: Vec<String>,
    pub enabled: bool,
    /// Why Holdfast disabled it; null if an operator did.
    pub disabled_reason: Option<String>,
    /// The first failure after the last success.
    pub failing_since: Option<DateTime<Utc>>,
    /// The previous secret stays valid until this time.
    pub previous_secret_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_matches_by_name_by_prefix_or_everything() {
        let event: EventType = "order.line.paid".parse().unwrap();
        for (filter, matches) in [
            ("*", true),
            ("order.line.paid", true),
            ("order.*", true),
            ("order.line.*", true),
            ("order", false),
            ("orde.*", false),
            ("order.line.paid.*", false),
            ("order.line", false),
        ] {
            assert_eq!(
                filter.parse::<Filter>().unwrap().matches(&event),
                matches,
                "{filter}"
            );
        }
    }

    #[test]
    fn events_of_the_engine_are_asked_for_by_name_and_narrowed_by_kind_and_queue() {
        for (filter, event, names) in [
            ("*", JOB_COMPLETED, false),
            ("job.*", JOB_COMPLETED, true),
            ("job.completed", JOB_COMPLETED, true),
            ("job.completed", JOB_DISCARDED, false),
            ("batch.*", JOB_COMPLETED, false),
        ] {
            let filter: Filter = filter.parse().unwrap();
            assert_eq!(filter.names_engine_event(event), names, "{filter:?} {event}");
        }
        let scope = |kinds: &[&str], queues: &[&str]| {
            let names = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            WebhookDraft::parse("https://a.example", None, &["job.*".to_owned()], true)
                .and_then(|draft| draft.only(names(kinds), names(queues)))
        };
        let some = scope(&["report.*", "mail"], &["default"]).unwrap();
        for (kind, queue, takes) in [
            (Some("report.make"), Some("default"), true),
            (Some("mail"), Some("default"), true),
            (Some("mail"), Some("other"), false),
            (Some("reports.make"), Some("default"), false),
            (Some("report"), Some("default"), false),
            (None, Some("default"), true),
            (None, Some("other"), false),
            (None, None, true),
        ] {
            assert_eq!(some.scope.takes(kind, queue), takes, "{kind:?} {queue:?}");
        }
        assert!(scope(&[], &[]).unwrap().scope.takes(Some("a"), Some("b")));
        assert_eq!(scope(&["a", "b c"], &[]).unwrap_err().field, "kinds[1]");
        assert_eq!(scope(&[], &["Default"]).unwrap_err().field, "queues[0]");
    }

    #[test]
    fn what_is_no_event_or_filter_is_refused() {
        for odd in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a.*",
            "*",
            "é",
            &"a".repeat(256),
        ] {
            assert!(odd.parse::<EventType>().is_err(), "{odd}");
        }
        for odd in ["", "**", "a*", "*.a", "a.*.b", ".*", "a..*", "a.* "] {
            assert!(odd.parse::<Filter>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_fault_names_its_field() {
        let draft = |url: &str, events: &[&str]| {
            let events: Vec<String> = events.iter().map(|&text| text.to_owned()).collect();
            let fault = WebhookDraft::parse(url, None, &events, true).err();
            fault.map(|fault| fault.field)
        };
        let good = "https://example.com/hook?token=1";
        assert_eq!(draft(good, &["order.*"]), None);
        for url in [
            "",
            "example.com",
            "ftp://example.com",
            "https://user:word@example.com",
            "https://example.com:0/",
        ] {
            assert_eq!(draft(url, &["*"]).as_deref(), Some("url"), "{url}");
        }
        assert_eq!(draft(good, &[]).as_deref(), Some("events"));
        assert_eq!(draft(good, &["a", "b c"]).as_deref(), Some("events[1]"));
    }
}
