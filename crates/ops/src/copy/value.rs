//! How each database stores a value, and the text that both are compared by.
//!
//! A value of the source becomes a text (`None` is null) that the target casts to the type of its column. Read back,
//! the target answers a text of the same form.
//!
//! | SQLite | PostgreSQL | text |
//! | --- | --- | --- |
//! | `blob`, 16 bytes | `uuid` | 32 hexadecimal digits |
//! | `blob` | `bytea` | hexadecimal digits |
//! | `integer`, milliseconds; microseconds in [`MICROSECONDS`] | `timestamptz` | UTC to the microsecond |
//! | `real`, milliseconds | `timestamptz` | the same, rounded |
//! | `integer` or `boolean`, 0 and 1 | `boolean` | `true`, `false` |
//! | `integer` | `smallint`, `integer`, `bigint` | digits |
//! | `real` | `double precision` | to the target: the shortest that reads the same; from it: its eight bytes |
//! | `text` | `text`, `json` | the same, byte for byte |
//! | `text` | `jsonb` | JSON; compared as documents, since `jsonb` keeps neither spaces nor the order of fields |
//! | `text`, a space around each word | `text[]` | the words with a space between |

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Number, Value};
use sqlx::sqlite::{SqliteRow, SqliteValueRef};
use sqlx::{Decode, Row as _, Sqlite, TypeInfo as _, ValueRef as _};

/// Columns of times that SQLite keeps in microseconds: those of points, which devices give.
const MICROSECONDS: [(&str, &str); 2] = [
    ("holdfast_points", "recorded_at"),
    ("holdfast_point_letters", "recorded_at"),
];

/// What a column holds, as the pair of its types says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Uuid,
    Bytes,
    Millis,
    Micros,
    Boolean,
    Integer,
    Float,
    Text,
    Json,
    Jsonb,
    Words,
}

/// A value as SQLite stores it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StoredValue {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl StoredValue {
    pub(super) fn read(row: &SqliteRow, index: usize) -> Result<Self, sqlx::Error> {
        let value = row.try_get_raw(index)?;
        if value.is_null() {
            return Ok(Self::Null);
        }
        let class = value.type_info().name().to_owned();
        let stored = match class.as_str() {
            "INTEGER" => decode(value).map(Self::Integer),
            "REAL" => decode(value).map(Self::Real),
            "TEXT" => decode(value).map(Self::Text),
            _ => decode(value).map(Self::Blob),
        };
        stored.map_err(sqlx::Error::Decode)
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len() * 2,
            _ => 8,
        }
    }
}

fn decode<'r, T: Decode<'r, Sqlite>>(value: SqliteValueRef<'r>) -> Result<T, sqlx::error::BoxDynError> {
    T::decode(value)
}

impl Kind {
    /// `None`: there is no conversion for this pair of types.
    pub(super) fn of(table: &str, column: &str, sqlite: &str, postgres: &str) -> Option<Self> {
        let sqlite = sqlite.to_ascii_lowercase();
        Some(match (sqlite.as_str(), postgres) {
            ("blob", "uuid") => Self::Uuid,
            ("blob", "bytea") => Self::Bytes,
            ("integer", "timestamp with time zone") if MICROSECONDS.contains(&(table, column)) => {
                Self::Micros
            }
            ("integer" | "real", "timestamp with time zone") => Self::Millis,
            ("integer" | "boolean", "boolean") => Self::Boolean,
            ("integer", "smallint" | "integer" | "bigint") => Self::Integer,
            ("real", "double precision") => Self::Float,
            ("text", "text") => Self::Text,
            ("text", "json") => Self::Json,
            ("text", "jsonb") => Self::Jsonb,
            ("text", "text[]") => Self::Words,
            _ => return None,
        })
    }

