//! Tables whose keys are names that nobody can foresee: schedules, and the retry policies of kinds and queues.
//!
//! They stand in the file alone: a variable cannot spell a kind's dots, or a payload. Their settings have no defaults that
//! could be overridden one by one, so they are read here, each with its type and its range; what is not known is a fault.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::fault::nearest;
use super::reader::Reader;
use super::sections::{KindSettings, RetryOverride, ScheduleSettings};

/// Longest name of a kind, in bytes.
pub const MAX_KIND_NAME: usize = 255;

const SCHEDULE: [&str; 10] = [
    "cron",
    "every_seconds",
    "time_zone",
    "kind",
    "payload",
    "queue",
    "catch_up",
    "catch_up_max",
    "jitter_seconds",
    "enabled",
];

const RETRY: [&str; 4] = ["max_attempts", "base_seconds", "cap_seconds", "jitter"];

/// `[schedules.NAME]`, as far as it can be judged here.
pub(super) fn schedules(reader: &mut Reader<'_>) -> BTreeMap<String, ScheduleSettings> {
    let mut schedules = BTreeMap::new();
    for (name, value) in reader.table("schedules").into_iter().flatten() {
        let mut table = Table::open(reader, format!("schedules.{name}"), value, &SCHEDULE);
        let kind = table.text("kind");
        if kind.is_none() {
            table.fault(
                "kind",
                "it is missing",
                "name the kind of job, such as \"http.request\"",
            );
        }
        let schedule = ScheduleSettings {
            cron: table.text("cron"),
            every_seconds: table.number("every_seconds", 0.0..=f64::MAX),
            time_zone: table.text("time_zone"),
            kind: kind.unwrap_or_default(),
            payload: table
                .get("payload")
                .map_or_else(|| serde_json::json!({}), |value| json(&value.kind)),
            queue: table.text("queue"),
            catch_up: table.text("catch_up"),
            catch_up_max: table.count("catch_up_max", 1..=u32::MAX),
            jitter_seconds: table.number("jitter_seconds", 0.0..=f64::MAX),
            enabled: table.flag("enabled").unwrap_or(true),
        };
        schedules.insert(name.clone(), schedule);
    }
    schedules
}

/// `[kinds."NAME".retry]`.
pub(super) fn kinds(reader: &mut Reader<'_>) -> BTreeMap<String, KindSettings> {
    let mut kinds = BTreeMap::new();
    for (name, value) in reader.table("kinds").into_iter().flatten() {
        let path = format!("kinds.{name:?}");
        if name.is_empty() || name.len() > MAX_KIND_NAME {
            let fix = "name a kind, such as [kinds.\"http.request\".retry]".to_owned();
            let source = value.origin().unwrap_or("nowhere").to_owned();
            reader.fault_in(path, source, "this is not the name of a kind".to_owned(), fix);
            continue;
        }
        let table = Table::open(reader, path.clone(), value, &["retry"]);
        let retry = table.get("retry");
        let retry = match retry {
            Some(value) => retry_table(reader, format!("{path}.retry"), value),
            None => RetryOverride::default(),
        };
        kinds.insert(name.clone(), KindSettings { retry });
    }
    kinds
}

/// `[queues.NAME.retry]` of the queue that is read.
pub(super) fn queue_retry(reader: &mut Reader<'_>) -> RetryOverride {
    let Some(section) = reader.queue_section() else {
        return RetryOverride::default();
    };
    let value = reader.table(&section).and_then(|table| table.get("retry"));
    value.map_or_else(RetryOverride::default, |value| {
        retry_table(reader, format!("{section}.retry"), value)
    })
}

