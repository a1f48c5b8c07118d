//! The model in SQL: versions, each of compressed pieces, and one row that says which counts.
//!
//! Pieces are written first, a transaction each; the row is changed last. So a version counts as a whole or not at all, and
//! no statement carries more than a piece. A reader during a change of the version finds a piece missing, and begins anew
//! with the next. Pieces of other versions are swept once they are [`SWEEP_AFTER`] old: a training still at work may be
//! writing younger ones.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ulid::Ulid;
use uuid::Uuid;

use super::{MAX_MODEL_BYTES, Model, RecommendError, Recommender, Unreadable, blocking};
use crate::store::TableChange;

/// The name of the model in its table.
const NAME: &str = "events";

/// Bytes of a piece before compression.
const PIECE: usize = 1 << 20;

/// Pieces of this age belong to no training that is still at work: its job would have timed out.
const SWEEP_AFTER: Duration = Duration::from_hours(1);

/// Pieces swept at a time.
const SWEEP: i64 = 600;

/// Readings that are begun because the version changed under the one before.
const READINGS: usize = 3;

/// What is known of a version without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) bytes: usize,
    /// SHA-256 of the bytes.
    pub(super) checksum: String,
    /// What it was made of.
    pub(super) events: TableChange,
    pub(super) interactions: TableChange,
    /// When all of it was learned.
    pub(super) learned_at: DateTime<Utc>,
}

type Row = (Uuid, i32, String);

const POSTGRES_COUNT: &str = "
insert into holdfast_models (name, version, parts, about) values ($1, $2, $3, $4)
on conflict (name) do update set version = excluded.version, parts = excluded.parts, about = excluded.about,
    trained_at = now()";

const SQLITE_COUNT: &str = "
insert into holdfast_models (name, version, parts, about, trained_at)
values (?1, ?2, ?3, ?4, cast(unixepoch('subsec') * 1000 as integer))
on conflict (name) do update set version = excluded.version, parts = excluded.parts, about = excluded.about,
    trained_at = excluded.trained_at";

const POSTGRES_SWEEP: &str = "
delete from holdfast_model_parts where ctid = any (array (
    select ctid from holdfast_model_parts
    where version not in (select version from holdfast_models) and made_at < now() - $1 * interval '1 millisecond'
    limit $2 for update skip locked))";

const SQLITE_SWEEP: &str = "
delete from holdfast_model_parts where (version, part) in (
    select version, part from holdfast_model_parts
    where version not in (select version from holdfast_models)
      and made_at < cast(unixepoch('subsec') * 1000 as integer) - ?1
    limit ?2)";

impl Recommender {
    /// Stores a model as a new version, which counts from then on.
    pub(super) async fn save(&self, bytes: Arc<Vec<u8>>, about: &About) -> Result<Ulid, RecommendError> {
        let version = Ulid::from_parts(holdfast_core::clock::unix_millis(), rand::random::<u128>());
        let parts = bytes.len().div_ceil(PIECE);
        for part in 0..parts {
            let bytes = Arc::clone(&bytes);
            let data = blocking(move || {
                let piece = &bytes[part * PIECE..bytes.len().min((part + 1) * PIECE)];
                lz4_flex::block::compress_prepend_size(piece)
            })
            .await?;
            self.write_piece(version, part as i32, data).await?;
        }
        self.make_count(version, parts as i32, about).await?;
        self.look_soon();
        // The version counts already: what cannot be swept now is swept next time.
        if let Err(error) = self.sweep().await {
            tracing::debug!(error = ?error, "pieces of older models cannot be swept");
        }
        Ok(version)
    }

