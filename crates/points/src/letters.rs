//! Points that could not be stored, with the reason; put back once their track exists.

use std::time::Duration;

use crate::product::action;
use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::{AuditContext, AuditEntry};
use holdfast_jobs::ledger::LedgerError;
use serde::Serialize;
use sqlx::Row;
use uuid::Uuid;

use crate::store::point;
use crate::{Point, Points, TrackId};

/// Letters that one call redrives or deletes at most; a transaction each.
const CALL: i64 = 10_000;

/// Letters pruned at a time.
const PRUNE: i64 = 1_000;

/// A point whose track does not exist.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointLetter {
    #[serde(flatten)]
    pub point: Point,
    pub reason: String,
    /// When it was found to have no place.
    pub at: DateTime<Utc>,
}

/// Which letters: of one track, or of all.
#[derive(Debug, Clone, Copy, Default)]
pub struct LetterFilter {
    pub track: Option<TrackId>,
}

const POSTGRES_REDRIVE: &str = "
with picked as materialized (
    select track_id, recorded_at from holdfast_point_letters as l
    where ($1::uuid is null or track_id = $1) and exists (select from holdfast_tracks as t where t.id = l.track_id)
    limit $2
    for update skip locked),
moved as (
    delete from holdfast_point_letters as l using picked
    where l.track_id = picked.track_id and l.recorded_at = picked.recorded_at
    returning l.track_id, l.recorded_at, l.lat, l.lon, l.altitude, l.speed),
stored as (
    insert into holdfast_points (track_id, recorded_at, lat, lon, altitude, speed)
    select * from moved on conflict do nothing)
select count(*) from moved";

const POSTGRES_DELETE: &str = "
with picked as materialized (
    select track_id, recorded_at from holdfast_point_letters
    where ($1::uuid is null or track_id = $1)
    limit $2
    for update skip locked),
gone as (
    delete from holdfast_point_letters as l using picked
    where l.track_id = picked.track_id and l.recorded_at = picked.recorded_at
    returning 1)
select count(*) from gone";

const SQLITE_PICKED: &str = "from holdfast_point_letters as l
    where (?1 is null or track_id = ?1) and (?3 or exists (select 1 from holdfast_tracks as t where t.id = l.track_id))
    order by track_id, recorded_at limit ?2";

