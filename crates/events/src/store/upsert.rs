//! Bringing events in.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use futures::future::BoxFuture;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::Serialize;
use sqlx::{PgConnection, SqliteConnection};
use ulid::Ulid;
use uuid::Uuid;

use super::{ANSWERS, BATCH, Events, NewEvent};
use crate::place::on_sphere;
use crate::words::distinct;

/// Words of one event that a search finds it by.
const MAX_WORDS: usize = 400;

/// What bringing an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Inserted,
    /// It says something else now, or was cancelled or revived.
    Changed,
    Unchanged,
}

/// The result for one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UpsertedEvent {
    pub id: Ulid,
    pub outcome: Outcome,
    /// It stood, and is cancelled from now on.
    #[serde(skip)]
    pub cancelled: bool,
}

/// Called inside the upsert transaction; its failure rolls the upsert back.
pub trait UpsertHook: Sync {
    /// What became of each of the events, in their order, before it is committed; at most [`BATCH`] of them. A failure
    /// undoes all of it.
    fn stored<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        events: &'a [NewEvent],
        stored: &'a [UpsertedEvent],
    ) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// What it saw since the last time is committed.
    fn committed(&self);
}

/// An event by its name.
type ExistingRow = (Uuid, String, String, Uuid, bool);

const POSTGRES_KNOWN: &str = "
select id, coalesce(source, ''), uid, content_hash, cancelled_at is not null from holdfast_events
where (coalesce(source, ''), uid) in (select * from unnest($1::text[], $2::text[]))
order by 2, 3 for update";

const SQLITE_KNOWN: &str = "
select id, coalesce(source, ''), uid, content_hash, cancelled_at is not null from holdfast_events
where (coalesce(source, ''), uid) in (select value ->> 0, value ->> 1 from json_each(?1))";

const POSTGRES_WRITE: &str = "
insert into holdfast_events as e (id, source, uid, title, description, url, category, starts_at, ends_at, time_zone,
    lat, lon, place, pos_x, pos_y, pos_z, words, content_hash, cancelled_at)
select id, source, uid, title, description, url, category,
    'epoch'::timestamptz + starts_ms * interval '1 millisecond', 'epoch'::timestamptz + ends_ms * interval '1 millisecond',
    time_zone, lat, lon, place, pos_x, pos_y, pos_z, string_to_array(words, ' '), content_hash,
    case when cancelled then now() end
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[], $10::text[], $11::float8[], $12::float8[], $13::text[], $14::float8[], $15::float8[], $16::float8[],
    $17::text[], $18::uuid[], $19::boolean[])
  as given (id, source, uid, title, description, url, category, starts_ms, ends_ms, time_zone, lat, lon, place,
    pos_x, pos_y, pos_z, words, content_hash, cancelled)
on conflict (coalesce(source, ''), uid) do update set
    title = excluded.title, description = excluded.description, url = excluded.url, category = excluded.category,
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, time_zone = excluded.time_zone, lat = excluded.lat,
    lon = excluded.lon, place = excluded.place, pos_x = excluded.pos_x, pos_y = excluded.pos_y, pos_z = excluded.pos_z,
    words = excluded.words, content_hash = excluded.content_hash, updated_at = now(),
    cancelled_at = case when excluded.cancelled_at is not null then coalesce(e.cancelled_at, now()) end
returning id, coalesce(source, ''), uid";

const SQLITE_WRITE: &str = "
insert into holdfast_events as e (id, source, uid, title, description, url, category, starts_at, ends_at, time_zone,
    lat, lon, place, pos_x, pos_y, pos_z, words, content_hash, cancelled_at, created_at, updated_at)
select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
    value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15,
    ' ' || (value ->> 16) || ' ', unhex(value ->> 17), case when value ->> 18 then now end, now, now
