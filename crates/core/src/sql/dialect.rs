//! One text for both databases: what they spell differently is a mark in the statement.
//!
//! | mark | PostgreSQL | SQLite |
//! | --- | --- | --- |
//! | `@now` | `now()` | milliseconds since the epoch |
//! | `@now_ms` | milliseconds since the epoch, rounded down, by the clock and not by the transaction's beginning | the same |
//! | `@ms(column)` | the column's time as milliseconds | `column` |
//! | `@ago($1)`, `@ahead($1)` | now, less or plus `$1` milliseconds | the same |
//! | `@tick($1)` | now plus `$1` milliseconds, in whole ones | the same |
//! | `@at($1)` | the moment `$1` milliseconds after the epoch | `$1` |
//! | `@share` | `for key share`: whoever deletes the row waits, or is waited for | nothing: there is one writer |
//! | `@address($1)` | the address in `$1`, which may have a display name, in lower case | the same |
//! | `@json` | `json` | `text`: what JSON is kept as |
//! | `@field(payload, 'user')` | a field of the document as text, whatever else the document holds | the same |
//! | `@text(payload)` | JSON as text, as it was given | the same |
//! | `@find(a, b)` | where `b` is in `a`, or 0 | the same |
//! | `@last(errors)` | the last element of a JSON array, as text | the same |
//! | `@names($1)` | the texts of a JSON array, as a subquery | the same |
//! | `@each($1)` | a row `value` for each element of a JSON array | the same |
//! | `@size(payload)` | the bytes that a column takes, without reading it | the same |
//! | `@id($1)` | an id from its hexadecimal text | the same |
//! | `@among($1)` | `= any($1)`, of an array of ids | among the ids of a JSON array of hexadecimal texts |
//! | `@skip_locked` | `for update skip locked` | nothing: there is one writer |
//!
//! Only for statements that mean the same on both. Where a batch is written, or locks matter, each database has a text
//! of its own. The texts are constants: what a caller says is always bound.

use std::time::Duration;

use chrono::{DateTime, Utc};

const SQLITE_NOW: &str = "cast(unixepoch('subsec') * 1000 as integer)";

/// Runs a statement on whichever database the transaction is of, and ends with the given call:
/// `on_either!(tx.on(), sql.named(), query(TEXT), [id, name], execute)`.
#[macro_export]
macro_rules! on_either {
    ($tx:expr, $named:expr, $query:ident $(::<$row:ty>)? ($text:expr), [$($bind:expr),* $(,)?], $end:ident) => {
        match $tx {
            $crate::sql::Tx::Postgres(on) => {
                let text = $crate::sql::dialect::sqlx::AssertSqlSafe($crate::sql::dialect::postgres($text));
                $crate::sql::dialect::sqlx::$query$(::<_, $row>)?(text)$(.bind($bind))*.persistent($named).$end(on).await
                    .map($crate::sql::dialect::Outcome::outcome)
            }
            $crate::sql::Tx::Sqlite(on) => {
                let text = $crate::sql::dialect::sqlx::AssertSqlSafe($crate::sql::dialect::sqlite($text));
                $crate::sql::dialect::sqlx::$query$(::<_, $row>)?(text)$(.bind($bind))*.$end(on).await
                    .map($crate::sql::dialect::Outcome::outcome)
            }
        }
    };
}

/// The same in a transaction of its own, which only reads:
/// `read_either!(sql, "read a thing", query_as::<Row>(TEXT), [id], fetch_optional)`.
#[macro_export]
macro_rules! read_either {
    ($sql:expr, $doing:literal, $($statement:tt)*) => {
        $crate::in_transaction!(begin_read, $sql, $doing, $($statement)*)
    };
}

