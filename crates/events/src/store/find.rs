//! Finding events: by time, place, category and words, in pages by their start.

use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use sqlx::{Database, Encode, QueryBuilder, Type};
use ulid::Ulid;
use uuid::Uuid;

use super::{Event, Events};
use crate::place::{chord_squared, degrees, on_sphere};
use crate::words::distinct;

/// Words of one search.
pub const MAX_SEARCH_WORDS: usize = 10;

/// Which events. What is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Begins not before.
    pub from: Option<DateTime<Utc>>,
    /// Begins before.
    pub to: Option<DateTime<Utc>>,
    /// In lower case.
    pub category: Option<String>,
    pub near: Option<Near>,
    /// All of them are in its title, category, place or description, as whole words; see [`search_words`].
    pub words: Vec<String>,
    /// Cancelled ones too.
    pub cancelled: bool,
    /// Later in the list than the event with this start and id.
    pub after: Option<(DateTime<Utc>, Ulid)>,
}

/// Around a place, in degrees and kilometres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    pub lat: f64,
    pub lon: f64,
    pub kilometres: f64,
}

/// Why a text cannot be searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SearchFault {
    #[error("has no word: one has 2 to 40 letters or digits")]
    NoWord,
    #[error("has more than {MAX_SEARCH_WORDS} words")]
    TooMany,
}

/// A text as the words to search for, each once.
pub fn search_words(text: &str) -> Result<Vec<String>, SearchFault> {
    let words = distinct(&[text], MAX_SEARCH_WORDS + 1);
    match words.len() {
        0 => Err(SearchFault::NoWord),
        count if count > MAX_SEARCH_WORDS => Err(SearchFault::TooMany),
        _ => Ok(words),
    }
}

const POSTGRES_COLUMNS: &str = "id, source, uid, title, description, url, category,
    (extract(epoch from starts_at) * 1000)::bigint, (extract(epoch from ends_at) * 1000)::bigint, time_zone, lat, lon, place,
    (extract(epoch from created_at) * 1000)::bigint, (extract(epoch from updated_at) * 1000)::bigint,
    (extract(epoch from cancelled_at) * 1000)::bigint";

const SQLITE_COLUMNS: &str =
    "id, source, uid, title, description, url, category, starts_at, ends_at, time_zone, lat, lon,
    place, created_at, updated_at, cancelled_at";

/// How a dialect writes what the two do not write alike.
struct Words {
    /// Around a bound number of milliseconds.
    moment: (&'static str, &'static str),
    /// Before and after a bound word.
    word: (&'static str, &'static str),
}

const POSTGRES: Words = Words {
    moment: ("'epoch'::timestamptz + ", " * interval '1 millisecond'"),
    word: ("words @> array[", "]::text[]"),
};

const SQLITE: Words = Words {
    moment: ("", ""),
    word: ("words like '% ' || ", " || ' %'"),
};

impl Events {
    /// The first `limit` of these events, by start and id.
    pub async fn find(&self, filter: &Filter, limit: usize) -> Result<Vec<Event>, LedgerError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        sql.within("find events", async {
            let mut tx = sql.begin_read().await?;
            let events = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let mut query = QueryBuilder::new(format!("select {POSTGRES_COLUMNS}"));
                    conditions(&mut query, filter, &POSTGRES);
                    query.push(" order by starts_at, id limit ").push_bind(limit);
                    let rows = query.build().persistent(sql.named()).fetch_all(on).await?;
                    rows.iter().map(event).collect::<Result<Vec<_>, _>>()?
                }
                LedgerTx::Sqlite(on) => {
                    let mut query = QueryBuilder::new(format!("select {SQLITE_COLUMNS}"));
                    conditions(&mut query, filter, &SQLITE);
                    query.push(" order by starts_at, id limit ").push_bind(limit);
                    let rows = query.build().fetch_all(on).await?;
                    rows.iter().map(event).collect::<Result<Vec<_>, _>>()?
                }
            };
            tx.commit().await?;
            Ok(events)
        })
        .await
    }

    /// The events with these ids, cancelled ones too, in any order. What is gone is left out.
    pub async fn by_ids(&self, ids: &[Ulid]) -> Result<Vec<Event>, LedgerError> {
        let ids: Vec<_> = ids.iter().map(|id| Uuid::from_u128(id.0)).collect();
        let sql = &self.0.sql;
        sql.within("read events", async {
            let mut tx = sql.begin_read().await?;
            let events = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let text = format!("select {POSTGRES_COLUMNS} from holdfast_events where id = any($1)");
                    let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(&ids);
                    let rows = query.persistent(sql.named()).fetch_all(on).await?;
                    rows.iter().map(event).collect::<Result<Vec<_>, _>>()?
                }
                LedgerTx::Sqlite(on) => {
                    let text = format!(
                        "select {SQLITE_COLUMNS} from holdfast_events
                         where id in (select unhex(value) from json_each(?1))"
                    );
                    let ids: Vec<_> = ids.iter().map(|id| id.simple().to_string()).collect();
                    let ids = serde_json::to_string(&ids).unwrap_or_default();
                    let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(ids);
                    let rows = query.fetch_all(on).await?;
                    rows.iter().map(event).collect::<Result<Vec<_>, _>>()?
                }
            };
            tx.commit().await?;
            Ok(events)
        })
        .await
    }
}

