//! Interactions as a training reads them: user by user, in pages.

use chrono::DateTime;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use ulid::Ulid;
use uuid::Uuid;

use super::{Action, Interactions, UserInteraction};
use crate::store::TableChange;

/// Interactions of one page.
const PAGE: usize = 20_000;

/// The last row of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) user_id: String,
    at_ms: i64,
    event_id: Uuid,
    kind: i16,
}

type Row = (String, i64, Uuid, i16);

impl From<Row> for Cursor {
    fn from((user_id, at_ms, event_id, kind): Row) -> Self {
        Self {
            user_id,
            at_ms,
            event_id,
            kind,
        }
    }
}

impl Cursor {
    /// `None`: another version's action, which this one knows nothing about.
    pub(crate) fn done(&self) -> Option<UserInteraction> {
        Some(UserInteraction {
            event: Ulid(self.event_id.as_u128()),
            action: Action::from_number(self.kind)?,
            at: DateTime::from_timestamp_millis(self.at_ms)?,
        })
    }
}

const POSTGRES_PAGE: &str = "
select user_id, (extract(epoch from at) * 1000)::bigint, event_id, kind from holdfast_interactions
where at >= 'epoch'::timestamptz + $1::bigint * interval '1 millisecond'
  and (user_id, at, event_id, kind)
      > ($2::text collate \"C\", 'epoch'::timestamptz + $3::bigint * interval '1 millisecond', $4::uuid, $5::smallint)
order by user_id, at, event_id, kind limit $6";

const SQLITE_PAGE: &str = "
select user_id, at, event_id, kind from holdfast_interactions
where at >= ?1 and (user_id, at, event_id, kind) > (?2, ?3, ?4, ?5)
order by user_id, at, event_id, kind limit ?6";

impl Interactions {
    /// The next interactions that happened at `since` (milliseconds since the epoch) or later, by user and time.
    pub(crate) async fn training_page(
        &self,
        since: i64,
        after: Option<&Cursor>,
    ) -> Result<Vec<Cursor>, LedgerError> {
        let start = Cursor {
            user_id: String::new(),
            at_ms: 0,
            event_id: Uuid::nil(),
            kind: 0,
        };
        let after = after.unwrap_or(&start);
        let sql = &self.0.sql;
        sql.within("read interactions to learn from", async {
            let mut tx = sql.begin_read().await?;
            let page: Vec<Row> = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_as(POSTGRES_PAGE)
                        .bind(since)
                        .bind(&after.user_id)
                        .bind(after.at_ms)
                        .bind(after.event_id)
                        .bind(after.kind)
                        .bind(PAGE as i64);
                    query.persistent(sql.named()).fetch_all(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query_as(SQLITE_PAGE)
                        .bind(since)
                        .bind(&after.user_id)
                        .bind(after.at_ms)
                        .bind(after.event_id)
                        .bind(after.kind)
                        .bind(PAGE as i64);
                    query.fetch_all(on).await?
                }
            };
            tx.commit().await?;
            Ok(page.into_iter().map(Cursor::from).collect())
        })
        .await
    }

    /// How many there are, and when one was received last.
    pub(crate) async fn standing(&self) -> Result<TableChange, LedgerError> {
        let sql = &self.0.sql;
        sql.within("see whether interactions have come", async {
            let mut tx = sql.begin_read().await?;
            let (count, changed): (i64, i64) = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_as(
                        "select count(*), coalesce((extract(epoch from max(received_at)) * 1000)::bigint, 0)
                         from holdfast_interactions",
                    );
                    query.persistent(sql.named()).fetch_one(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query_as(
                        "select count(*), coalesce(max(received_at), 0) from holdfast_interactions",
                    );
                    query.fetch_one(on).await?
                }
            };
            tx.commit().await?;
            Ok(TableChange { count, changed })
        })
        .await
    }

    /// When the `most`th newest happened, in milliseconds since the epoch; `None` if there are not so many.
    pub(crate) async fn newest(&self, most: usize) -> Result<Option<i64>, LedgerError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        sql.within("find the newest interactions", async {
            let mut tx = sql.begin_read().await?;
            let at = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_scalar(
                        "select (extract(epoch from at) * 1000)::bigint from holdfast_interactions
                         order by at desc offset $1 limit 1",
                    );
                    let query = query.bind(most - 1).persistent(sql.named());
                    query.fetch_optional(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query_scalar(
                        "select at from holdfast_interactions order by at desc limit 1 offset ?1",
                    );
                    query.bind(most - 1).fetch_optional(on).await?
                }
            };
            tx.commit().await?;
            Ok(at)
        })
        .await
    }

    /// The events that the newest `looked_at` interactions name most, dismissals aside; most named first.
    pub(crate) async fn most_named(&self, looked_at: usize, most: usize) -> Result<Vec<Ulid>, LedgerError> {
        let (looked_at, most) = (looked_at as i64, most as i64);
        let dismissed = Action::Dismiss.number();
        let sql = &self.0.sql;
        let ids: Vec<Uuid> = sql
            .within("see what is popular", async {
                let mut tx = sql.begin_read().await?;
                let ids = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let query = sqlx::query_scalar(
                            "select event_id from (
                                 select event_id, kind from holdfast_interactions order by at desc limit $1) as newest
                             join holdfast_events as e on e.id = event_id and e.starts_at > now() and e.cancelled_at is null
                             where kind <> $2 group by event_id order by count(*) desc, event_id limit $3",
                        );
                        let query = query.bind(looked_at).bind(dismissed).bind(most);
                        query.persistent(sql.named()).fetch_all(on).await?
                    }
                    LedgerTx::Sqlite(on) => {
                        let query = sqlx::query_scalar(
                            "select event_id from (
                                 select event_id, kind from holdfast_interactions order by at desc limit ?1) as newest
                             join holdfast_events as e on e.id = event_id and e.cancelled_at is null
                                 and e.starts_at > cast(unixepoch('subsec') * 1000 as integer)
                             where kind <> ?2 group by event_id order by count(*) desc, event_id limit ?3",
                        );
                        query.bind(looked_at).bind(dismissed).bind(most).fetch_all(on).await?
                    }
                };
                tx.commit().await?;
                Ok(ids)
            })
            .await?;
        Ok(ids.into_iter().map(|id| Ulid(id.as_u128())).collect())
    }
}
