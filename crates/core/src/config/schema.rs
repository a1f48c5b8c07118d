//! Which settings there are, and of what type: exactly those that are declared.

use std::collections::BTreeMap;

use config::{File, FileFormat, Map, Source, Value, ValueKind};

use super::declare::Declaration;
use super::environment::generic_variable;

/// How the defaults are called where a fault names its source.
pub(super) const DEFAULTS_ORIGIN: &str = "defaults";

/// A template, not settings: `queues.NAME.x` has the type and the default of `queue_defaults.x`.
const QUEUE_TEMPLATE: &str = "queue_defaults";
const QUEUES: &str = "queues";

/// Tables whose keys are names, and whose contents are read by [`super::tables`].
const SCHEDULES: &str = "schedules";
const KINDS: &str = "kinds";
const RETRY: &str = "retry";

/// Longest queue name: it becomes part of Redis keys and metric labels.
const MAX_QUEUE_NAME: usize = 63;

/// The settings by path (`worker.heartbeat_seconds`).
#[derive(Debug)]
pub(super) struct Schema {
    settings: BTreeMap<String, Declaration>,
}

impl Schema {
    pub(super) fn of(declarations: Vec<Declaration>) -> Self {
        let by_path = |declaration: Declaration| (declaration.path.clone(), declaration);
        Self {
            settings: declarations.into_iter().map(by_path).collect(),
        }
    }

    fn get(&self, path: &str) -> Option<&Declaration> {
        self.settings.get(&template_path(path))
    }

    pub(super) fn declarations(&self) -> impl Iterator<Item = &Declaration> {
        self.settings.values()
    }

    /// The default of a setting, which also tells its type. `None`: there is no such setting.
    pub(super) fn default_of(&self, path: &str) -> Option<&ValueKind> {
        self.get(path).map(|declaration| &declaration.default)
    }

    /// Whether no text may show the setting's value.
    pub(super) fn is_secret(&self, path: &str) -> bool {
        self.get(path).is_some_and(|declaration| declaration.is_secret)
    }

    /// The variable that sets a setting: the conventional one where there is one.
    pub(super) fn variable_of(&self, path: &str) -> String {
        let conventional = self
            .settings
            .get(path)
            .and_then(|setting| setting.variables.first());
        conventional.map_or_else(|| generic_variable(path), |name| (*name).to_owned())
    }

    /// Whether the path is a section: a table, not a value.
    pub(super) fn is_section(&self, path: &str) -> bool {
        if matches!(path, SCHEDULES | KINDS) {
            return true;
        }
        let mut parts = path.split('.');
        if parts.next() == Some(QUEUES) {
            // `queues` itself and `queues.NAME`.
            return parts.nth(1).is_none();
        }
        let prefix = format!("{path}.");
        self.settings.keys().any(|known| known.starts_with(&prefix))
    }

    /// Every path, for suggestions: the settings, and those of the queue that `near` names.
    pub(super) fn paths_near(&self, near: &str) -> Vec<String> {
        let mut paths: Vec<String> = self.settings.keys().cloned().collect();
        let mut parts = near.split('.');
        if let (Some(QUEUES), Some(queue)) = (parts.next(), parts.next()) {
            let more: Vec<String> = paths.iter().filter_map(|path| own_path(path, queue)).collect();
            paths.extend(more);
        }
        paths
    }

    pub(super) fn sections(&self) -> Vec<String> {
        let mut sections: Vec<String> = self
            .settings
            .keys()
            .filter_map(|path| path.rsplit_once('.'))
            .map(|(section, _)| section.into())
            .collect();
        sections.extend([QUEUES, SCHEDULES, KINDS].map(str::to_owned));
        sections.dedup();
        sections
    }
}

/// Whether the key of a section opens a table of its own kind, which is taken as it is and read by [`super::tables`].
pub(super) fn is_free_table(section: &str, key: &str) -> bool {
    match section.split('.').collect::<Vec<_>>().as_slice() {
        [SCHEDULES | KINDS] => true,
        [QUEUES, _] => key == RETRY,
        _ => false,
    }
}

/// `queues.NAME.x` is described by `queue_defaults.x`.
pub(super) fn template_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    match parts.as_slice() {
        [QUEUES, _, key] => format!("{QUEUE_TEMPLATE}.{key}"),
        _ => path.to_owned(),
    }
}

/// The section of a queue.
pub(super) fn queue_section(queue: &str) -> String {
    format!("{QUEUES}.{queue}")
}

/// Where a queue sets what `queue_defaults.x` sets for all; `None`: the path is not of the template.
pub(super) fn own_path(path: &str, queue: &str) -> Option<String> {
    Some(join(&queue_section(queue), template_key(path)?))
}

/// The `x` of `queue_defaults.x`.
pub(super) fn template_key(path: &str) -> Option<&str> {
    path.strip_prefix(QUEUE_TEMPLATE)?.strip_prefix('.')
}

/// The queue that a path names, if its name is not one: `[a-z][a-z0-9_-]{0,62}`.
pub(super) fn misnamed_queue(path: &str) -> Option<&str> {
    let queue = path.strip_prefix(QUEUES)?.strip_prefix('.')?.split('.').next()?;
    (!is_queue_name(queue)).then_some(queue)
}

/// Whether a queue may have this name: a lower-case letter, then up to 62 of a-z, 0-9, _ and -.
pub fn is_queue_name(name: &str) -> bool {
    name.len() <= MAX_QUEUE_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
}

/// Parses TOML. The error names a line and what is wrong with it, but does not show the line: it may hold a secret.
pub(super) fn parse_toml(text: &str) -> Result<Map<String, Value>, String> {
    File::from_str(text, FileFormat::Toml)
        .collect()
        .map_err(|error| match error {
            config::ConfigError::FileParse { cause, .. } => without_excerpt(&cause.to_string()),
            other => without_excerpt(&other.to_string()),
        })
}

/// toml's message is `TOML parse error at line L, column C`, an excerpt of the file, and the reason.
fn without_excerpt(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.as_slice() {
        [] => "it is not TOML".to_owned(),
        [only] => (*only).to_owned(),
        [place, .., reason] => format!("{place}: {reason}"),
    }
}

pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::declare::Section as _;
    use super::super::settings::Settings;
    use super::*;

    #[test]
    fn a_toml_error_tells_the_line_and_hides_it() {
        let error = parse_toml("[redis]\nurl = \"redis://:hunter2@host\nmore = 1\n").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_queue_of_any_name_has_the_settings_of_the_template() {
        let schema = Schema::of(Settings::declarations());
        assert!(schema.default_of("queues.reports.concurrency").is_some());
        assert!(schema.default_of("queues.reports.colour").is_none());
        assert!(schema.is_section("queues") && schema.is_section("queues.reports"));
        assert!(schema.is_section("jobs.retry") && !schema.is_section("jobs.retry.jitter"));
    }

    #[test]
    fn queue_names_are_short_and_plain() {
        for name in ["a", "default", "ml-2_x", &"q".repeat(63)] {
            assert!(is_queue_name(name), "{name}");
        }
        for name in [
            "",
            "Default",
            "1st",
            "-a",
            "a b",
            "a.b",
            "{a}",
            "ä",
            &"q".repeat(64),
        ] {
            assert!(!is_queue_name(name), "{name}");
        }
    }
}