fn conditions<DB>(query: &mut QueryBuilder<DB>, filter: &Filter, words: &Words)
where
    DB: Database,
    for<'q> i64: Encode<'q, DB> + Type<DB>,
    for<'q> f64: Encode<'q, DB> + Type<DB>,
    for<'q> String: Encode<'q, DB> + Type<DB>,
    for<'q> Uuid: Encode<'q, DB> + Type<DB>,
{
    query.push(" from holdfast_events where true");
    if !filter.cancelled {
        query.push(" and cancelled_at is null");
    }
    let (before, behind) = words.moment;
    for (comparison, at) in [(">=", filter.from), ("<", filter.to)] {
        if let Some(at) = at {
            query.push(format_args!(" and starts_at {comparison} {before}"));
            query.push_bind(at.timestamp_millis()).push(behind);
        }
    }
    if let Some(category) = &filter.category {
        query.push(" and category = ").push_bind(category.clone());
    }
    if let Some(near) = filter.near {
        around(query, near);
    }
    for word in &filter.words {
        let (before, behind) = words.word;
        query.push(" and ").push(before);
        query.push_bind(word.clone()).push(behind);
    }
    if let Some((at, id)) = filter.after {
        query.push(format_args!(" and (starts_at, id) > ({before}"));
        query.push_bind(at.timestamp_millis()).push(behind).push(", ");
        query.push_bind(Uuid::from_u128(id.0)).push(")");
    }
}

/// A belt of latitudes, which the index knows, and in it the distance.
fn around<DB>(query: &mut QueryBuilder<DB>, near: Near)
where
    DB: Database,
    for<'q> f64: Encode<'q, DB> + Type<DB>,
{
    let belt = degrees(near.kilometres);
    query.push(" and lat >= ").push_bind(near.lat - belt);
    query.push(" and lat <= ").push_bind(near.lat + belt);
    for (at, (axis, here)) in ["pos_x", "pos_y", "pos_z"]
        .iter()
        .zip(on_sphere(near.lat, near.lon))
        .enumerate()
    {
        query.push(if at == 0 { " and " } else { " + " });
        query.push(format_args!("({axis} - ")).push_bind(here);
        query
            .push(format_args!(") * ({axis} - "))
            .push_bind(here)
            .push(")");
    }
    query.push(" <= ").push_bind(chord_squared(near.kilometres));
}

fn event<R: sqlx::Row>(row: &R) -> Result<Event, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> Uuid: sqlx::Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: sqlx::Decode<'r, R::Database> + Type<R::Database>,
    for<'r> f64: sqlx::Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: sqlx::Decode<'r, R::Database> + Type<R::Database>,
{
    let moment = |at: i64| DateTime::from_timestamp_millis(at).unwrap_or_default();
    Ok(Event {
        id: Ulid(row.try_get::<Uuid, _>(0)?.as_u128()),
        source: row.try_get(1)?,
        uid: row.try_get(2)?,
        title: row.try_get(3)?,
        description: row.try_get(4)?,
        url: row.try_get(5)?,
        category: row.try_get(6)?,
        starts_at: moment(row.try_get(7)?),
        ends_at: row.try_get::<Option<i64>, _>(8)?.map(moment),
        time_zone: row.try_get(9)?,
        lat: row.try_get(10)?,
        lon: row.try_get(11)?,
        place: row.try_get(12)?,
        created_at: moment(row.try_get(13)?),
        updated_at: moment(row.try_get(14)?),
        cancelled_at: row.try_get::<Option<i64>, _>(15)?.map(moment),
    })
}
