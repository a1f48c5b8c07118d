//! The table `holdfast_sessions`, on either database. Every call has a deadline.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::sql::Database;

use crate::UserId;
use crate::mirror::Table;
use crate::sql::{StoreError, bounded, execute, fetch_all};

/// SHA-256 of a session's id: a dump of the table contains no usable session.
pub(super) type SessionHash = [u8; 32];

/// Most changed sessions in the mirror; beyond that, a session that is not in it is read by its key.
const MAX_CHANGED: usize = 20_000;

/// Most expired rows that one login deletes.
const PRUNE: i64 = 100;

/// How a session has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionChange {
    /// Of the token in force.
    pub(super) generation: i64,
    pub(super) is_ended: bool,
}

impl SessionChange {
    /// Whether a token of this generation is refused.
    pub(super) fn refuses(self, generation: i64) -> bool {
        self.is_ended || self.generation > generation
    }
}

/// The outcome of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefreshOutcome {
    /// The next token has this generation.
    To(i64),
    /// The token was refreshed before; its session is ended now.
    Reused,
    /// Ended, or never made.
    Gone,
}

#[derive(Debug, Clone)]
pub(super) struct SessionTable {
    database: Database,
    /// How long a token is valid. Older changes concern tokens that have expired.
    lifetime: Duration,
}

/// Sessions that changed while older tokens of theirs may still be valid.
#[derive(Debug, Default)]
pub(super) struct ChangedSessions {
    found: HashMap<SessionHash, SessionChange>,
    /// There are more than the mirror holds.
    is_cut: bool,
}

impl ChangedSessions {
    /// `None`: it has not changed. `Err`: unknown, because the mirror is cut.
    pub(super) fn find(&self, id: &SessionHash) -> Result<Option<SessionChange>, ()> {
        match self.found.get(id) {
            Some(changed) => Ok(Some(*changed)),
            None if self.is_cut => Err(()),
            None => Ok(None),
        }
    }
}

type Row = (Vec<u8>, i64, bool);

impl SessionTable {
    pub(super) fn new(database: Database, lifetime: Duration) -> Self {
        Self { database, lifetime }
    }

