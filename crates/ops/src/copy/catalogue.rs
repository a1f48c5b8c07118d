//! Which tables are copied, what their columns hold, and in which order: from the catalogues of both databases.

use std::collections::{BTreeMap, BTreeSet};

use super::value::Kind;
use super::{CopyError, Difference, SHOWN_KEYS};

/// Tables that are not copied, and why not. The first is on both sides, the others only on PostgreSQL.
pub const NOT_COPIED: [(&str, &str); 3] = [
    ("holdfast_migrations", "says what was done to its own database"),
    (
        "holdfast_migrator",
        "the lease of whoever migrates its own database",
    ),
    (
        "holdfast_frontiers",
        "where claims may begin; workers write it again",
    ),
];

/// One database's tables that belong to Holdfast, by name.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) tables: BTreeMap<String, Vec<CatalogueColumn>>,
    /// A table, and one that it refers to. Empty for the target.
    pub(super) references: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub(super) struct CatalogueColumn {
    pub(super) name: String,
    pub(super) type_name: String,
    /// Place in the primary key, from 1; 0 where it is not in the key. The target says only whether it is.
    pub(super) key: i64,
}

/// A table to be copied.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Indexes of the columns of the primary key, in its order.
    pub(super) key: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Its type in the target.
    pub(super) postgres: String,
}

/// A row as texts, in the order of the table's columns.
pub(super) type Row = Vec<Option<String>>;

impl Table {
    /// The first column in which the rows differ.
    pub(super) fn difference(&self, row: &Row, other: &Row) -> Option<Difference> {
        let pairs = self.columns.iter().zip(row.iter().zip(other));
        let differs = |(column, (given, answered)): &(&Column, (&Option<String>, &Option<String>))| {
            !column.kind.is_same(given.as_deref(), answered.as_deref())
        };
        pairs.into_iter().find(differs).map(|(column, _)| Difference {
            table: self.name.clone(),
            key: self.key_of(row),
            column: Some(column.name.clone()),
        })
    }

    pub(super) fn missing(&self, row: &Row) -> Difference {
        Difference {
            table: self.name.clone(),
            key: self.key_of(row),
            column: None,
        }
    }

    /// The primary key as errors show it.
    pub(super) fn key_of(&self, row: &Row) -> String {
        let shown = self.key.iter().map(|index| {
            let column = &self.columns[*index];
            let may_be_shown = column.kind.is_shown() || SHOWN_KEYS.contains(&column.name.as_str());
            let value = match row.get(*index) {
                Some(Some(text)) if may_be_shown => text.as_str(),
                Some(None) => "null",
                _ => "(not shown)",
            };
            format!("{}={value}", column.name)
        });
        shown.collect::<Vec<_>>().join(" ")
    }
}

/// The tables to be copied, a table that is referred to before those that refer to it.
///
/// # Errors
/// [`CopyError::Schema`] with everything that is on one side only, or of types that have no conversion.
pub(super) fn tables(source: &Catalogue, target: &Catalogue) -> Result<Vec<Table>, CopyError> {
    let mut faults = Vec::new();
    let mut tables = BTreeMap::new();
    let names: BTreeSet<&String> = source.tables.keys().chain(target.tables.keys()).collect();
    for name in names {
        if NOT_COPIED.iter().any(|(table, _)| table == name) {
            continue;
        }
        match (source.tables.get(name), target.tables.get(name)) {
            (Some(ours), Some(theirs)) => {
                tables.insert(name.clone(), table(name, ours, theirs, &mut faults));
            }
            (Some(_), None) => faults.push(format!("the target has no table {name}")),
            _ => faults.push(format!("the source has no table {name}")),
        }
    }
    let ordered = in_order(tables, &source.references, &mut faults);
    if faults.is_empty() {
        Ok(ordered)
    } else {
        Err(CopyError::Schema(faults))
    }
}

fn table(
    name: &str,
    source: &[CatalogueColumn],
    target: &[CatalogueColumn],
    faults: &mut Vec<String>,
) -> Table {
    let mut columns = Vec::with_capacity(source.len());
    let mut key = Vec::new();
    for column in source {
        let Some(other) = target.iter().find(|other| other.name == column.name) else {
            faults.push(format!("the target has no column {name}.{}", column.name));
            continue;
        };
        if (column.key > 0) != (other.key > 0) {
            faults.push(format!(
                "{name}.{} is in the primary key of one side",
                column.name
            ));
        }
        let Some(kind) = Kind::of(name, &column.name, &column.type_name, &other.type_name) else {
            faults.push(format!(
                "{name}.{} is {} in the source and {} in the target, for which there is no conversion",
                column.name, column.type_name, other.type_name
            ));
            continue;
        };
        if column.key > 0 {
            key.push((column.key, columns.len()));
        }
        columns.push(Column {
            name: column.name.clone(),
            kind,
            postgres: other.type_name.clone(),
        });
    }
    for other in target {
        if source.iter().all(|column| column.name != other.name) {
            faults.push(format!("the source has no column {name}.{}", other.name));
        }
    }
    if key.is_empty() {
        faults.push(format!("{name} has no primary key"));
    }
    key.sort_unstable();
    Table {
        name: name.to_owned(),
        columns,
        key: key.into_iter().map(|(_, index)| index).collect(),
    }
}

fn in_order(
    mut tables: BTreeMap<String, Table>,
    references: &[(String, String)],
    faults: &mut Vec<String>,
) -> Vec<Table> {
    let mut ordered = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let waits = |name: &String| {
            references
                .iter()
                .any(|(from, to)| from == name && to != name && tables.contains_key(to))
        };
        let Some(next) = tables.keys().find(|name| !waits(name)).cloned() else {
            let names: Vec<String> = tables.into_keys().collect();
            faults.push(format!("{} refer to each other", names.join(", ")));
            break;
        };
        ordered.extend(tables.remove(&next));
    }
    ordered
}
