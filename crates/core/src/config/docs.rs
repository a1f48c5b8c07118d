//! The settings as a table, for `docs/configuration.md` and `.env.example`: read from the annotations of `defaults.toml`.

use super::environment::variable_of;
use super::schema::{DEFAULTS, template_key};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDoc {
    /// The path, `worker.heartbeat_seconds`.
    pub key: String,
    /// The variable that sets it.
    pub env: String,
    /// The default as TOML writes it.
    pub default: String,
    /// Meaning, unit, range, and why this default.
    pub help: String,
}

/// Every setting in the order of the file; those of a queue appear as `queues.NAME.…` after their template.
pub fn settings_table() -> Vec<SettingDoc> {
    let mut docs = Vec::new();
    let mut section = String::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            comment.clear();
        } else if let Some((key, default)) = line.split_once(" = ") {
            let doc = document(format!("{section}{key}"), default, &comment.join(" "));
            let of_queue = template_key(&doc.key).map(|key| document_of_queue(key, &doc));
            docs.push(doc);
            docs.extend(of_queue);
            comment.clear();
        } else {
            // A comment that a blank line parts from what follows is about the file.
            comment.clear();
        }
    }
    docs
}

fn document(key: String, default: &str, help: &str) -> SettingDoc {
    SettingDoc {
        env: variable_of(&key),
        key,
        default: default.to_owned(),
        help: help.to_owned(),
    }
}

fn document_of_queue(key: &str, template: &SettingDoc) -> SettingDoc {
    let path = format!("queues.NAME.{key}");
    SettingDoc {
        env: variable_of(&path),
        key: path,
        default: template.key.clone(),
        help: format!("The same for the queue NAME alone. {}", template.help),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{Schema, parse_toml};
    use super::*;

    #[test]
    fn every_setting_has_a_row_with_an_explanation() {
        let schema = Schema::of(&parse_toml(DEFAULTS).unwrap());
        let table = settings_table();
        for (path, _) in schema.settings() {
            let row = table.iter().find(|row| row.key == path);
            let row = row.unwrap_or_else(|| panic!("{path} has no row"));
            assert!(row.help.len() > 10, "{path} is not explained");
        }
        // What each queue may set for itself has a row of its own.
        let of_each_queue = schema
            .settings()
            .filter(|(path, _)| path.starts_with("queue_defaults."));
        assert_eq!(table.len(), schema.settings().count() + of_each_queue.count());
    }

    #[test]
    fn rows_name_the_conventional_variable_where_there_is_one() {
        let table = settings_table();
        let row = |key: &str| table.iter().find(|row| row.key == key).unwrap().clone();
        assert_eq!(row("server.port").env, "PORT");
        assert_eq!(row("server.port").default, "8080");
        assert_eq!(
            row("worker.heartbeat_seconds").env,
            "HOLDFAST__WORKER__HEARTBEAT_SECONDS"
        );
        assert_eq!(
            row("queues.NAME.concurrency").default,
            "queue_defaults.concurrency"
        );
        assert_eq!(row("environment").env, "HOLDFAST_ENV");
    }
}
