//! The tables of points, on either database.

use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use sqlx::Row;
use uuid::Uuid;

use crate::{Point, Points, TrackId};

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WriteCounts {
    pub(super) stored: u64,
    pub(super) dead: u64,
}

/// Why a point is among the letters.
pub(super) const UNKNOWN_TRACK: &str = "unknown track";

const POSTGRES: &str = "
with given as materialized (
    select track_id, 'epoch'::timestamptz + micros * interval '1 microsecond' as recorded_at, lat, lon, altitude, speed
    from unnest($1::uuid[], $2::bigint[], $3::float8[], $4::float8[], $5::float8[], $6::float8[])
      as p(track_id, micros, lat, lon, altitude, speed)),
known as materialized (
    select id from holdfast_tracks where id in (select track_id from given)),
stored as (
    insert into holdfast_points (track_id, recorded_at, lat, lon, altitude, speed)
    select * from given where track_id in (select id from known)
    on conflict do nothing
    returning 1),
dead as (
    insert into holdfast_point_letters (track_id, recorded_at, lat, lon, altitude, speed, reason)
    select *, $7::text from given where track_id not in (select id from known)
    on conflict do nothing
    returning 1)
select (select count(*) from stored), (select count(*) from dead)";

const SQLITE_GIVEN: &str = "(
    select unhex(value ->> 0) as track_id, value ->> 1 as recorded_at, value ->> 2 as lat, value ->> 3 as lon,
           value ->> 4 as altitude, value ->> 5 as speed
    from json_each(?1))";

impl Points {
    /// Stores points whose track exists, and keeps the others as letters; in one transaction.
    pub(super) async fn store(&self, points: &[Point]) -> Result<WriteCounts, LedgerError> {
        let sql = &self.0.sql;
        sql.within("store points", async {
            let mut tx = sql.begin().await?;
            let written = match tx.on() {
                LedgerTx::Postgres(on) => store_postgres(on, points, sql.named()).await?,
                LedgerTx::Sqlite(on) => store_sqlite(on, points).await?,
            };
            tx.commit().await?;
            Ok(written)
        })
        .await
    }

    /// The points of a track in a range of time, oldest first, later than `after`.
    pub async fn list(
        &self,
        track: TrackId,
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
        after: Option<DateTime<Utc>>,
        limit: usize,
    ) -> Result<Vec<Point>, LedgerError> {
        let micros = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_micros());
        let (from, to, after) = (micros(from), micros(to), micros(after));
        let (id, limit) = (track.as_uuid(), i64::try_from(limit).unwrap_or(i64::MAX));
        let sql = &self.0.sql;
        sql.within("list points", async {
            let mut tx = sql.begin_read().await?;
            let points = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let rows = sqlx::query(
                        "select track_id, (extract(epoch from recorded_at) * 1000000)::bigint, lat, lon, altitude, speed
                         from holdfast_points
                         where track_id = $1
                           and recorded_at >= coalesce('epoch'::timestamptz + $2 * interval '1 microsecond', '-infinity')
                           and recorded_at < coalesce('epoch'::timestamptz + $3 * interval '1 microsecond', 'infinity')
                           and recorded_at > coalesce('epoch'::timestamptz + $4 * interval '1 microsecond', '-infinity')
                         order by recorded_at limit $5",
                    )
                    .bind(id)
                    .bind(from)
                    .bind(to)
                    .bind(after)
                    .bind(limit)
                    .persistent(sql.named())
                    .fetch_all(on)
                    .await?;
                    rows.iter().map(point).collect::<Result<Vec<_>, _>>()?
                }
                LedgerTx::Sqlite(on) => {
                    let rows = sqlx::query(
                        "select track_id, recorded_at, lat, lon, altitude, speed from holdfast_points
                         where track_id = ?1 and (?2 is null or recorded_at >= ?2) and (?3 is null or recorded_at < ?3)
                           and (?4 is null or recorded_at > ?4)
                         order by recorded_at limit ?5",
                    )
                    .bind(id)
                    .bind(from)
                    .bind(to)
                    .bind(after)
                    .bind(limit)
                    .fetch_all(on)
                    .await?;
                    rows.iter().map(point).collect::<Result<Vec<_>, _>>()?
                }
            };
            tx.commit().await?;
            Ok(points)
        })
        .await
    }
}

async fn store_postgres(
    on: &mut sqlx::PgConnection,
    points: &[Point],
    named: bool,
) -> Result<WriteCounts, sqlx::Error> {
    let row = sqlx::query(POSTGRES)
        .bind(points.iter().map(|p| p.track_id.as_uuid()).collect::<Vec<_>>())
        .bind(
            points
                .iter()
                .map(|p| p.recorded_at.timestamp_micros())
                .collect::<Vec<_>>(),
        )
        .bind(points.iter().map(|p| p.lat).collect::<Vec<_>>())
        .bind(points.iter().map(|p| p.lon).collect::<Vec<_>>())
        .bind(points.iter().map(|p| p.altitude).collect::<Vec<_>>())
        .bind(points.iter().map(|p| p.speed).collect::<Vec<_>>())
        .bind(UNKNOWN_TRACK)
        .persistent(named)
        .fetch_one(on)
        .await?;
    Ok(WriteCounts {
        stored: row.try_get::<i64, _>(0)?.unsigned_abs(),
        dead: row.try_get::<i64, _>(1)?.unsigned_abs(),
    })
}

async fn store_sqlite(on: &mut sqlx::SqliteConnection, points: &[Point]) -> Result<WriteCounts, sqlx::Error> {
    let rows: Vec<_> = points
        .iter()
        .map(|p| {
            let track = p.track_id.as_uuid().simple().to_string();
            (
                track,
                p.recorded_at.timestamp_micros(),
                p.lat,
                p.lon,
                p.altitude,
                p.speed,
            )
        })
        .collect();
    let given = serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let stored = sqlx::query(sqlx::AssertSqlSafe(format!(
        "insert into holdfast_points (track_id, recorded_at, lat, lon, altitude, speed)
         select track_id, recorded_at, lat, lon, altitude, speed from {SQLITE_GIVEN} as given
         where track_id in (select id from holdfast_tracks)
         on conflict do nothing"
    )))
    .bind(&given)
    .execute(&mut *on)
    .await?
    .rows_affected();
    let dead = sqlx::query(sqlx::AssertSqlSafe(format!(
        "insert into holdfast_point_letters (track_id, recorded_at, lat, lon, altitude, speed, reason, at)
         select track_id, recorded_at, lat, lon, altitude, speed, ?2, cast(unixepoch('subsec') * 1000 as integer)
         from {SQLITE_GIVEN} as given
         where track_id not in (select id from holdfast_tracks)
         on conflict do nothing"
    )))
    .bind(&given)
    .bind(UNKNOWN_TRACK)
    .execute(on)
    .await?
    .rows_affected();
    Ok(WriteCounts { stored, dead })
}

/// Columns: track, microseconds, lat, lon, altitude, speed.
pub(super) fn point<R: Row>(row: &R) -> Result<Point, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> Uuid: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    for<'r> i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    for<'r> f64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    for<'r> Option<f64>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    Ok(Point {
        track_id: TrackId::from_uuid(row.try_get(0)?),
        recorded_at: DateTime::from_timestamp_micros(row.try_get(1)?).unwrap_or_default(),
        lat: row.try_get(2)?,
        lon: row.try_get(3)?,
        altitude: row.try_get(4)?,
        speed: row.try_get(5)?,
    })
}
