//! The table of documents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::{millis, moment, on_either};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use sqlx::{PgConnection, SqliteConnection};

/// Bytes of bodies that one read answers at most, but for the first body.
const READ_BYTES: i64 = 8 * 1_048_576;

/// A document to be written.
#[derive(Debug, Clone)]
pub struct DocumentWrite {
    pub id: String,
    pub body: String,
    pub ttl: Duration,
    /// The body is final.
    pub finished: bool,
    /// Leave a document as it is that was written as finished.
    pub unless_finished: bool,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenDocument {
    pub id: String,
    /// Of the document as it is stored now.
    pub version: i64,
    /// Not if it was left as it is.
    pub is_stored: bool,
}

/// A document as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub id: String,
    pub body: String,
    pub version: i64,
    pub expires_at: DateTime<Utc>,
}

/// The answer to a read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentPage {
    pub documents: Vec<Document>,
    /// Those that did not fit into [`READ_BYTES`].
    pub left_out: Vec<String>,
}

impl DocumentPage {
    pub(crate) fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.left_out.is_empty()
    }
}

// In the order of the ids, so that two batches with the same ids wait for each other and do not deadlock.
const POSTGRES_WRITE: &str = "
insert into holdfast_results as r (id, body, version, finished, updated_at, expires_at)
select id, body, (extract(epoch from clock_timestamp()) * 1000)::bigint * 1000, finished, now(),
       now() + ttl_ms * interval '1 millisecond'
from unnest($1::text[], $2::text[], $3::bigint[], $4::bool[]) as g(id, body, ttl_ms, finished)
order by id
on conflict (id) do update
set body = excluded.body, version = greatest(r.version + 1, excluded.version), finished = excluded.finished,
    updated_at = excluded.updated_at, expires_at = excluded.expires_at
where not (r.finished and r.expires_at > now() and r.id = any($5::text[]))
returning id, version";

const SQLITE_WRITE: &str = "
insert into holdfast_results as r (id, body, version, finished, updated_at, expires_at)
select ?1, ?2, at * 1000, ?4, at, at + ?3 from (select cast(unixepoch('subsec') * 1000 as integer) as at)
where true
on conflict (id) do update
set body = excluded.body, version = max(r.version + 1, excluded.version), finished = excluded.finished,
    updated_at = excluded.updated_at, expires_at = excluded.expires_at
where not (r.finished and r.expires_at > excluded.updated_at and ?5)
returning id, version";

const POSTGRES_READ: &str = "
select id, version, (extract(epoch from expires_at) * 1000)::bigint, case when running - bytes < $3 then body end
from (select r.id, r.version, r.expires_at, r.body, octet_length(r.body)::bigint as bytes,
             (sum(octet_length(r.body)) over (order by r.id))::bigint as running
      from unnest($1::text[], $2::bigint[]) as g(id, known) join holdfast_results as r on r.id = g.id
      where r.expires_at > now() and r.version <> g.known) as found
order by id";

const SQLITE_READ: &str = "
select id, version, expires_at, case when running - bytes < ?2 then body end
from (select r.id, r.version, r.expires_at, r.body, octet_length(r.body) as bytes,
             sum(octet_length(r.body)) over (order by r.id) as running
      from json_each(?1) as g join holdfast_results as r on r.id = g.value ->> 0
      where r.expires_at > cast(unixepoch('subsec') * 1000 as integer) and r.version <> g.value ->> 1)
order by id";

pub(crate) async fn write(
    sql: &Sql,
    writes: Vec<DocumentWrite>,
) -> Result<Vec<WrittenDocument>, LedgerError> {
    let ids: Vec<String> = writes.iter().map(|write| write.id.clone()).collect();
    let mut last = last_of_each(writes);
    last.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let stored = sql.within("write results", async {
        let mut tx = sql.begin().await?;
        let stored = match tx.on() {
            LedgerTx::Postgres(on) => write_postgres(on, &last, sql.named()).await?,
            LedgerTx::Sqlite(on) => write_sqlite(on, &last).await?,
        };
        let mut kept = BTreeMap::new();
        for write in last.iter().filter(|write| !stored.contains_key(&write.id)) {
            let text = "select version from holdfast_results where id = $1";
            let version = on_either!(
                tx.on(),
                sql.named(),
                query_scalar::<i64>(text),
                [&write.id],
                fetch_optional
            )?;
            kept.insert(write.id.clone(), version.unwrap_or(0));
        }
        tx.commit().await?;
        Ok((stored, kept))
    });
    let (stored, kept) = stored.await?;
    let written = ids.into_iter().map(|id| {
        let is_stored = stored.contains_key(&id);
        let version = stored.get(&id).or_else(|| kept.get(&id)).copied().unwrap_or(0);
        WrittenDocument {
            id,
            version,
            is_stored,
        }
    });
    Ok(written.collect())
}

/// What is left of each document after all writes: one statement cannot write a row twice.
fn last_of_each(writes: Vec<DocumentWrite>) -> Vec<DocumentWrite> {
    let mut last: BTreeMap<String, DocumentWrite> = BTreeMap::new();
    for write in writes {
        match last.get_mut(&write.id) {
            Some(earlier) if earlier.finished && write.unless_finished => {}
            // It is stored whether or not the earlier ones are, unless all of them give way to a finished one.
            Some(earlier) => {
                let unless_finished = earlier.unless_finished && write.unless_finished;
                *earlier = DocumentWrite {
                    unless_finished,
                    ..write
                };
            }
            None => {
                last.insert(write.id.clone(), write);
            }
        }
    }
    last.into_values().collect()
}