fn retry_table(reader: &mut Reader<'_>, path: String, value: &Value) -> RetryOverride {
    let mut table = Table::open(reader, path, value, &RETRY);
    let seconds = |number: Option<f64>| number.map(Duration::from_secs_f64);
    let policy = RetryOverride {
        max_attempts: table.count("max_attempts", 1..=100),
        base: seconds(table.number("base_seconds", 0.0..=86_400.0)),
        cap: seconds(table.number("cap_seconds", 0.0..=604_800.0)),
        jitter: table.flag("jitter"),
    };
    if let (Some(base), Some(cap)) = (policy.base, policy.cap)
        && cap < base
    {
        table.fault(
            "cap_seconds",
            "it is less than base_seconds",
            "raise the cap or lower the base",
        );
    }
    policy
}

/// One table, with where it stands.
struct Table<'r, 'a, 'v> {
    reader: &'r mut Reader<'a>,
    path: String,
    origin: String,
    values: Option<&'v Map<String, Value>>,
}

impl<'r, 'a, 'v> Table<'r, 'a, 'v> {
    /// Every key that is not known becomes a fault.
    fn open(reader: &'r mut Reader<'a>, path: String, value: &'v Value, known: &[&str]) -> Self {
        let origin = value.origin().unwrap_or("nowhere").to_owned();
        let mut table = Self {
            reader,
            path,
            origin,
            values: None,
        };
        let ValueKind::Table(values) = &value.kind else {
            let setting = table.path.clone();
            let (problem, fix) = ("this is a section, not a setting", format!("write [{setting}]"));
            let origin = table.origin.clone();
            table.reader.fault_in(setting, origin, problem.to_owned(), fix);
            return table;
        };
        table.values = Some(values);
        for key in values.keys().filter(|key| !known.contains(&key.as_str())) {
            let fix = match nearest(key, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("there are {}", known.join(", ")),
            };
            table.fault(key, "there is no such setting", &fix);
        }
        table
    }

    fn get(&self, key: &str) -> Option<&'v Value> {
        self.values?.get(key)
    }

    fn fault(&mut self, key: &str, problem: &str, fix: &str) {
        let setting = format!("{}.{key}", self.path);
        let origin = self.origin.clone();
        self.reader
            .fault_in(setting, origin, problem.to_owned(), fix.to_owned());
    }

    fn text(&mut self, key: &str) -> Option<String> {
        if let ValueKind::String(text) = &self.get(key)?.kind {
            return Some(text.clone());
        }
        self.fault(key, "it is not a text", "put it in quotation marks");
        None
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        if let ValueKind::Boolean(flag) = &self.get(key)?.kind {
            return Some(*flag);
        }
        self.fault(key, "it is neither true nor false", "give true or false");
        None
    }

    fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match &self.get(key)?.kind {
            ValueKind::I64(whole) => Some(*whole as f64),
            ValueKind::Float(number) => Some(*number),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let fix = match *range.end() {
            most if most < f64::MAX => format!("give a number from {} to {most}", range.start()),
            _ => format!("give a number, {} or more", range.start()),
        };
        self.fault(key, "it is not a number in range", &fix);
        None
    }

    fn count(&mut self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let number = match &self.get(key)?.kind {
            ValueKind::I64(whole) => u32::try_from(*whole).ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let fix = format!("give a whole number from {} to {}", range.start(), range.end());
        self.fault(key, "it is not a whole number in range", &fix);
        None
    }
}

/// A TOML value as JSON. Dates are texts in both.
fn json(kind: &ValueKind) -> serde_json::Value {
    match kind {
        ValueKind::Nil => serde_json::Value::Null,
        ValueKind::Boolean(flag) => (*flag).into(),
        ValueKind::I64(whole) => (*whole).into(),
        ValueKind::U64(whole) => (*whole).into(),
        ValueKind::I128(whole) => i64::try_from(*whole).unwrap_or(i64::MAX).into(),
        ValueKind::U128(whole) => u64::try_from(*whole).unwrap_or(u64::MAX).into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::Array(items) => items.iter().map(|item| json(&item.kind)).collect(),
        ValueKind::Table(table) => table
            .iter()
            .map(|(key, value)| (key.clone(), json(&value.kind)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}
