//! Reads typed values out of the merged table and collects what is wrong with them.
//!
//! A read never stops at a fault: it notes it and answers a stand-in, so that one pass finds every fault. The
//! stand-ins never leave the module: [`Reader::finish`] refuses to let go of a result that has faults.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Map, Value, ValueKind};
use secrecy::SecretString;

use super::fault::{ConfigFault, ConfigFaults};
use super::schema::{Schema, join, own_path, queue_section};
use super::settings::Environment;

/// Reads the values of one configuration.
#[derive(Debug)]
pub struct Reader<'a> {
    root: &'a Map<String, Value>,
    schema: &'a Schema,
    faults: Vec<ConfigFault>,
    faulty: BTreeSet<String>,
    /// The queue whose settings are read; `None`: the defaults of all.
    queue: Option<String>,
    is_production: bool,
}

impl<'a> Reader<'a> {
    /// `faults` are those of the layers; their settings are not judged again.
    pub(super) fn new(root: &'a Map<String, Value>, schema: &'a Schema, faults: Vec<ConfigFault>) -> Self {
        let faulty = faults.iter().map(|fault| fault.setting.clone()).collect();
        Self {
            root,
            schema,
            faults,
            faulty,
            queue: None,
            is_production: false,
        }
    }

    pub(super) fn finish<T>(self, result: T) -> Result<T, ConfigFaults> {
        ConfigFaults::check(self.faults).map(|()| result)
    }

    /// Every other setting may depend on it.
    pub(super) fn note_environment(&mut self, environment: Environment) {
        self.is_production = environment == Environment::Production;
    }

    /// Whether the process runs in production.
    pub fn is_production(&self) -> bool {
        self.is_production
    }

    /// Reads the settings of one queue: those that it does not set are the defaults of all.
    pub(super) fn in_queue<T>(&mut self, queue: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.queue = Some(queue.to_owned());
        let settings = read(self);
        self.queue = None;
        settings
    }

    /// The section of the queue whose settings are read.
    pub(super) fn queue_section(&self) -> Option<String> {
        self.queue.as_deref().map(queue_section)
    }

    /// The path under which a setting is found.
    pub(super) fn path_of(&self, section: &str, key: &str) -> String {
        let path = join(section, key);
        let own = self.queue.as_ref().and_then(|queue| own_path(&path, queue));
        own.filter(|own| self.value(own).is_some()).unwrap_or(path)
    }

    /// The variable that sets a setting, for the fix of a fault.
    pub fn variable_of(&self, path: &str) -> String {
        self.schema.variable_of(path)
    }

    /// Seconds, with or without a fraction.
    pub(super) fn seconds(&mut self, path: &str, range: RangeInclusive<f64>) -> Duration {
        let wanted = || format!("a number of seconds from {} to {}", range.start(), range.end());
        let value = match self.kind(path) {
            Some(ValueKind::I64(whole)) => *whole as f64,
            Some(ValueKind::Float(number)) => *number,
            other => {
                let found = self.describe(path, other);
                self.fault(
                    path,
                    format!("{found} is not a number"),
                    format!("give {}", wanted()),
                );
                return Duration::ZERO;
            }
        };
        if range.contains(&value) {
            return Duration::from_secs_f64(value);
        }
        self.fault(
            path,
            format!("{value} is out of range"),
            format!("give {}", wanted()),
        );
        Duration::ZERO
    }

