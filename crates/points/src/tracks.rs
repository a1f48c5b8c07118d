//! Tracks: what points belong to.

use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::Serialize;
use uuid::Uuid;

use crate::{Points, TrackId};

/// A track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Track {
    pub id: TrackId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}

/// What became of a wish for a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackMade {
    New(Track),
    /// It was there, by this very name.
    Same(Track),
    /// Its id is taken by one of another name.
    Taken(Track),
}

type Row = (Uuid, String, i64);

impl Points {
    /// Makes a track; under an id of the caller's own, if one is given, such as that of points which came too early.
    pub async fn make_track(&self, id: Option<TrackId>, name: &str) -> Result<TrackMade, LedgerError> {
        let id = id.unwrap_or_else(TrackId::generate);
        let uuid = id.as_uuid();
        let sql = &self.0.sql;
        let made = sql
            .within("make a track", async {
                let mut tx = sql.begin().await?;
                let made = match tx.on() {
                    LedgerTx::Postgres(on) => sqlx::query(
                        "insert into holdfast_tracks (id, name) values ($1, $2) on conflict do nothing",
                    )
                    .bind(uuid)
                    .bind(name)
                    .persistent(sql.named())
                    .execute(on)
                    .await?
                    .rows_affected(),
                    LedgerTx::Sqlite(on) => sqlx::query(
                        "insert into holdfast_tracks (id, name, created_at)
                         values (?1, ?2, cast(unixepoch('subsec') * 1000 as integer)) on conflict do nothing",
                    )
                    .bind(uuid)
                    .bind(name)
                    .execute(on)
                    .await?
                    .rows_affected(),
                };
                tx.commit().await?;
                Ok(made == 1)
            })
            .await?;
        let track = self
            .track(id)
            .await?
            .ok_or_else(|| LedgerError::Corrupt(format!("the track {id} is gone at once")))?;
        Ok(match made {
            true => TrackMade::New(track),
            false if track.name == name => TrackMade::Same(track),
            false => TrackMade::Taken(track),
        })
    }

    pub async fn track(&self, id: TrackId) -> Result<Option<Track>, LedgerError> {
        let uuid = id.as_uuid();
        let sql = &self.0.sql;
        let row: Option<Row> = sql
            .within("read a track", async {
                let mut tx = sql.begin_read().await?;
                let row = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        sqlx::query_as(
                            "select id, name, (extract(epoch from created_at) * 1000)::bigint
                             from holdfast_tracks where id = $1",
                        )
                        .bind(uuid)
                        .persistent(sql.named())
                        .fetch_optional(on)
                        .await?
                    }
                    LedgerTx::Sqlite(on) => {
                        sqlx::query_as("select id, name, created_at from holdfast_tracks where id = ?1")
                            .bind(uuid)
                            .fetch_optional(on)
                            .await?
                    }
                };
                tx.commit().await?;
                Ok(row)
            })
            .await?;
        Ok(row.map(|(uuid, name, created)| Track {
            id: TrackId::from_uuid(uuid),
            name,
            created_at: DateTime::from_timestamp_millis(created).unwrap_or_default(),
        }))
    }
}
