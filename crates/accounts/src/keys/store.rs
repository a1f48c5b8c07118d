//! The table `holdfast_api_keys`, on either database.
//!
//! Every call has a deadline. Rows are never deleted: a revoked key stays listed, and its name stays taken, so that a
//! log which names a key names one key for ever.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::sql::Database;
use holdfast_http::{Binding, Scopes};
use holdfast_jobs::audit::{AuditContext, AuditEntry, action};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use super::bounds;
use crate::secret::Digest;
use crate::sql::{AuditedAction, StoreError, Write, bounded, execute, fetch_all, unreadable};

/// Most keys one installation may have in force: all of them are held in memory.
pub(super) const MAX_KEYS: usize = 10_000;

holdfast_core::ids! {
    /// Names a key in logs and lists; not a secret.
    KeyId;
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ApiKeyInfo)]
pub struct StoredKey {
    #[schema(value_type = String)]
    pub id: KeyId,
    pub name: String,
    #[schema(value_type = Vec<String>)]
    pub scopes: Scopes,
    /// The only queues that it may be used for. Null: any.
    #[serde(default)]
    pub queues: Option<Vec<String>>,
    /// The only kinds that it may be used for. Null: any.
    #[serde(default)]
    pub kinds: Option<Vec<String>>,
    pub created_at: DateTime<Utc>,
    /// Accurate to about a minute: it is not written at every request.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When its secret was last rotated.
    pub rotated_at: Option<DateTime<Utc>>,
    /// The previous secret of the key stays valid until this time.
    pub previous_until: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// Who made it, as the audit log names them: `user/<id>`, `key/<id>`, `bootstrap`, `cli/<login>`. Null: it is not known.
    pub created_by: Option<String>,
}

/// A key in force, with what is needed to know it.
#[derive(Debug)]
pub(super) struct ActiveKey {
    pub(super) id: KeyId,
    pub(super) digest: Digest,
    /// Of the text before the rotation, during its period of grace.
    pub(super) previous: Option<Digest>,
    pub(super) scopes: Scopes,
    pub(super) binding: Option<Arc<Binding>>,
}

/// Id, name, scopes, and when it was made, used last, rotated, and until when the text before works, revoked; its maker,
/// and its bounds.
type ListedRow = (
    Uuid,
    String,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<bool>,
    Option<String>,
);