from json_each(?1), (select cast(unixepoch('subsec') * 1000 as integer) as now) where true
on conflict (coalesce(source, ''), uid) do update set
    title = excluded.title, description = excluded.description, url = excluded.url, category = excluded.category,
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, time_zone = excluded.time_zone, lat = excluded.lat,
    lon = excluded.lon, place = excluded.place, pos_x = excluded.pos_x, pos_y = excluded.pos_y, pos_z = excluded.pos_z,
    words = excluded.words, content_hash = excluded.content_hash, updated_at = excluded.updated_at,
    cancelled_at = case when excluded.cancelled_at is not null then coalesce(e.cancelled_at, excluded.cancelled_at) end
returning id, coalesce(source, ''), uid";

impl Events {
    /// Stores events, each of which is [checked](NewEvent::check), and tells of each what that did. Cached answers are
    /// forgotten if it did anything. Of one name twice in a call, each counts in its turn.
    pub async fn upsert(&self, events: &[NewEvent]) -> Result<Vec<UpsertedEvent>, LedgerError> {
        self.upsert_before(None, events).await
    }

    /// [`Events::upsert`], before a witness.
    pub async fn upsert_before(
        &self,
        witness: Option<&dyn UpsertHook>,
        events: &[NewEvent],
    ) -> Result<Vec<UpsertedEvent>, LedgerError> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut result = Ok(());
        for batch in batches(events) {
            match self.upsert_batch(witness, batch).await {
                Ok(done) => outcomes.extend(done),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        // Batches that were stored before the failure count too; and after a lost answer nobody knows.
        let changed = outcomes.iter().any(|one| one.outcome != Outcome::Unchanged);
        if changed || result.is_err() {
            self.0.cache.bump(&ANSWERS).await;
        }
        result.map(|()| outcomes)
    }

    async fn upsert_batch(
        &self,
        witness: Option<&dyn UpsertHook>,
        batch: &[NewEvent],
    ) -> Result<Vec<UpsertedEvent>, LedgerError> {
        let sql = &self.0.sql;
        let stored = sql.within("store events", async {
            let mut tx = sql.begin().await?;
            let outcomes = self.write(tx.on(), batch).await?;
            if let Some(witness) = witness {
                // Dropping the transaction undoes it.
                if let Err(error) = witness.stored(tx.on(), batch, &outcomes).await {
                    return Ok(Err(error));
                }
            }
            tx.commit().await?;
            Ok(Ok(outcomes))
        });
        let outcomes = stored.await??;
        if let Some(witness) = witness {
            witness.committed();
        }
        Ok(outcomes)
    }

    async fn write(
        &self,
        mut on: LedgerTx<'_>,
        batch: &[NewEvent],
    ) -> Result<Vec<UpsertedEvent>, sqlx::Error> {
        let named = self.0.sql.named();
        let known = match on.reborrow() {
            LedgerTx::Postgres(on) => known_postgres(on, batch, named).await?,
            LedgerTx::Sqlite(on) => known_sqlite(on, batch).await?,
        };
        let known: HashMap<(String, String), (Uuid, Uuid, bool)> = known
            .into_iter()
            .map(|(id, source, uid, hash, cancelled)| ((source, uid), (id, hash, cancelled)))
            .collect();
        let mut fresh: Vec<Row<'_>> = Vec::new();
        let mut outcomes = Vec::with_capacity(batch.len());
        for event in batch {
            let row = Row::of(event);
            match known.get(&row.name()) {
                Some((id, hash, cancelled)) if *hash == row.hash && *cancelled == event.cancelled => {
                    outcomes.push(Some(upserted(*id, Outcome::Unchanged)));
                }
                _ => {
                    outcomes.push(None);
                    fresh.push(row);
                }
            }
        }
        // Writers of the same events use the same order, and wait instead of deadlocking.
        fresh.sort_unstable_by_key(Row::name);
        if !fresh.is_empty() {
            let written = match on {
                LedgerTx::Postgres(on) => write_postgres(on, &fresh, named).await?,
                LedgerTx::Sqlite(on) => write_sqlite(on, &fresh).await?,
            };
            settle(batch, &mut outcomes, &fresh, written);
        }
        let outcomes = outcomes
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| sqlx::Error::Protocol("an event was written and not returned".to_owned()))?;
        let stood_cancelled = |event: &NewEvent| {
            known
                .get(&name_of(event))
                .is_some_and(|(_, _, cancelled)| *cancelled)
        };
        Ok(batch
            .iter()
            .zip(outcomes)
            .map(|(event, one)| UpsertedEvent {
                cancelled: one.outcome == Outcome::Changed && event.cancelled && !stood_cancelled(event),
                ..one
            })
            .collect())
    }
}

