use super::catalogue::{Catalogue, CatalogueColumn, tables};
use super::value::{Kind, StoredValue};
use super::{CopyError, SHOWN_KEYS};

const PAIRS: [(&str, &str, Kind); 13] = [
    ("blob", "uuid", Kind::Uuid),
    ("BLOB", "bytea", Kind::Bytes),
    ("integer", "timestamp with time zone", Kind::Millis),
    ("real", "timestamp with time zone", Kind::Millis),
    ("boolean", "boolean", Kind::Boolean),
    ("integer", "boolean", Kind::Boolean),
    ("integer", "smallint", Kind::Integer),
    ("integer", "bigint", Kind::Integer),
    ("real", "double precision", Kind::Float),
    ("text", "text", Kind::Text),
    ("text", "json", Kind::Json),
    ("text", "jsonb", Kind::Jsonb),
    ("text", "text[]", Kind::Words),
];

/// Name, type and place in the primary key of each.
type Columns<'a> = &'a [(&'a str, &'a str, i64)];

fn catalogue(tables: &[(&str, Columns<'_>)], references: &[(&str, &str)]) -> Catalogue {
    let mut made = Catalogue::default();
    for (name, columns) in tables {
        let columns = columns.iter().map(|(name, type_name, key)| CatalogueColumn {
            name: (*name).to_owned(),
            type_name: (*type_name).to_owned(),
            key: *key,
        });
        made.tables.insert((*name).to_owned(), columns.collect());
    }
    made.references = references
        .iter()
        .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
        .collect();
    made
}

#[test]
fn a_pair_of_types_says_what_a_column_holds() {
    for (sqlite, postgres, kind) in PAIRS {
        assert_eq!(
            Kind::of("t", "c", sqlite, postgres),
            Some(kind),
            "{sqlite} {postgres}"
        );
    }
    assert_eq!(
        Kind::of(
            "holdfast_points",
            "recorded_at",
            "integer",
            "timestamp with time zone"
        ),
        Some(Kind::Micros)
    );
    assert_eq!(Kind::of("t", "c", "integer", "interval"), None);
    assert_eq!(Kind::of("t", "c", "text", "uuid"), None);
}

#[test]
fn values_become_the_text_that_the_target_reads() {
    let text = |kind: Kind, stored| kind.text_of(stored).unwrap().unwrap();
    assert_eq!(
        text(Kind::Uuid, StoredValue::Blob(vec![0xab; 16])),
        "ab".repeat(16)
    );
    assert_eq!(
        text(Kind::Millis, StoredValue::Integer(1_700_000_000_123)),
        "2023-11-14 22:13:20.123000"
    );
    assert_eq!(
        text(Kind::Micros, StoredValue::Integer(-1)),
        "1969-12-31 23:59:59.999999"
    );
    assert_eq!(
        text(Kind::Millis, StoredValue::Real(1_700_000_000_123.456)),
        "2023-11-14 22:13:20.123456"
    );
    assert_eq!(text(Kind::Boolean, StoredValue::Integer(1)), "true");
    assert_eq!(text(Kind::Float, StoredValue::Real(0.1)), "0.1");
    assert_eq!(text(Kind::Words, StoredValue::Text(" a b ".to_owned())), "a b");
    assert_eq!(text(Kind::Words, StoredValue::Text("  ".to_owned())), "");
    assert_eq!(Kind::Text.text_of(StoredValue::Null), Ok(None));
}

#[test]
fn a_value_that_the_target_cannot_hold_is_refused() {
    for (kind, stored) in [
        (Kind::Uuid, StoredValue::Blob(vec![0; 15])),
        (Kind::Text, StoredValue::Text("a\0b".to_owned())),
        (Kind::Text, StoredValue::Blob(vec![1])),
        (Kind::Boolean, StoredValue::Integer(2)),
        // Microseconds where milliseconds are meant: the year 55,840.
        (Kind::Millis, StoredValue::Integer(1_700_000_000_123_456)),
        (Kind::Millis, StoredValue::Integer(i64::MAX)),
        (Kind::Millis, StoredValue::Real(f64::INFINITY)),
        (Kind::Words, StoredValue::Text("a".to_owned())),
    ] {
        let said = format!("{kind:?} {stored:?}");
        assert!(kind.text_of(stored).is_err(), "{said}");
    }
}

#[test]
fn json_is_compared_as_its_column_keeps_it() {
    let (a, b) = (
        Some(r#"{"a": 1e2, "b": [true]}"#),
        Some(r#"{"b": [true], "a": 100}"#),
    );
    assert!(Kind::Jsonb.is_same(a, b));
    assert!(!Kind::Json.is_same(a, b));
    assert!(!Kind::Jsonb.is_same(a, Some(r#"{"a": 100}"#)));
    assert!(!Kind::Jsonb.is_same(a, None));
}

#[test]
fn a_table_comes_after_those_that_it_refers_to() {
    let columns: &[(&str, &str, i64)] = &[("id", "blob", 1)];
    let theirs: &[(&str, &str, i64)] = &[("id", "uuid", 1)];
    let source = catalogue(
        &[
            ("holdfast_a", columns),
            ("holdfast_b", columns),
            ("holdfast_c", columns),
        ],
        &[("holdfast_a", "holdfast_b"), ("holdfast_b", "holdfast_c")],
    );
    let target = catalogue(
        &[
            ("holdfast_a", theirs),
            ("holdfast_b", theirs),
            ("holdfast_c", theirs),
        ],
        &[],
    );
    let ordered = tables(&source, &target).unwrap();
    let names: Vec<&str> = ordered.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["holdfast_c", "holdfast_b", "holdfast_a"]);
}

#[test]
fn what_is_on_one_side_only_is_named() {
    let source = catalogue(
        &[
            (
                "holdfast_a",
                &[("id", "blob", 1), ("x", "text", 0), ("y", "integer", 0)],
            ),
            ("holdfast_only", &[("id", "blob", 1)]),
        ],
        &[],
    );
    let target = catalogue(
        &[
            (
                "holdfast_a",
                &[("id", "uuid", 1), ("y", "interval", 0), ("z", "text", 0)],
            ),
            ("holdfast_frontiers", &[("id", "uuid", 1)]),
            ("holdfast_theirs", &[("id", "uuid", 1)]),
        ],
        &[],
    );
    let Err(CopyError::Schema(faults)) = tables(&source, &target) else {
        panic!("accepted")
    };
    let said = faults.join("\n");
    for part in [
        "the target has no column holdfast_a.x",
        "holdfast_a.y is integer in the source and interval",
        "the source has no column holdfast_a.z",
        "the target has no table holdfast_only",
        "the source has no table holdfast_theirs",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(faults.len(), 5, "{said}");
}

#[test]
fn a_key_that_may_be_a_secret_is_not_shown() {
    let source = catalogue(
        &[("holdfast_t", &[("token", "text", 1), ("name", "text", 2)])],
        &[],
    );
    let table = tables(&source, &source).unwrap().remove(0);
    let row = vec![Some("hunter2".to_owned()), Some("mails".to_owned())];
    assert_eq!(table.key_of(&row), "token=(not shown) name=mails");
    assert!(SHOWN_KEYS.contains(&"name"));
}