async fn write_postgres(
    on: &mut PgConnection,
    writes: &[DocumentWrite],
    named: bool,
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let guarded = writes.iter().filter(|write| write.unless_finished);
    let rows: Vec<(String, i64)> = sqlx::query_as(POSTGRES_WRITE)
        .bind(writes.iter().map(|write| write.id.as_str()).collect::<Vec<_>>())
        .bind(writes.iter().map(|write| write.body.as_str()).collect::<Vec<_>>())
        .bind(writes.iter().map(|write| millis(write.ttl)).collect::<Vec<_>>())
        .bind(writes.iter().map(|write| write.finished).collect::<Vec<_>>())
        .bind(guarded.map(|write| write.id.as_str()).collect::<Vec<_>>())
        .persistent(named)
        .fetch_all(on)
        .await?;
    Ok(rows.into_iter().collect())
}

async fn write_sqlite(
    on: &mut SqliteConnection,
    writes: &[DocumentWrite],
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let mut stored = BTreeMap::new();
    for write in writes {
        let row: Option<(String, i64)> = sqlx::query_as(SQLITE_WRITE)
            .bind(&write.id)
            .bind(&write.body)
            .bind(millis(write.ttl))
            .bind(write.finished)
            .bind(write.unless_finished)
            .fetch_optional(&mut *on)
            .await?;
        stored.extend(row);
    }
    Ok(stored)
}

pub(crate) async fn read(sql: &Sql, known: &BTreeMap<String, i64>) -> Result<DocumentPage, LedgerError> {
    let rows = sql.within("read results", async {
        let mut tx = sql.begin_read().await?;
        let rows: Vec<(String, i64, i64, Option<String>)> = match tx.on() {
            LedgerTx::Postgres(on) => {
                sqlx::query_as(POSTGRES_READ)
                    .bind(known.keys().map(String::as_str).collect::<Vec<_>>())
                    .bind(known.values().copied().collect::<Vec<_>>())
                    .bind(READ_BYTES)
                    .persistent(sql.named())
                    .fetch_all(on)
                    .await?
            }
            LedgerTx::Sqlite(on) => {
                sqlx::query_as(SQLITE_READ)
                    .bind(pairs(known.iter().map(|(id, version)| (id.as_str(), *version))))
                    .bind(READ_BYTES)
                    .fetch_all(on)
                    .await?
            }
        };
        tx.commit().await?;
        Ok(rows)
    });
    let mut page = DocumentPage::default();
    for (id, version, expires_at, body) in rows.await? {
        match body {
            Some(body) => page.documents.push(Document {
                id,
                body,
                version,
                expires_at: moment(expires_at),
            }),
            None => page.left_out.push(id),
        }
    }
    Ok(page)
}

/// Pairs of a name and a number, for SQLite's `json_each`.
pub(crate) fn pairs<'a>(pairs: impl Iterator<Item = (&'a str, i64)>) -> String {
    let pairs: Vec<_> = pairs.collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

/// Texts, for SQLite's `json_each`.
pub(crate) fn list<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    let texts: Vec<_> = texts.collect();
    serde_json::to_string(&texts).unwrap_or_default()
}

pub(crate) async fn delete(sql: &Sql, ids: &BTreeSet<String>) -> Result<u64, LedgerError> {
    sql.within("delete results", async {
        let mut tx = sql.begin().await?;
        let deleted = match tx.on() {
            LedgerTx::Postgres(on) => delete_postgres(on, ids, sql.named()).await?,
            LedgerTx::Sqlite(on) => delete_sqlite(on, ids).await?,
        };
        tx.commit().await?;
        Ok(deleted.unsigned_abs())
    })
    .await
}

/// The sets are locked before their parts, as by everybody who changes them.
async fn delete_postgres(
    on: &mut PgConnection,
    ids: &BTreeSet<String>,
    named: bool,
) -> Result<i64, sqlx::Error> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let sets: Vec<String> =
        sqlx::query_scalar("select id from holdfast_result_sets where id = any($1) order by id for update")
            .bind(&ids)
            .persistent(named)
            .fetch_all(&mut *on)
            .await?;
    // Only of those that are locked: the parts of a set that begins now are counted by it.
    for text in [
        "delete from holdfast_result_parts where set_id = any($1)",
        "delete from holdfast_result_sets where id = any($1)",
    ] {
        sqlx::query(text)
            .bind(&sets)
            .persistent(named)
            .execute(&mut *on)
            .await?;
    }
    sqlx::query_scalar(
        "with gone as (
             delete from holdfast_results where id in
                 (select id from holdfast_results where id = any($1) order by id for update)
             returning expires_at)
         select count(*) from gone where expires_at > now()",
    )
    .bind(&ids)
    .persistent(named)
    .fetch_one(on)
    .await
}

async fn delete_sqlite(on: &mut SqliteConnection, ids: &BTreeSet<String>) -> Result<i64, sqlx::Error> {
    let ids = list(ids.iter());
    let alive = sqlx::query_scalar(
        "select count(*) from holdfast_results
         where id in (select value from json_each(?1)) and expires_at > cast(unixepoch('subsec') * 1000 as integer)",
    )
    .bind(&ids)
    .fetch_one(&mut *on)
    .await?;
    for text in [
        "delete from holdfast_result_sets where id in (select value from json_each(?1))",
        "delete from holdfast_result_parts where set_id in (select value from json_each(?1))",
        "delete from holdfast_results where id in (select value from json_each(?1))",
    ] {
        sqlx::query(text).bind(&ids).execute(&mut *on).await?;
    }
    Ok(alive)
}
