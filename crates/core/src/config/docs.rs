//! The settings as a table, for `docs/configuration.md` and `.env.example`.

use config::ValueKind;

use super::ProductSection;
use super::declare::Declaration;
use super::environment::generic_variable;
use super::schema::own_path;

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

/// Every setting of the engine and its services, then those of these products, in the order of their declaration. Those of a queue
/// appear as `queues.NAME.…` after their template.
pub fn settings_table(products: &[ProductSection]) -> Vec<SettingDoc> {
    super::declarations(products).iter().flat_map(rows).collect()
}

fn rows(declaration: &Declaration) -> impl Iterator<Item = SettingDoc> {
    let path = &declaration.path;
    let conventional = declaration.variables.first();
    let doc = SettingDoc {
        key: path.clone(),
        env: conventional.map_or_else(|| generic_variable(path), |name| (*name).to_owned()),
        default: toml(&declaration.default),
        help: declaration.help.clone(),
    };
    let of_queue = own_path(path, "NAME").map(|own| SettingDoc {
        env: generic_variable(&own),
        key: own,
        default: path.clone(),
        help: format!("The same for the queue NAME alone. {}", declaration.help),
    });
    std::iter::once(doc).chain(of_queue)
}

/// A default as TOML writes it. No list has one.
fn toml(default: &ValueKind) -> String {
    match default {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained_with_its_bounds() {
        for row in settings_table(&[]) {
            assert!(row.help.len() > 10, "{} is not explained", row.key);
            assert!(!row.help.contains(['{', '}']), "{}: {}", row.key, row.help);
        }
    }

    #[test]
    fn rows_name_the_conventional_variable_where_there_is_one() {
        let table = settings_table(&[]);
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