/// Id, digest, digest before the rotation while that is good, scopes, bounds.
type ActiveRow = (
    Uuid,
    Vec<u8>,
    Option<Vec<u8>>,
    String,
    Option<bool>,
    Option<String>,
);

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
        binding: Option<&Binding>,
        by: &AuditContext,
    ) -> Result<(), StoreError> {
        let deed = AuditedAction {
            by,
            entry: entry(action::KEY_CREATE, id).details(match binding {
                None => json!({ "name": name, "scopes": scopes }),
                Some(Binding { queues, kinds }) => {
                    json!({ "name": name, "scopes": scopes, "queues": queues, "kinds": kinds })
                }
            }),
        };
        let ((scopes, payloads), maker) = (bounds::stored_scopes(scopes), by.actor.to_string());
        let (binding, digest) = (
            bounds::stored_binding(binding),
            bounds::stored_digest(digest, binding.is_some()),
        );
        let insert = match &self.database {
            Database::Postgres(pool) => Write::Postgres(
                pool,
                sqlx::query(
                    "insert into holdfast_api_keys (id, name, hash, scopes, created_by, payloads, binding) \
                     values ($1, $2, $3, $4, $5, $6, $7)",
                )
                .bind(id.as_uuid())
                .bind(name)
                .bind(&digest)
                .bind(&scopes)
                .bind(&maker)
                .bind(payloads)
                .bind(&binding),
            ),
            Database::Sqlite(database) => Write::Sqlite(
                database,
                sqlx::query(
                    "insert into holdfast_api_keys (id, name, hash, scopes, created_at, created_by, payloads, binding) \
                     values ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(id.as_uuid())
                .bind(name)
                .bind(&digest)
                .bind(&scopes)
                .bind(clock::now().timestamp_millis())
                .bind(&maker)
                .bind(payloads)
                .bind(&binding),
            ),
        };
        bounded(&self.database, "make an API key", insert.recorded(&deed))
            .await
            .map(drop)
    }

    /// Every key, oldest first, revoked ones included.
    pub(super) async fn list(&self) -> Result<Vec<StoredKey>, StoreError> {
        let rows: Vec<ListedRow> = bounded(&self.database, "list API keys", async {
            match &self.database {
                Database::Postgres(pool) => {
                    fetch_all(
                        pool,
                        sqlx::query_as(
                            "select id, name, scopes, (extract(epoch from created_at) * 1000)::bigint, \
                         (extract(epoch from last_used_at) * 1000)::bigint, \
                         (extract(epoch from rotated_at) * 1000)::bigint, \
                         (extract(epoch from previous_until) * 1000)::bigint, \
                         (extract(epoch from revoked_at) * 1000)::bigint, created_by, payloads, binding \
                         from holdfast_api_keys order by id",
                        ),
                    )
                    .await
                }
                Database::Sqlite(database) => {
                    sqlx::query_as(
                        "select id, name, scopes, created_at, last_used_at, rotated_at, previous_until, revoked_at, \
                         created_by, payloads, binding \
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
        let rows: Vec<ActiveRow> = bounded(&self.database, "read the API keys in force", async {
            match &self.database {
                Database::Postgres(pool) => {
                    let select = sqlx::query_as(
                        "select id, hash, case when previous_until > now() then previous_hash end, scopes, payloads, \
                         binding \
                         from holdfast_api_keys where revoked_at is null order by id limit $1",
                    );
                    fetch_all(pool, select.bind(limit as i64)).await
                }
                Database::Sqlite(database) => {
                    let select = sqlx::query_as(
                        "select id, hash, case when previous_until > $2 then previous_hash end, scopes, payloads, \
                         binding \
                         from holdfast_api_keys where revoked_at is null order by id limit $1",
                    );
                    select
                        .bind(limit as i64)
                        .bind(clock::now().timestamp_millis())
                        .fetch_all(&database.reader)
                        .await
                }
            }
        })
        .await?;
        Ok(rows.into_iter().filter_map(readable).collect())
    }

    /// Ends a key. False: no key in force has this id.
    pub(super) async fn revoke(&self, id: KeyId, by: &AuditContext) -> Result<bool, StoreError> {
        let update = match &self.database {
            Database::Postgres(pool) => Write::Postgres(
                pool,
                sqlx::query(
                    "update holdfast_api_keys set revoked_at = now() where id = $1 and revoked_at is null",
                )
                .bind(id.as_uuid()),
            ),
            Database::Sqlite(database) => Write::Sqlite(
                database,
                sqlx::query(
                    "update holdfast_api_keys set revoked_at = $2 where id = $1 and revoked_at is null",
                )
                .bind(id.as_uuid())
                .bind(clock::now().timestamp_millis()),
            ),
        };
        let deed = AuditedAction {
            by,
            entry: entry(action::KEY_REVOKE, id),
        };
        Ok(bounded(&self.database, "revoke an API key", update.recorded(&deed)).await? > 0)
    }

    /// Gives a key another text; the one before works for `grace` yet, and the one before that no more. False: no key in
    /// force has this id.
    pub(super) async fn rotate(
        &self,
        id: KeyId,
        digest: &Digest,
        is_bound: bool,
        grace: Duration,
        by: &AuditContext,
    ) -> Result<bool, StoreError> {
        let grace_ms = grace.as_millis() as i64;
        let digest = bounds::stored_digest(digest, is_bound);
        let update = match &self.database {
            Database::Postgres(pool) => Write::Postgres(
                pool,
                sqlx::query(
                    "update holdfast_api_keys set previous_hash = hash, hash = $2, rotated_at = now(), \
                     previous_until = now() + $3 * interval '1 millisecond' \
                     where id = $1 and revoked_at is null",
                )
                .bind(id.as_uuid())
                .bind(&digest)
                .bind(grace_ms),
            ),
            Database::Sqlite(database) => Write::Sqlite(
                database,
                sqlx::query(
                    "update holdfast_api_keys set previous_hash = hash, hash = $2, rotated_at = $3, \
                     previous_until = $3 + $4 where id = $1 and revoked_at is null",
                )
                .bind(id.as_uuid())
                .bind(&digest)
                .bind(clock::now().timestamp_millis())
                .bind(grace_ms),
            ),
        };
        let deed = AuditedAction {
            by,
            entry: entry(action::KEY_ROTATE, id).details(json!({ "grace_seconds": grace.as_secs() })),
        };
        Ok(bounded(&self.database, "rotate an API key", update.recorded(&deed)).await? > 0)
    }

    /// Records that these keys were used just now.
    pub(super) async fn touch(&self, ids: &[KeyId]) -> Result<(), StoreError> {
        bounded(&self.database, "note the use of API keys", async {
            match &self.database {
                Database::Postgres(pool) => {
                    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
                    let update =
                        sqlx::query("update holdfast_api_keys set last_used_at = now() where id = any($1)");
                    execute(pool, update.bind(ids)).await.map(drop)
                }
                Database::Sqlite(database) => {
                    let mut tx = database.begin().await?;
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
        let count: i64 = bounded(&self.database, "count API keys", async {
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

fn entry(action: &'static str, id: KeyId) -> AuditEntry {
    AuditEntry::new(action).target(id)
}

/// A row that another program spoiled must not lock every other key out.
fn readable((id, hash, previous, scopes, payloads, binding): ActiveRow) -> Option<ActiveKey> {
    let id = KeyId::from_uuid(id);
    let read = || {
        let binding = bounds::read_binding(binding.as_deref()).ok()?;
        let digest = |hash: &[u8]| bounds::read_digest(hash, binding.is_some());
        Some(ActiveKey {
            id,
            digest: digest(&hash)?,
            previous: previous.as_deref().and_then(digest),
            scopes: bounds::read_scopes(&scopes, payloads)?,
            binding: binding.clone(),
        })
    };
    let key = read();
    if key.is_none() {
        tracing::warn!(key.id = %id, "an API key's row cannot be read and is ignored: revoke it and make another");
    }
    key
}

fn listed(row: ListedRow) -> Result<StoredKey, StoreError> {
    let (id, name, scopes, created, used, rotated, previous_until, revoked, created_by, payloads, binding) =
        row;
    let binding = bounds::read_binding(binding.as_deref()).map_err(|_| unreadable("binding"))?;
    let named = |names: &std::collections::BTreeSet<String>| {
        (!names.is_empty()).then(|| names.iter().cloned().collect::<Vec<_>>())
    };
    let moment = |millis: Option<i64>| millis.and_then(DateTime::from_timestamp_millis);
    Ok(StoredKey {
        id: KeyId::from_uuid(id),
        name,
        scopes: bounds::read_scopes(&scopes, payloads).ok_or_else(|| unreadable("scopes"))?,
        queues: binding.as_ref().and_then(|binding| named(&binding.queues)),
        kinds: binding.as_ref().and_then(|binding| named(&binding.kinds)),
        created_at: moment(Some(created)).unwrap_or_default(),
        last_used_at: moment(used),
        rotated_at: moment(rotated),
        previous_until: moment(previous_until),
        revoked_at: moment(revoked),
        created_by,
    })
}