/// The same in a transaction of its own.
#[macro_export]
macro_rules! write_either {
    ($sql:expr, $doing:literal, $($statement:tt)*) => {
        $crate::in_transaction!(begin, $sql, $doing, $($statement)*)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! in_transaction {
    ($begin:ident, $sql:expr, $doing:literal, $($statement:tt)*) => {{
        let sql = &$sql;
        let in_time = sql.within($doing, async {
            let mut tx = sql.$begin().await?;
            let done = $crate::on_either!(tx.on(), sql.named(), $($statement)*)?;
            tx.commit().await?;
            Ok(done)
        });
        in_time.await
    }};
}

pub use crate::{on_either, read_either, write_either};
#[doc(hidden)]
pub use sqlx;

/// What both databases answer alike: rows as they are, and how many were changed.
pub trait Outcome {
    type Of;

    fn outcome(self) -> Self::Of;
}

impl<T> Outcome for Vec<T> {
    type Of = Self;

    fn outcome(self) -> Self {
        self
    }
}

impl<T> Outcome for Option<T> {
    type Of = Self;

    fn outcome(self) -> Self {
        self
    }
}

impl Outcome for i64 {
    type Of = Self;

    fn outcome(self) -> Self {
        self
    }
}

impl Outcome for sqlx::postgres::PgQueryResult {
    type Of = u64;

    fn outcome(self) -> u64 {
        self.rows_affected()
    }
}

impl Outcome for sqlx::sqlite::SqliteQueryResult {
    type Of = u64;

    fn outcome(self) -> u64 {
        self.rows_affected()
    }
}

/// The statement as PostgreSQL reads it.
pub fn postgres(text: &str) -> String {
    let text = call(text, "@ms", |column| {
        format!("(extract(epoch from {column}) * 1000)::bigint")
    });
    let text = call(&text, "@ago", |millis| {
        format!("(now() - {millis}::bigint * interval '1 millisecond')")
    });
    let text = call(&text, "@ahead", |millis| {
        format!("(now() + {millis}::bigint * interval '1 millisecond')")
    });
    let text = call(&text, "@tick", |millis| {
        format!("date_trunc('milliseconds', now() + {millis}::bigint * interval '1 millisecond')")
    });
    let text = call(&text, "@at", |millis| {
        format!("('epoch'::timestamptz + {millis}::bigint * interval '1 millisecond')")
    });
    let text = call(&text, "@address_field", |arguments| {
        address("strpos", &postgres_field(arguments))
    });
    let text = call(&text, "@address", |column| address("strpos", column));
    let text = call(&text, "@field", postgres_field);
    let text = call(&text, "@text", |json| format!("{json}::text"));
    let text = call(&text, "@find", |arguments| format!("strpos({arguments})"));
    let text = call(&text, "@last", |array| format!("({array} -> -1)::text"));
    let text = call(&text, "@names", |array| {
        format!("select json_array_elements_text({array}::text::json)")
    });
    let text = call(&text, "@each", |array| {
        format!("json_array_elements({array}::text::json) as item(value)")
    });
    let text = call(&text, "@size", |column| {
        format!("pg_column_size({column})::bigint")
    });
    let text = call(&text, "@among", |ids| format!("= any({ids})"));
    let text = call(&text, "@id", |hexadecimal| format!("cast({hexadecimal} as uuid)"));
    text.replace(
        "@now_ms",
        "floor(extract(epoch from clock_timestamp()) * 1000)::bigint",
    )
    .replace("@now", "now()")
    .replace("@json", "json")
    .replace("@share", "for key share")
    .replace("@skip_locked", "for update skip locked")
}

/// The statement as SQLite reads it.
pub fn sqlite(text: &str) -> String {
    let text = call(text, "@ms", str::to_owned);
    let text = call(&text, "@ago", |millis| format!("({SQLITE_NOW} - {millis})"));
    let text = call(&text, "@ahead", |millis| format!("({SQLITE_NOW} + {millis})"));
    let text = call(&text, "@tick", |millis| format!("({SQLITE_NOW} + {millis})"));
    let text = call(&text, "@at", str::to_owned);
    let text = call(&text, "@address_field", |arguments| {
        address("instr", &sqlite_field(arguments))
    });
    let text = call(&text, "@address", |column| address("instr", column));
    let text = call(&text, "@field", sqlite_field);
    let text = call(&text, "@text", str::to_owned);
    let text = call(&text, "@find", |arguments| format!("instr({arguments})"));
    let text = call(&text, "@last", |array| format!("{array} -> '$[#-1]'"));
    let text = call(&text, "@names", |array| {
        format!("select value from json_each({array})")
    });
    let text = call(&text, "@each", |array| format!("json_each({array})"));
    let text = call(&text, "@size", |column| format!("octet_length({column})"));
    let text = call(&text, "@among", |ids| {
        format!("in (select unhex(value) from json_each({ids}))")
    });
    let text = call(&text, "@id", |hexadecimal| format!("unhex({hexadecimal})"));
    text.replace("@now_ms", SQLITE_NOW)
        .replace("@now", SQLITE_NOW)
        .replace("@json", "text")
        .replace("@share", "")
        .replace("@skip_locked", "")
}

/// As the index `holdfast_jobs_user` has it. The cast does nothing where the column is `json`.
fn postgres_field(arguments: &str) -> String {
    let (document, field) = arguments.split_once(',').unwrap_or((arguments, "''"));
    format!("holdfast_json_text({document}::json,{field})")
}

fn sqlite_field(arguments: &str) -> String {
    arguments.replacen(',', " ->>", 1)
}

/// As the index `holdfast_jobs_address` has it.
fn address(find: &str, column: &str) -> String {
    format!("lower(rtrim(substr({column}, {find}({column}, '<') + 1), '> '))")
}

/// Replaces every `mark(argument)`; an argument holds no brackets.
fn call(text: &str, mark: &str, write: impl Fn(&str) -> String) -> String {
    let mut rest = text;
    let mut written = String::with_capacity(text.len() * 2);
    while let Some((before, after)) = rest.split_once(mark) {
        let Some((argument, end)) = after.strip_prefix('(').and_then(|inside| inside.split_once(')')) else {
            break;
        };
        written.push_str(before);
        written.push_str(&write(argument));
        rest = end;
    }
    written.push_str(rest);
    written
}

/// A span of time as statements take it.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 4)
}

/// A moment as statements answer it.
pub fn moment(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

/// A limit as statements take it.
pub fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_written_as_each_database_wants_it() {
        let text = "select @ms(at), @ms(until) from t where at < @ago($1) and until > @ahead($2) and at < @now @skip_locked";
        assert_eq!(
            postgres(text),
            "select (extract(epoch from at) * 1000)::bigint, (extract(epoch from until) * 1000)::bigint from t \
             where at < (now() - $1::bigint * interval '1 millisecond') \
             and until > (now() + $2::bigint * interval '1 millisecond') and at < now() for update skip locked"
        );
        let set = "update t set payload = cast($2 as @json) where @find(@text(payload), $1) > 0";
        assert_eq!(
            postgres(set),
            "update t set payload = cast($2 as json) where strpos(payload::text, $1) > 0"
        );
        assert_eq!(
            sqlite(set),
            "update t set payload = cast($2 as text) where instr(payload, $1) > 0"
        );
        let among = "select @size(a) from t where id @among($1)";
        assert_eq!(
            postgres(among),
            "select pg_column_size(a)::bigint from t where id = any($1)"
        );
        assert_eq!(
            sqlite(among),
            "select octet_length(a) from t where id in (select unhex(value) from json_each($1))"
        );
        let tick = "update t set due = @tick($2) where due = @at($1)";
        assert_eq!(
            postgres(tick),
            "update t set due = date_trunc('milliseconds', now() + $2::bigint * interval '1 millisecond') \
             where due = ('epoch'::timestamptz + $1::bigint * interval '1 millisecond')"
        );
        assert_eq!(
            sqlite(tick),
            format!("update t set due = ({SQLITE_NOW} + $2) where due = $1")
        );
        let moved = "update t set job = @id(value ->> 0), late = @now_ms - @ms(due)";
        assert_eq!(
            postgres(moved),
            "update t set job = cast(value ->> 0 as uuid), late = floor(extract(epoch from clock_timestamp()) * 1000)::bigint \
             - (extract(epoch from due) * 1000)::bigint"
        );
        assert_eq!(
            sqlite(moved),
            format!("update t set job = unhex(value ->> 0), late = {SQLITE_NOW} - due")
        );
        let more = "select @address(a) from t where at = @at($1) @share";
        assert_eq!(
            postgres(more),
            "select lower(rtrim(substr(a, strpos(a, '<') + 1), '> ')) from t \
             where at = ('epoch'::timestamptz + $1::bigint * interval '1 millisecond') for key share"
        );
        assert_eq!(
            sqlite(more),
            "select lower(rtrim(substr(a, instr(a, '<') + 1), '> ')) from t where at = $1 "
        );
        let now = SQLITE_NOW;
        assert_eq!(
            sqlite(text),
            format!(
                "select at, until from t where at < ({now} - $1) and until > ({now} + $2) and at < {now} "
            )
        );
    }
}
