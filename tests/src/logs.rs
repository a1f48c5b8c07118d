//! What processes log, understood.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// One JSON line of a log.
#[derive(Debug, Clone)]
pub struct LogLine {
    pub at: DateTime<Utc>,
    pub level: String,
    pub message: String,
    /// The whole line.
    pub fields: Value,
}

impl LogLine {
    /// None for what is no log line (a panic's text, a banner).
    pub fn parse(line: &str) -> Option<Self> {
        // Lines of a child may carry the name of their stream before them.
        let fields: Value = serde_json::from_str(&line[line.find('{')?..]).ok()?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            at: text("timestamp")?.parse().ok()?,
            level: text("level").unwrap_or_default(),
            message: text("message")?,
            fields,
        })
    }

    /// Level, message and fields, without what every line has.
    pub fn told(&self) -> String {
        let mut text = format!("{}: {}", self.level, self.message);
        for (name, value) in self.fields.as_object().into_iter().flatten() {
            if !matches!(&**name, "level" | "message" | "timestamp" | "service" | "target") {
                let _ = write!(text, " {name}={value}");
            }
        }
        text
    }
}

/// The time of day, as log lines carry it.
#[allow(
    clippy::disallowed_methods,
    reason = "faults are held against the time stamps of log lines, and nothing else tells the time here"
)]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}