    pub(super) fn millis(&mut self, path: &str, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(path, range, "a whole number of milliseconds"))
    }

    pub(super) fn bytes(&mut self, path: &str, range: RangeInclusive<usize>) -> usize {
        self.number(path, range, "a whole number of bytes")
    }

    pub(super) fn count<T>(&mut self, path: &str, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + Copy + Display,
    {
        self.number(path, range, "a whole number")
    }

    fn number<T>(&mut self, path: &str, range: RangeInclusive<T>, what: &str) -> T
    where
        T: TryFrom<i64> + PartialOrd + Copy + Display,
    {
        let problem = match self.kind(path) {
            Some(ValueKind::I64(whole)) => match T::try_from(*whole) {
                Ok(value) if range.contains(&value) => return value,
                _ => format!("{whole} is out of range"),
            },
            other => format!("{} is not a whole number", self.describe(path, other)),
        };
        self.fault(
            path,
            problem,
            format!("give {what} from {} to {}", range.start(), range.end()),
        );
        *range.start()
    }

    /// A whole number, or empty: not set. The setting is a text by type, so a number may come with or without quotation marks.
    pub(super) fn optional_count(&mut self, path: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let kind = self.kind(path);
        let number = match kind {
            Some(ValueKind::String(text)) if text.trim().is_empty() => return None,
            Some(ValueKind::String(text)) => text.trim().parse().ok(),
            Some(ValueKind::I64(whole)) => u32::try_from(*whole).ok(),
            _ => None,
        };
        let within = number.filter(|number| range.contains(number));
        if within.is_none() {
            let problem = format!(
                "{} is out of range, or no whole number",
                self.describe(path, kind)
            );
            let fix = format!(
                "give a whole number from {} to {}, or \"\" for no limit",
                range.start(),
                range.end()
            );
            self.fault(path, problem, fix);
        }
        within
    }

    /// A text that means something, or empty: not set.
    pub(super) fn optional_parsed<T>(&mut self, path: &str) -> Option<T>
    where
        T: std::str::FromStr<Err: Display>,
    {
        let text = self.text(path);
        if text.is_empty() {
            return None;
        }
        let parsed = text.parse::<T>();
        parsed
            .map_err(|error| {
                let fix = "correct it, or give \"\" for no limit".to_owned();
                self.fault_once(path, || (error.to_string(), fix));
            })
            .ok()
    }

    pub(super) fn flag(&mut self, path: &str) -> bool {
        if let Some(ValueKind::Boolean(value)) = self.kind(path) {
            return *value;
        }
        let found = self.describe(path, self.kind(path));
        self.fault(
            path,
            format!("{found} is neither true nor false"),
            "give true or false".to_owned(),
        );
        false
    }

    pub(super) fn text(&mut self, path: &str) -> String {
        if let Some(ValueKind::String(text)) = self.kind(path) {
            return text.trim().to_owned();
        }
        let found = self.describe(path, self.kind(path));
        self.fault(
            path,
            format!("{found} is not a text"),
            "put it in quotation marks".to_owned(),
        );
        String::new()
    }

    /// A secret text; `None` if it is empty.
    pub(super) fn secret(&mut self, path: &str) -> Option<SecretString> {
        let text = self.text(path);
        (!text.is_empty()).then(|| SecretString::from(text))
    }

    /// One of a few words. The first stands in for a word that is none of them.
    pub(super) fn choice<T: Copy>(&mut self, path: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(path);
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.fault_once(path, || {
            (
                format!("{text:?} is not a choice"),
                format!("give {}", words.join(" or ")),
            )
        });
        choices[0].1
    }

    pub(super) fn list(&mut self, path: &str) -> Vec<String> {
        let items = match self.kind(path) {
            Some(ValueKind::Array(items)) => items.iter().map(text_of).collect(),
            _ => None,
        };
        items.unwrap_or_else(|| {
            self.fault(
                path,
                "it is not a list of texts".to_owned(),
                "give a list such as [\"a\", \"b\"]".to_owned(),
            );
            Vec::new()
        })
    }

    /// The keys of a section.
    pub(super) fn names(&self, section: &str) -> Vec<String> {
        match self.kind(section) {
            Some(ValueKind::Table(table)) => {
                let mut names: Vec<String> = table.keys().cloned().collect();
                names.sort();
                names
            }
            _ => Vec::new(),
        }
    }

    /// A section as it was written.
    pub(super) fn table(&self, section: &str) -> Option<&'a Map<String, Value>> {
        match self.kind(section) {
            Some(ValueKind::Table(table)) => Some(table),
            _ => None,
        }
    }

    /// Notes a fault of a setting in a table of its own kind.
    pub(super) fn fault_in(&mut self, setting: String, source: String, problem: String, fix: String) {
        if self.faulty.insert(setting.clone()) {
            self.faults.push(ConfigFault {
                setting,
                source,
                problem,
                fix,
            });
        }
    }

    /// Holds settings against each other, unless one of them is already at fault. `told` is the one to change.
    pub fn require(&mut self, holds: bool, told: &str, other: &str, problem: &str, fix: &str) {
        if holds || self.faulty.contains(told) || self.faulty.contains(other) {
            return;
        }
        let problem = format!(
            "{} is {problem} {other} ({}, from {})",
            self.describe(told, self.kind(told)),
            self.describe(other, self.kind(other)),
            self.origin(other),
        );
        self.fault(told, problem, fix.to_owned());
    }

    /// Notes a fault, once for each setting.
    pub fn fault_once(&mut self, path: &str, texts: impl FnOnce() -> (String, String)) {
        if !self.faulty.contains(path) {
            let (problem, fix) = texts();
            self.fault(path, problem, fix);
        }
    }

    fn fault(&mut self, path: &str, problem: String, fix: String) {
        let source = self.origin(path);
        // A queue that sets nothing reads the template: many readings, one fault.
        if self.faulty.insert(path.to_owned()) {
            self.faults.push(ConfigFault {
                setting: path.to_owned(),
                source,
                problem,
                fix,
            });
        }
    }

    /// Where the value of a setting came from.
    pub fn origin(&self, path: &str) -> String {
        self.value(path)
            .and_then(Value::origin)
            .unwrap_or("nowhere")
            .to_owned()
    }

    fn value(&self, path: &str) -> Option<&'a Value> {
        let mut keys = path.split('.');
        let mut value = self.root.get(keys.next()?)?;
        for key in keys {
            let ValueKind::Table(table) = &value.kind else {
                return None;
            };
            value = table.get(key)?;
        }
        Some(value)
    }

    fn kind(&self, path: &str) -> Option<&'a ValueKind> {
        self.value(path).map(|value| &value.kind)
    }

    /// A value as a fault shows it.
    fn describe(&self, path: &str, kind: Option<&ValueKind>) -> String {
        match kind {
            _ if self.schema.is_secret(path) => "this".to_owned(),
            None | Some(ValueKind::Nil) => "nothing".to_owned(),
            Some(ValueKind::String(text)) => format!("{text:?}"),
            Some(ValueKind::Array(_)) => "a list".to_owned(),
            Some(ValueKind::Table(_)) => "a section".to_owned(),
            Some(other) => other.to_string(),
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        _ => None,
    }
}
