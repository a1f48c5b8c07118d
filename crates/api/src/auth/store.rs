//! The table `holdfast_api_keys`, on either database.
//!
//! Every call has a deadline. Rows are never deleted: a revoked key stays listed, and its name stays taken, so that a
//! log which names a key names one key for ever.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::sql::Database;
use serde::{Serialize, Serializer};
use sqlx::postgres::{PgArguments, PgPool, PgQueryResult, PgRow, Postgres};
use sqlx::query::{Query, QueryAs};
use sqlx::{FromRow, Row};
use ulid::Ulid;
use uuid::Uuid;

use super::scope::Scopes;
use super::secret::Digest;

/// Most keys one installation may have in force: all of them are held in memory.
pub(super) const MAX_KEYS: usize = 10_000;

/// Longest one statement may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// Names a key in logs and lists; not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Ulid);

impl KeyId {
    pub(super) fn generate() -> Self {
        Self(Ulid::from_parts(clock::unix_millis(), rand::random::<u128>()))
    }

    fn as_uuid(self) -> Uuid {
        Uuid::from_u128(self.0.0)
    }

    fn from_uuid(uuid: Uuid) -> Self {
        Self(Ulid(uuid.as_u128()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = holdfast_jobs::InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text)
            .map(Self)
            .map_err(|_| holdfast_jobs::InvalidId)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A key as it is listed: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredKey {
    pub id: KeyId,
    pub name: String,
    pub scopes: Scopes,
    pub created_at: DateTime<Utc>,
    /// To the minute or so: it is written now and then, not at every request.
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key in force, with what is needed to know it.
#[derive(Debug)]
pub(super) struct ActiveKey {
    pub(super) id: KeyId,
    pub(super) digest: Digest,
    pub(super) scopes: Scopes,
}

/// Why the table could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("the database failed")]
    Sql(#[from] sqlx::Error),
    #[error("the database did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

type Rows = Vec<(Uuid, String, String, i64, Option<i64>, Option<i64>)>;

#[derive(Debug, Clone)]
pub(super) struct Store {
    database: Database,
}

impl Store {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) async fn insert(
        &self,
        id: KeyId,
        name: &str,
        digest: &Digest,
        scopes: Scopes,
    ) -> Result<(), StoreError> {
        bounded(async {
            match &self.database {
                Database::Postgres(pool) => execute(pool, sqlx::query(
                    "insert into holdfast_api_keys (id, name, hash, scopes) values ($1, $2, $3, $4)",
                )
                .bind(id.as_uuid())
                .bind(name)
                .bind(digest.as_bytes())
                .bind(scopes.to_string())
                )
                .await
                .map(drop),
                Database::Sqlite(database) => sqlx::query(
                    "insert into holdfast_api_keys (id, name, hash, scopes, created_at) values ($1, $2, $3, $4, $5)",
                )
                .bind(id.as_uuid())
                .bind(name)
                .bind(digest.as_bytes())
                .bind(scopes.to_string())
                .bind(clock::now().timestamp_millis())
                .execute(&database.writer)
                .await
                .map(drop),
            }
        })
        .await
    }

    /// Every key, oldest first, revoked ones included.
    pub(super) async fn list(&self) -> Result<Vec<StoredKey>, StoreError> {
        let rows: Rows = bounded(async {
            match &self.database {
                Database::Postgres(pool) => {
                    fetch_all(
                        pool,
                        sqlx::query_as(
                            "select id, name, scopes, (extract(epoch from created_at) * 1000)::bigint, \
                         (extract(epoch from last_used_at) * 1000)::bigint, \
                         (extract(epoch from revoked_at) * 1000)::bigint \
                         from holdfast_api_keys order by id",
                        ),
                    )
                    .await
                }
                Database::Sqlite(database) => {
                    sqlx::query_as(
                        "select id, name, scopes, created_at, last_used_at, revoked_at \
                         from holdfast_api_keys order by id",
                    )
                    .fetch_all(&database.reader)
                    .await
                }
            }
        })
        .await?;
        rows.into_iter().map(listed).collect()
    }

    /// Every key in force, up to `limit`.
    pub(super) async fn active(&self, limit: usize) -> Result<Vec<ActiveKey>, StoreError> {
        const SQL: &str =
            "select id, hash, scopes from holdfast_api_keys where revoked_at is null order by id limit $1";
        let rows: Vec<(Uuid, Vec<u8>, String)> = bounded(async {
            match &self.database {
                Database::Postgres(pool) => fetch_all(pool, sqlx::query_as(SQL).bind(limit as i64)).await,
                Database::Sqlite(database) => {
                    sqlx::query_as(SQL)
                        .bind(limit as i64)
                        .fetch_all(&database.reader)
                        .await
                }
            }
        })
        .await?;
        Ok(rows.into_iter().filter_map(readable).collect())
    }

    /// Ends a key. False: no key in force has this id.
    pub(super) async fn revoke(&self, id: KeyId) -> Result<bool, StoreError> {
        let changed = bounded(async {
            match &self.database {
                Database::Postgres(pool) => execute(pool, sqlx::query(
                    "update holdfast_api_keys set revoked_at = now() where id = $1 and revoked_at is null",
                )
                .bind(id.as_uuid())
                )
                .await
                .map(|done| done.rows_affected()),
                Database::Sqlite(database) => sqlx::query(
                    "update holdfast_api_keys set revoked_at = $2 where id = $1 and revoked_at is null",
                )
                .bind(id.as_uuid())
                .bind(clock::now().timestamp_millis())
                .execute(&database.writer)
                .await
                .map(|done| done.rows_affected()),
            }
        })
        .await?;
        Ok(changed > 0)
    }

    /// Records that these keys were used just now.
    pub(super) async fn touch(&self, ids: &[KeyId]) -> Result<(), StoreError> {
        bounded(async {
            match &self.database {
                Database::Postgres(pool) => {
                    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
                    let update =
                        sqlx::query("update holdfast_api_keys set last_used_at = now() where id = any($1)");
                    execute(pool, update.bind(ids)).await.map(drop)
                }
                Database::Sqlite(database) => {
                    let mut tx = database.writer.begin().await?;
                    for id in ids {
                        sqlx::query("update holdfast_api_keys set last_used_at = $2 where id = $1")
                            .bind(id.as_uuid())
                            .bind(clock::now().timestamp_millis())
                            .execute(&mut *tx)
                            .await?;
                    }
                    tx.commit().await
                }
            }
        })
        .await
    }

    /// Keys in force.
    pub(super) async fn count_active(&self) -> Result<usize, StoreError> {
        const SQL: &str = "select count(*) from holdfast_api_keys where revoked_at is null";
        let count: i64 = bounded(async {
            match &self.database {
                Database::Postgres(pool) => {
                    let rows: Vec<(i64,)> = fetch_all(pool, sqlx::query_as(SQL)).await?;
                    Ok(rows.first().map_or(0, |row| row.0))
                }
                Database::Sqlite(database) => sqlx::query(SQL).fetch_one(&database.reader).await?.try_get(0),
            }
        })
        .await?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

/// Unnamed and inside a transaction, so that any pooler can carry it. These statements are rare; the round trips are not missed.
async fn execute(pool: &PgPool, statement: Query<'_, Postgres, PgArguments>) -> sqlx::Result<PgQueryResult> {
    let mut tx = pool.begin().await?;
    let done = statement.persistent(false).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done)
}

/// Like [`execute`], for rows.
async fn fetch_all<T>(pool: &PgPool, statement: QueryAs<'_, Postgres, T, PgArguments>) -> sqlx::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let mut tx = pool.begin().await?;
    let rows = statement.persistent(false).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(rows)
}

async fn bounded<T>(statement: impl Future<Output = sqlx::Result<T>>) -> Result<T, StoreError> {
    tokio::time::timeout(DEADLINE, statement)
        .await
        .map_err(|_| StoreError::TimedOut(DEADLINE))?
        .map_err(StoreError::Sql)
}

/// A row that somebody else spoiled must not lock every other key out.
fn readable((id, hash, scopes): (Uuid, Vec<u8>, String)) -> Option<ActiveKey> {
    let id = KeyId::from_uuid(id);
    let key = Digest::from_stored(&hash)
        .zip(scopes.parse().ok())
        .map(|(digest, scopes)| ActiveKey { id, digest, scopes });
    if key.is_none() {
        tracing::warn!(key.id = %id, "an API key's row cannot be read and is ignored: revoke it and make another");
    }
    key
}

fn listed(
    (id, name, scopes, created, used, revoked): (Uuid, String, String, i64, Option<i64>, Option<i64>),
) -> Result<StoredKey, StoreError> {
    Ok(StoredKey {
        id: KeyId::from_uuid(id),
        name,
        scopes: scopes.parse().map_err(|_| unreadable("scopes"))?,
        created_at: DateTime::from_timestamp_millis(created).unwrap_or_default(),
        last_used_at: used.and_then(DateTime::from_timestamp_millis),
        revoked_at: revoked.and_then(DateTime::from_timestamp_millis),
    })
}

/// Somebody else wrote to our table.
fn unreadable(column: &'static str) -> StoreError {
    StoreError::Sql(sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: "not a value that Holdfast wrote".into(),
    })
}