    /// Inserts a session, and deletes up to [`PRUNE`] that are older than `most`.
    pub(super) async fn insert(
        &self,
        id: &SessionHash,
        user: UserId,
        most: Duration,
    ) -> Result<(), StoreError> {
        let user = user.as_uuid();
        let past = i64::try_from(most.as_millis()).unwrap_or(i64::MAX / 4);
        bounded(&self.database, "note a session", async {
            match &self.database {
                Database::Postgres(pool) => {
                    let insert = "insert into holdfast_sessions (id, user_id) values ($1, $2)";
                    execute(pool, sqlx::query(insert).bind(&id[..]).bind(user)).await?;
                    let prune = "delete from holdfast_sessions where id in (select id from holdfast_sessions \
                         where created_at < now() - $1 * interval '1 millisecond' order by created_at limit $2 \
                         for update skip locked)";
                    execute(pool, sqlx::query(prune).bind(past).bind(PRUNE)).await?;
                }
                Database::Sqlite(database) => {
                    let now = clock::now().timestamp_millis();
                    let insert = "insert into holdfast_sessions (id, user_id, created_at, changed_at) \
                         values ($1, $2, $3, $3)";
                    let mut tx = database.begin().await?;
                    let insert = sqlx::query(insert).bind(&id[..]).bind(user).bind(now);
                    insert.execute(&mut *tx).await?;
                    let prune = "delete from holdfast_sessions where id in (select id from holdfast_sessions \
                         where created_at < $1 order by created_at limit $2)";
                    let prune = sqlx::query(prune).bind(now.saturating_sub(past)).bind(PRUNE);
                    prune.execute(&mut *tx).await?;
                    tx.commit().await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Moves the session to the next generation. A token that is refreshed twice ends the session: one of the two callers did not
    /// log in.
    pub(super) async fn refresh(
        &self,
        id: &SessionHash,
        generation: i64,
    ) -> Result<RefreshOutcome, StoreError> {
        let next = "update holdfast_sessions set generation = generation + 1, changed_at = NOW \
             where id = $1 and generation = $2 and ended_at is null";
        if self.change(next, id, Some(generation)).await? > 0 {
            return Ok(RefreshOutcome::To(generation + 1));
        }
        match self.get(id).await? {
            None => Ok(RefreshOutcome::Gone),
            Some(changed) if changed.is_ended => Ok(RefreshOutcome::Gone),
            Some(_) => {
                self.end(id).await?;
                Ok(RefreshOutcome::Reused)
            }
        }
    }

    /// Ends a session. Doing it again changes nothing.
    pub(super) async fn end(&self, id: &SessionHash) -> Result<(), StoreError> {
        let end = "update holdfast_sessions set ended_at = NOW, changed_at = NOW where id = $1 and ended_at is null";
        self.change(end, id, None).await.map(drop)
    }

    pub(super) async fn get(&self, id: &SessionHash) -> Result<Option<SessionChange>, StoreError> {
        let text = "select id, generation, ended_at is not null from holdfast_sessions where id = $1";
        let rows: Vec<Row> = bounded(&self.database, "read a session", async {
            match &self.database {
                Database::Postgres(pool) => fetch_all(pool, sqlx::query_as(text).bind(&id[..])).await,
                Database::Sqlite(database) => {
                    sqlx::query_as(text)
                        .bind(&id[..])
                        .fetch_all(&database.reader)
                        .await
                }
            }
        })
        .await?;
        Ok(rows
            .into_iter()
            .next()
            .map(|(_, generation, is_ended)| SessionChange { generation, is_ended }))
    }

    /// `NOW` in the text is the database's; `$2` the generation, where there is one.
    async fn change(
        &self,
        text: &'static str,
        id: &SessionHash,
        generation: Option<i64>,
    ) -> Result<u64, StoreError> {
        macro_rules! bind {
            ($text:expr) => {{
                // Only the constants above are put together here.
                let query = sqlx::query(sqlx::AssertSqlSafe($text)).bind(&id[..]);
                match generation {
                    Some(generation) => query.bind(generation),
                    None => query,
                }
            }};
        }
        bounded(&self.database, "change a session", async {
            match &self.database {
                Database::Postgres(pool) => {
                    let done = execute(pool, bind!(text.replace("NOW", "now()"))).await?;
                    Ok(done.rows_affected())
                }
                Database::Sqlite(database) => {
                    let now = "cast(unixepoch('subsec') * 1000 as integer)";
                    let mut tx = database.begin().await?;
                    let done = bind!(text.replace("NOW", now)).execute(&mut *tx).await?;
                    tx.commit().await?;
                    Ok(done.rows_affected())
                }
            }
        })
        .await
    }
}

impl Table for SessionTable {
    type Rows = ChangedSessions;

    const NAME: &'static str = "sessions";

    async fn read(&self) -> Result<ChangedSessions, StoreError> {
        let lifetime = i64::try_from(self.lifetime.as_millis()).unwrap_or(i64::MAX / 4);
        let most = MAX_CHANGED as i64;
        let columns = "select id, generation, ended_at is not null from holdfast_sessions";
        let changed = "(ended_at is not null or generation > 0) order by changed_at desc limit $2";
        let rows: Vec<Row> = bounded(&self.database, "read changed sessions", async {
            match &self.database {
                Database::Postgres(pool) => {
                    let text = format!(
                        "{columns} where changed_at > now() - $1 * interval '1 millisecond' and {changed}"
                    );
                    let query = sqlx::query_as(sqlx::AssertSqlSafe(text))
                        .bind(lifetime)
                        .bind(most);
                    fetch_all(pool, query).await
                }
                Database::Sqlite(database) => {
                    let since = clock::now().timestamp_millis().saturating_sub(lifetime);
                    let text = format!("{columns} where changed_at > $1 and {changed}");
                    let query = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(since).bind(most);
                    query.fetch_all(&database.reader).await
                }
            }
        })
        .await?;
        let is_cut = rows.len() >= MAX_CHANGED;
        let changed = rows.into_iter().filter_map(|(id, generation, is_ended)| {
            let changed = SessionChange { generation, is_ended };
            Some((id.try_into().ok()?, changed))
        });
        Ok(ChangedSessions {
            found: changed.collect(),
            is_cut,
        })
    }
}