    async fn write_piece(&self, version: Ulid, part: i32, data: Vec<u8>) -> Result<(), LedgerError> {
        let (version, sql) = (Uuid::from_u128(version.0), &self.0.sql);
        sql.within("store a piece of a model", async {
            let mut tx = sql.begin().await?;
            match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query(
                        "insert into holdfast_model_parts (version, part, data) values ($1, $2, $3)",
                    );
                    let query = query.bind(version).bind(part).bind(data);
                    query.persistent(sql.named()).execute(on).await?;
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query(
                        "insert into holdfast_model_parts (version, part, data, made_at)
                         values (?1, ?2, ?3, cast(unixepoch('subsec') * 1000 as integer))",
                    );
                    query.bind(version).bind(part).bind(data).execute(on).await?;
                }
            }
            tx.commit().await
        })
        .await
    }

    async fn make_count(&self, version: Ulid, parts: i32, about: &About) -> Result<(), LedgerError> {
        let about = serde_json::to_string(about).map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let (version, sql) = (Uuid::from_u128(version.0), &self.0.sql);
        sql.within("make a model count", async {
            let mut tx = sql.begin().await?;
            match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query(POSTGRES_COUNT)
                        .bind(NAME)
                        .bind(version)
                        .bind(parts)
                        .bind(about);
                    query.persistent(sql.named()).execute(on).await?;
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query(SQLITE_COUNT).bind(NAME).bind(version);
                    query.bind(parts).bind(about).execute(on).await?;
                }
            }
            tx.commit().await
        })
        .await
    }

    async fn sweep(&self) -> Result<(), LedgerError> {
        let (age, sql) = (SWEEP_AFTER.as_millis() as i64, &self.0.sql);
        sql.within("sweep pieces of older models", async {
            let mut tx = sql.begin().await?;
            match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query(POSTGRES_SWEEP).bind(age).bind(SWEEP);
                    query.persistent(sql.named()).execute(on).await?;
                }
                LedgerTx::Sqlite(on) => {
                    sqlx::query(SQLITE_SWEEP)
                        .bind(age)
                        .bind(SWEEP)
                        .execute(on)
                        .await?;
                }
            }
            tx.commit().await
        })
        .await
    }

    pub(super) async fn stored_version(&self) -> Result<Option<Ulid>, LedgerError> {
        Ok(self
            .counting()
            .await?
            .map(|(version, ..)| Ulid(version.as_u128())))
    }

    /// What is known of the version that counts. `None`: there is none, or another version of Holdfast made it.
    pub(super) async fn about(&self) -> Result<Option<About>, LedgerError> {
        let row = self.counting().await?;
        Ok(row.and_then(|(_, _, about)| serde_json::from_str(&about).ok()))
    }

    async fn counting(&self) -> Result<Option<Row>, LedgerError> {
        let sql = &self.0.sql;
        sql.within("see which model counts", async {
            let mut tx = sql.begin_read().await?;
            let row = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query =
                        sqlx::query_as("select version, parts, about from holdfast_models where name = $1");
                    let query = query.bind(NAME).persistent(sql.named());
                    query.fetch_optional(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query =
                        sqlx::query_as("select version, parts, about from holdfast_models where name = ?1");
                    query.bind(NAME).fetch_optional(on).await?
                }
            };
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// Reads the version that counts.
    pub(super) async fn load(&self) -> Result<Option<(Ulid, Arc<Model>)>, RecommendError> {
        for _ in 0..READINGS {
            let Some((version, parts, about)) = self.counting().await? else {
                return Ok(None);
            };
            let about: About = serde_json::from_str(&about).map_err(|_| Unreadable)?;
            if about.bytes > MAX_MODEL_BYTES || about.bytes.div_ceil(PIECE) != parts.unsigned_abs() as usize {
                return Err(Unreadable.into());
            }
            if let Some(bytes) = self.read_pieces(version, parts, about.bytes).await? {
                let model = blocking(move || {
                    let whole = bytes.len() == about.bytes && checksum(&bytes) == about.checksum;
                    if whole {
                        Model::from_bytes(&bytes)
                    } else {
                        Err(Unreadable)
                    }
                });
                return Ok(Some((Ulid(version.as_u128()), Arc::new(model.await??))));
            }
        }
        Err(Unreadable.into())
    }

    /// `None`: a piece is missing.
    async fn read_pieces(
        &self,
        version: Uuid,
        parts: i32,
        bytes: usize,
    ) -> Result<Option<Vec<u8>>, RecommendError> {
        let mut whole = Vec::with_capacity(bytes);
        for part in 0..parts {
            let Some(data) = self.read_piece(version, part).await? else {
                return Ok(None);
            };
            let piece = blocking(move || decompressed(&data)).await??;
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole))
    }

    async fn read_piece(&self, version: Uuid, part: i32) -> Result<Option<Vec<u8>>, LedgerError> {
        let sql = &self.0.sql;
        sql.within("read a piece of a model", async {
            let mut tx = sql.begin_read().await?;
            let data = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_scalar(
                        "select data from holdfast_model_parts where version = $1 and part = $2",
                    );
                    let query = query.bind(version).bind(part).persistent(sql.named());
                    query.fetch_optional(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query_scalar(
                        "select data from holdfast_model_parts where version = ?1 and part = ?2",
                    );
                    query.bind(version).bind(part).fetch_optional(on).await?
                }
            };
            tx.commit().await?;
            Ok(data)
        })
        .await
    }
}

/// A piece says itself how long it is: no longer than a piece may be.
fn decompressed(data: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let (size, _) = data.split_first_chunk::<4>().ok_or(Unreadable)?;
    if u32::from_le_bytes(*size) as usize > PIECE {
        return Err(Unreadable);
    }
    lz4_flex::block::decompress_size_prepended(data).map_err(|_| Unreadable)
}

pub(super) fn checksum(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_read_as_it_was_written_and_lies_about_nothing() {
        let piece = vec![7; PIECE];
        let data = lz4_flex::block::compress_prepend_size(&piece);
        assert_eq!(decompressed(&data), Ok(piece));
        let mut long = data.clone();
        long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        for bad in [&long[..], &data[..data.len() / 2], &[]] {
            assert_eq!(decompressed(bad), Err(Unreadable));
        }
    }
}