fn name_of(event: &NewEvent) -> (String, String) {
    (event.source.clone().unwrap_or_default(), event.uid.clone())
}

/// Pieces of at most [`BATCH`] in which no event is twice: a statement cannot write a row twice.
fn batches(events: &[NewEvent]) -> Vec<&[NewEvent]> {
    let mut batches = Vec::new();
    let mut names: HashSet<(&str, &str)> = HashSet::new();
    let mut begin = 0;
    for (at, event) in events.iter().enumerate() {
        let name = (event.source.as_deref().unwrap_or_default(), event.uid.as_str());
        if names.contains(&name) || at - begin == BATCH {
            batches.push(&events[begin..at]);
            names.clear();
            begin = at;
        }
        names.insert(name);
    }
    if begin < events.len() {
        batches.push(&events[begin..]);
    }
    batches
}

/// Fills in what was written. A row that kept another id than the one given was there already, and has changed.
fn settle(
    batch: &[NewEvent],
    outcomes: &mut [Option<UpsertedEvent>],
    fresh: &[Row<'_>],
    written: Vec<(Uuid, String, String)>,
) {
    let given: HashMap<(String, String), Uuid> = fresh.iter().map(|row| (row.name(), row.id)).collect();
    let mut stored: HashMap<(String, String), Uuid> = written
        .into_iter()
        .map(|(id, source, uid)| ((source, uid), id))
        .collect();
    for (event, outcome) in batch.iter().zip(outcomes) {
        if outcome.is_some() {
            continue;
        }
        if let Entry::Occupied(found) = stored.entry(name_of(event)) {
            let (name, id) = found.remove_entry();
            let word = if given.get(&name) == Some(&id) {
                Outcome::Inserted
            } else {
                Outcome::Changed
            };
            *outcome = Some(upserted(id, word));
        }
    }
}

fn upserted(id: Uuid, outcome: Outcome) -> UpsertedEvent {
    UpsertedEvent {
        id: Ulid(id.as_u128()),
        outcome,
        cancelled: false,
    }
}

/// An event with what is worked out for its row.
struct Row<'a> {
    id: Uuid,
    event: &'a NewEvent,
    hash: Uuid,
    words: String,
    position: Option<[f64; 3]>,
}

impl<'a> Row<'a> {
    fn of(event: &'a NewEvent) -> Self {
        let id = Ulid::from_parts(holdfast_core::clock::unix_millis(), rand::random::<u128>());
        let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
        let texts = [
            event.title.as_str(),
            text(&event.category),
            text(&event.place),
            text(&event.description),
        ];
        Self {
            id: Uuid::from_u128(id.0),
            event,
            hash: event.content_hash(),
            words: distinct(&texts, MAX_WORDS).join(" "),
            position: event.position.map(|(lat, lon)| on_sphere(lat, lon)),
        }
    }

    fn name(&self) -> (String, String) {
        name_of(self.event)
    }

    fn axis(&self, axis: usize) -> Option<f64> {
        self.position.map(|position| position[axis])
    }
}

async fn known_postgres(
    on: &mut PgConnection,
    batch: &[NewEvent],
    named: bool,
) -> Result<Vec<ExistingRow>, sqlx::Error> {
    let sources: Vec<_> = batch
        .iter()
        .map(|event| event.source.as_deref().unwrap_or_default())
        .collect();
    let uids: Vec<_> = batch.iter().map(|event| event.uid.as_str()).collect();
    sqlx::query_as(POSTGRES_KNOWN)
        .bind(sources)
        .bind(uids)
        .persistent(named)
        .fetch_all(on)
        .await
}