impl Points {
    /// The letters of a track, or of all, in the order of tracks and times; later than `after`.
    pub async fn letters(
        &self,
        filter: LetterFilter,
        after: Option<(TrackId, DateTime<Utc>)>,
        limit: usize,
    ) -> Result<Vec<PointLetter>, LedgerError> {
        let track = filter.track.map(TrackId::as_uuid);
        let after_track = after.map(|(track, _)| track.as_uuid());
        let after_time = after.map(|(_, at)| at.timestamp_micros());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        sql.within("list point letters", async {
            let mut tx = sql.begin_read().await?;
            let letters = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let rows = sqlx::query(
                        "select track_id, (extract(epoch from recorded_at) * 1000000)::bigint, lat, lon, altitude,
                                speed, reason, (extract(epoch from at) * 1000)::bigint
                         from holdfast_point_letters
                         where ($1::uuid is null or track_id = $1)
                           and ($2::uuid is null or (track_id, recorded_at)
                                > ($2, 'epoch'::timestamptz + $3::bigint * interval '1 microsecond'))
                         order by track_id, recorded_at limit $4",
                    )
                    .bind(track)
                    .bind(after_track)
                    .bind(after_time)
                    .bind(limit)
                    .persistent(sql.named())
                    .fetch_all(on)
                    .await?;
                    let letter = |row: &sqlx::postgres::PgRow| Ok(letter(point(row)?, row.try_get(6)?, row.try_get(7)?));
                    rows.iter().map(letter).collect::<Result<Vec<_>, sqlx::Error>>()?
                }
                LedgerTx::Sqlite(on) => {
                    let rows = sqlx::query(
                        "select track_id, recorded_at, lat, lon, altitude, speed, reason, at from holdfast_point_letters
                         where (?1 is null or track_id = ?1) and (?2 is null or (track_id, recorded_at) > (?2, ?3))
                         order by track_id, recorded_at limit ?4",
                    )
                    .bind(track)
                    .bind(after_track)
                    .bind(after_time)
                    .bind(limit)
                    .fetch_all(on)
                    .await?;
                    let letter = |row: &sqlx::sqlite::SqliteRow| Ok(letter(point(row)?, row.try_get(6)?, row.try_get(7)?));
                    rows.iter().map(letter).collect::<Result<Vec<_>, sqlx::Error>>()?
                }
            };
            tx.commit().await?;
            Ok(letters)
        })
        .await
    }

    /// Stores letters whose track exists by now, up to a bound; how many. Repeat it until it answers zero.
    pub async fn redrive_letters(&self, filter: LetterFilter, by: &AuditContext) -> Result<u64, LedgerError> {
        self.change_letters(filter, by, action::POINT_LETTERS_REDRIVE)
            .await
    }

    /// Deletes letters, up to a bound; how many.
    pub async fn delete_letters(&self, filter: LetterFilter, by: &AuditContext) -> Result<u64, LedgerError> {
        self.change_letters(filter, by, action::POINT_LETTERS_DELETE)
            .await
    }

    async fn change_letters(
        &self,
        filter: LetterFilter,
        by: &AuditContext,
        action: &'static str,
    ) -> Result<u64, LedgerError> {
        let track = filter.track.map(TrackId::as_uuid);
        let redrive = action == action::POINT_LETTERS_REDRIVE;
        let sql = &self.0.sql;
        sql.within("change point letters", async {
            let mut tx = sql.begin().await?;
            let count = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let text = if redrive {
                        POSTGRES_REDRIVE
                    } else {
                        POSTGRES_DELETE
                    };
                    let count: i64 = sqlx::query_scalar(text)
                        .bind(track)
                        .bind(CALL)
                        .persistent(sql.named())
                        .fetch_one(on)
                        .await?;
                    count.unsigned_abs()
                }
                LedgerTx::Sqlite(on) => change_sqlite(on, track, redrive).await?,
            };
            if count > 0 {
                let mut entry = AuditEntry::new(action).count(count);
                entry.target = filter.track.map(|track| track.to_string());
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            }
            tx.commit().await?;
            Ok(count)
        })
        .await
    }

    /// Deletes letters past their retention, a bounded number.
    pub(super) async fn prune_letters(&self) -> Result<u64, LedgerError> {
        let age = millis(self.0.settings.retain_letters);
        let sql = &self.0.sql;
        sql.within("prune point letters", async {
            let mut tx = sql.begin().await?;
            let gone = match tx.on() {
                LedgerTx::Postgres(on) => sqlx::query(
                    "delete from holdfast_point_letters where ctid = any (array (
                         select ctid from holdfast_point_letters
                         where at < now() - $1 * interval '1 millisecond' order by at limit $2 for update skip locked))",
                )
                .bind(age)
                .bind(PRUNE)
                .persistent(sql.named())
                .execute(on)
                .await?
                .rows_affected(),
                LedgerTx::Sqlite(on) => sqlx::query(
                    "delete from holdfast_point_letters where (track_id, recorded_at) in (
                         select track_id, recorded_at from holdfast_point_letters
                         where at < cast(unixepoch('subsec') * 1000 as integer) - ?1 order by at limit ?2)",
                )
                .bind(age)
                .bind(PRUNE)
                .execute(on)
                .await?
                .rows_affected(),
            };
            tx.commit().await?;
            Ok(gone)
        })
        .await
    }
}

async fn change_sqlite(
    on: &mut sqlx::SqliteConnection,
    track: Option<Uuid>,
    redrive: bool,
) -> Result<u64, sqlx::Error> {
    if redrive {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into holdfast_points (track_id, recorded_at, lat, lon, altitude, speed)
             select track_id, recorded_at, lat, lon, altitude, speed {SQLITE_PICKED} on conflict do nothing"
        )))
        .bind(track)
        .bind(CALL)
        .bind(false)
        .execute(&mut *on)
        .await?;
    }
    let gone = sqlx::query(sqlx::AssertSqlSafe(format!(
        "delete from holdfast_point_letters
         where (track_id, recorded_at) in (select track_id, recorded_at {SQLITE_PICKED})"
    )))
    .bind(track)
    .bind(CALL)
    .bind(!redrive)
    .execute(on)
    .await?;
    Ok(gone.rows_affected())
}

fn letter(point: Point, reason: String, at: i64) -> PointLetter {
    PointLetter {
        point,
        reason,
        at: DateTime::from_timestamp_millis(at).unwrap_or_default(),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