    /// The text that the target casts.
    pub(super) fn text_of(self, stored: StoredValue) -> Result<Option<String>, &'static str> {
        let text = match (self, stored) {
            (_, StoredValue::Null) => return Ok(None),
            (Self::Uuid, StoredValue::Blob(bytes)) if bytes.len() == 16 => hex(&bytes),
            (Self::Bytes, StoredValue::Blob(bytes)) => hex(&bytes),
            (Self::Millis, StoredValue::Integer(millis)) => moment(millis.checked_mul(1_000))
                .ok_or("is no time in milliseconds of the years 1 to 9999")?,
            (Self::Millis, StoredValue::Real(millis)) => moment(rounded(millis * 1_000.0))
                .ok_or("is no time in milliseconds of the years 1 to 9999")?,
            (Self::Micros, StoredValue::Integer(micros)) => {
                moment(Some(micros)).ok_or("is no time in microseconds of the years 1 to 9999")?
            }
            (Self::Boolean, StoredValue::Integer(0)) => "false".to_owned(),
            (Self::Boolean, StoredValue::Integer(1)) => "true".to_owned(),
            (Self::Integer, StoredValue::Integer(number)) => number.to_string(),
            (Self::Float, StoredValue::Real(number)) => format!("{number:?}"),
            (Self::Text | Self::Json | Self::Jsonb | Self::Words, StoredValue::Text(text))
                if text.contains('\0') =>
            {
                return Err("holds the character U+0000, which PostgreSQL does not store");
            }
            (Self::Text | Self::Json | Self::Jsonb, StoredValue::Text(text)) => text,
            (Self::Words, StoredValue::Text(text)) => text
                .strip_prefix(' ')
                .and_then(|text| text.strip_suffix(' '))
                .map(str::to_owned)
                .ok_or("has no space around its words")?,
            _ => return Err("holds a value of another type than its column"),
        };
        Ok(Some(text))
    }

    /// The expression by which the target reads the text `given`.
    pub(super) fn cast(self, given: &str, postgres: &str) -> String {
        match self {
            Self::Bytes => format!("decode({given}, 'hex')"),
            Self::Millis | Self::Micros => format!("({given} || '+00')::timestamptz"),
            Self::Words => format!("string_to_array({given}, ' ')"),
            _ => format!("{given}::{postgres}"),
        }
    }

    /// The expression by which the target answers a text.
    pub(super) fn answer(self, column: &str) -> String {
        match self {
            Self::Uuid => format!("replace({column}::text, '-', '')"),
            Self::Bytes => format!("encode({column}, 'hex')"),
            Self::Millis | Self::Micros => {
                format!("to_char({column} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
            }
            Self::Float => format!("encode(float8send({column}), 'hex')"),
            Self::Words => format!("array_to_string({column}, ' ')"),
            _ => format!("{column}::text"),
        }
    }

    /// Whether a text of the source and an answer of the target mean the same.
    pub(super) fn is_same(self, given: Option<&str>, answered: Option<&str>) -> bool {
        match (self, given, answered) {
            (Self::Float, Some(given), Some(answered)) => {
                let bits = u64::from_str_radix(answered, 16).ok();
                given.parse::<f64>().ok().map(f64::to_bits) == bits
            }
            (Self::Jsonb, Some(given), Some(answered)) => same_json(given, answered),
            _ => given == answered,
        }
    }

    /// Whether a key of this kind may stand in an error whatever its column is.
    pub(super) fn is_shown(self) -> bool {
        matches!(
            self,
            Self::Uuid | Self::Millis | Self::Micros | Self::Integer | Self::Boolean
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn rounded(micros: f64) -> Option<i64> {
    // Beyond this an f64 no longer tells two microseconds apart, and the years end long before.
    (micros.abs() < 9.0e18).then(|| micros.round() as i64)
}

fn moment(micros: Option<i64>) -> Option<String> {
    let moment: DateTime<Utc> = DateTime::from_timestamp_micros(micros?)?;
    (1..=9999)
        .contains(&moment.year())
        .then(|| moment.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
}

fn same_json(given: &str, answered: &str) -> bool {
    let parsed = |text| serde_json::from_str::<Value>(text).ok();
    matches!((parsed(given), parsed(answered)), (Some(a), Some(b)) if same_document(&a, &b))
}

/// As `==`, but a number may be written in another way: `1e2` and `100`.
fn same_document(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_document(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| same_document(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a.to_bits() == b.to_bits())
}
