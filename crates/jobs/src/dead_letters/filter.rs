//! Which dead letters: one filter for listing, counting, redriving and deleting.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};
use uuid::Uuid;

use crate::id::JobId;
use crate::sql::hex_ids;

/// Which dead letters are meant. The default means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    pub queue: Option<String>,
    pub kind: Option<String>,
    /// A piece of any of its errors' messages; case does not matter.
    pub error: Option<String>,
    /// Discarded at or after.
    pub from: Option<DateTime<Utc>>,
    /// Discarded before.
    pub to: Option<DateTime<Utc>>,
    /// Of this group of failures ([`crate::failures`]).
    pub fingerprint: Option<String>,
    /// Only these.
    pub ids: Option<Vec<JobId>>,
}

impl DeadLetterFilter {
    pub fn of_ids(ids: impl IntoIterator<Item = JobId>) -> Self {
        Self {
            ids: Some(ids.into_iter().collect()),
            ..Self::default()
        }
    }

    /// As the audit log tells it.
    pub(crate) fn document(&self) -> Value {
        let given = [
            ("queue", json!(self.queue)),
            ("kind", json!(self.kind)),
            ("error", json!(self.error)),
            ("from", json!(self.from)),
            ("to", json!(self.to)),
            ("fingerprint", json!(self.fingerprint)),
            ("ids", json!(self.ids)),
        ];
        let told = given.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(told.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn uuids(&self) -> Option<Vec<Uuid>> {
        let ids = self.ids.as_ref()?;
        Some(ids.iter().map(|id| id.as_uuid()).collect())
    }
}

/// `$1` to `$6`, as [`bind_postgres`] binds them; the fingerprint is bound last, by this name.
macro_rules! postgres_filter {
    ($fingerprint:literal) => {
        concat!(
            "state = 'discarded'
         and ($1::text is null or queue = $1) and ($2::text is null or kind = $2)
         and ($3::text is null or exists (
             select from jsonb_array_elements(coalesce(errors, '[]'::jsonb)) as e
             where strpos(lower(e ->> 'message'), lower($3)) > 0))
         and ($4::bigint is null or finished_at >= 'epoch'::timestamptz + $4 * interval '1 millisecond')
         and ($5::bigint is null or finished_at < 'epoch'::timestamptz + $5 * interval '1 millisecond')
         and ($6::uuid[] is null or id = any ($6)) and (",
            $fingerprint,
            "::text is null or fingerprint = ",
            $fingerprint,
            ")"
        )
    };
}
pub(super) use postgres_filter;

/// `?1` to `?6`, as [`bind_sqlite`] binds them; the fingerprint is bound last, by this name.
macro_rules! sqlite_filter {
    ($fingerprint:literal) => {
        concat!(
            "state = 'discarded'
         and (?1 is null or queue = ?1) and (?2 is null or kind = ?2)
         and (?3 is null or exists (
             select 1 from json_each(coalesce(errors, '[]')) as e
             where instr(lower(e.value ->> 'message'), lower(?3)) > 0))
         and (?4 is null or finished_at >= ?4) and (?5 is null or finished_at < ?5)
         and (?6 is null or id in (select unhex(value) from json_each(?6))) and (",
            $fingerprint,
            " is null or fingerprint = ",
            $fingerprint,
            ")"
        )
    };
}
pub(super) use sqlite_filter;

pub(super) fn bind_postgres<'q>(
    query: Query<'q, Postgres, PgArguments>,
    filter: &DeadLetterFilter,
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(filter.queue.clone())
        .bind(filter.kind.clone())
        .bind(filter.error.clone())
        .bind(filter.from.map(|at| at.timestamp_millis()))
        .bind(filter.to.map(|at| at.timestamp_millis()))
        .bind(filter.uuids())
}

pub(super) fn bind_sqlite<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    filter: &DeadLetterFilter,
) -> Query<'q, Sqlite, SqliteArguments> {
    query
        .bind(filter.queue.clone())
        .bind(filter.kind.clone())
        .bind(filter.error.clone())
        .bind(filter.from.map(|at| at.timestamp_millis()))
        .bind(filter.to.map(|at| at.timestamp_millis()))
        .bind(filter.uuids().map(|ids| hex_ids(&ids)))
}