async fn known_sqlite(
    on: &mut SqliteConnection,
    batch: &[NewEvent],
) -> Result<Vec<ExistingRow>, sqlx::Error> {
    let names: Vec<_> = batch
        .iter()
        .map(|event| (event.source.as_deref().unwrap_or_default(), event.uid.as_str()))
        .collect();
    sqlx::query_as(SQLITE_KNOWN)
        .bind(encoded(&names)?)
        .fetch_all(on)
        .await
}

async fn write_postgres(
    on: &mut PgConnection,
    rows: &[Row<'_>],
    named: bool,
) -> Result<Vec<(Uuid, String, String)>, sqlx::Error> {
    fn column<'r, T>(rows: &'r [Row<'_>], value: impl Fn(&'r Row<'_>) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    sqlx::query_as(POSTGRES_WRITE)
        .bind(column(rows, |row| row.id))
        .bind(column(rows, |row| row.event.source.as_deref()))
        .bind(column(rows, |row| row.event.uid.as_str()))
        .bind(column(rows, |row| row.event.title.as_str()))
        .bind(column(rows, |row| row.event.description.as_deref()))
        .bind(column(rows, |row| row.event.url.as_deref()))
        .bind(column(rows, |row| row.event.category.as_deref()))
        .bind(column(rows, |row| row.event.starts_at.timestamp_millis()))
        .bind(column(rows, |row| {
            row.event.ends_at.map(|at| at.timestamp_millis())
        }))
        .bind(column(rows, |row| row.event.time_zone.as_deref()))
        .bind(column(rows, |row| row.event.position.map(|(lat, _)| lat)))
        .bind(column(rows, |row| row.event.position.map(|(_, lon)| lon)))
        .bind(column(rows, |row| row.event.place.as_deref()))
        .bind(column(rows, |row| row.axis(0)))
        .bind(column(rows, |row| row.axis(1)))
        .bind(column(rows, |row| row.axis(2)))
        .bind(column(rows, |row| row.words.as_str()))
        .bind(column(rows, |row| row.hash))
        .bind(column(rows, |row| row.event.cancelled))
        .persistent(named)
        .fetch_all(on)
        .await
}

async fn write_sqlite(
    on: &mut SqliteConnection,
    rows: &[Row<'_>],
) -> Result<Vec<(Uuid, String, String)>, sqlx::Error> {
    let given: Vec<_> = rows
        .iter()
        .map(|row| {
            let event = row.event;
            serde_json::json!([
                row.id.simple().to_string(),
                event.source,
                event.uid,
                event.title,
                event.description,
                event.url,
                event.category,
                event.starts_at.timestamp_millis(),
                event.ends_at.map(|at| at.timestamp_millis()),
                event.time_zone,
                event.position.map(|(lat, _)| lat),
                event.position.map(|(_, lon)| lon),
                event.place,
                row.axis(0),
                row.axis(1),
                row.axis(2),
                row.words,
                row.hash.simple().to_string(),
                event.cancelled,
            ])
        })
        .collect();
    sqlx::query_as(SQLITE_WRITE)
        .bind(encoded(&given)?)
        .fetch_all(on)
        .await
}

fn encoded(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_statement_is_too_large_or_has_an_event_twice() {
        let event = |uid: usize| NewEvent {
            source: None,
            uid: uid.to_string(),
            title: "x".to_owned(),
            description: None,
            url: None,
            category: None,
            starts_at: chrono::DateTime::UNIX_EPOCH,
            ends_at: None,
            time_zone: None,
            position: None,
            place: None,
            cancelled: false,
        };
        let lengths = |uids: &[usize]| -> Vec<usize> {
            let events: Vec<_> = uids.iter().map(|uid| event(*uid)).collect();
            batches(&events).iter().map(|batch| batch.len()).collect()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[1, 2, 1, 1, 3]), [2, 1, 2]);
        assert_eq!(lengths(&(0..2_500).collect::<Vec<_>>()), [1_000, 1_000, 500]);
    }
}
