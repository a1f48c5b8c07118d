//! The layers of a configuration, merged: defaults, what the platform offers, the file, the environment.
//!
//! A later layer wins, setting by setting. A layer only lets in what the schema knows and what has the right type;
//! everything else becomes a fault here, so that one pass tells them all. Every value remembers its origin.

use std::path::Path;

use config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::fault::{ConfigFault, nearest};
use super::schema::{DEFAULTS_ORIGIN, Schema, is_free_table, join, misnamed_queue, parse_toml};

/// Values from one origin each, by path.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    values: Vec<(Vec<String>, Value)>,
}

impl Layer {
    /// Adds a value under a path such as `queues.default.concurrency`.
    pub(super) fn insert(&mut self, path: &str, kind: ValueKind, origin: &str) {
        let keys = path.split('.').map(str::to_owned).collect();
        self.values
            .push((keys, Value::new(Some(&origin.to_owned()), kind)));
    }

    /// Adds a table whole, under a key that may hold dots.
    fn insert_table(&mut self, section: &str, key: &str, value: &Value, origin: &str) {
        let keys = section.split('.').chain([key]).map(str::to_owned).collect();
        self.values
            .push((keys, Value::new(Some(&origin.to_owned()), value.kind.clone())));
    }

    /// Whether it says something of a setting.
    pub(super) fn sets(&self, path: &str) -> bool {
        self.values.iter().any(|(keys, _)| keys.join(".") == path)
    }

    /// The default of every setting.
    pub(super) fn of_defaults(schema: &Schema) -> Self {
        let mut layer = Self::default();
        for setting in schema.declarations() {
            layer.insert(&setting.path, setting.default.clone(), DEFAULTS_ORIGIN);
        }
        layer
    }

    /// Queues that exist with the defaults.
    pub(super) fn of_queues(names: &[&str], origin: &str) -> Self {
        let mut layer = Self::default();
        for name in names {
            let defaults = ValueKind::Table(Map::new());
            layer.insert(&format!("queues.{name}"), defaults, origin);
        }
        layer
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut root = Map::new();
        for (keys, value) in &self.values {
            put(&mut root, keys, value);
        }
        Ok(root)
    }
}

fn put(table: &mut Map<String, Value>, keys: &[String], value: &Value) {
    let [key, rest @ ..] = keys else { return };
    if rest.is_empty() {
        table.insert(key.clone(), value.clone());
        return;
    }
    let child = table
        .entry(key.clone())
        .or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
    if let ValueKind::Table(inner) = &mut child.kind {
        put(inner, rest, value);
    }
}

/// The layers, the weakest first, as one table.
pub(super) fn merge(layers: Vec<Layer>) -> Result<Map<String, Value>, ConfigError> {
    let mut builder = Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    builder.build()?.cache.into_table()
}

/// The layer of a `holdfast.toml`; what is unknown or misplaced in it becomes a fault.
pub(super) fn of_file(path: &Path, text: &str, schema: &Schema, faults: &mut Vec<ConfigFault>) -> Layer {
    let origin = path.display().to_string();
    match parse_toml(text) {
        Ok(table) => {
            let mut known = Layer::default();
            keep_known("", &table, &origin, schema, faults, &mut known);
            known
        }
        Err(problem) => {
            faults.push(ConfigFault {
                setting: "the file".to_owned(),
                source: origin,
                problem,
                fix: "correct the TOML at that place".to_owned(),
            });
            Layer::default()
        }
    }
}

fn keep_known(
    prefix: &str,
    table: &Map<String, Value>,
    origin: &str,
    schema: &Schema,
    faults: &mut Vec<ConfigFault>,
    known: &mut Layer,
) {
    for (key, value) in table {
        let path = join(prefix, key);
        match &value.kind {
            _ if misnamed_queue(&path).is_some() => faults.push(misnamed(&path, key, origin)),
            ValueKind::Table(_) if is_free_table(prefix, key) => {
                known.insert_table(prefix, key, value, origin);
            }
            _ if is_free_table(prefix, key) => faults.push(ConfigFault {
                setting: path.clone(),
                source: origin.to_owned(),
                problem: "this is a section, not a setting".to_owned(),
                fix: format!("write [{path}] and its settings below it"),
            }),
            ValueKind::Table(inner) if schema.is_section(&path) => {
                if inner.is_empty() {
                    known.insert(&path, value.kind.clone(), origin);
                }
                keep_known(&path, inner, origin, schema, faults, known);
            }
            _ if schema.is_section(&path) => faults.push(ConfigFault {
                setting: path.clone(),
                source: origin.to_owned(),
                problem: "this is a section, not a setting".to_owned(),
                fix: format!("write [{path}] and its settings below it"),
            }),
            ValueKind::Table(_) if schema.default_of(&path).is_some() => faults.push(ConfigFault {
                setting: path.clone(),
                source: origin.to_owned(),
                problem: "this is a setting, not a section".to_owned(),
                fix: format!("write {key} = … in its section"),
            }),
            kind if schema.default_of(&path).is_some() => known.insert(&path, kind.clone(), origin),
            _ => faults.push(unknown(&path, origin, schema)),
        }
    }
}

/// The fault of a queue whose name is not one.
pub(super) fn misnamed(path: &str, queue: &str, origin: &str) -> ConfigFault {
    ConfigFault {
        setting: path.to_owned(),
        source: origin.to_owned(),
        problem: format!("{queue:?} is not a queue name"),
        fix: "use a lower-case letter, then up to 62 of a-z, 0-9, _ and -".to_owned(),
    }
}

fn unknown(path: &str, origin: &str, schema: &Schema) -> ConfigFault {
    let mut candidates = schema.paths_near(path);
    candidates.extend(schema.sections());
    let fix = match nearest(path, candidates.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "remove it, or look for its name among the defaults".to_owned(),
    };
    ConfigFault {
        setting: path.to_owned(),
        source: origin.to_owned(),
        problem: "there is no such setting".to_owned(),
        fix,
    }
}
