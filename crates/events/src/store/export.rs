//! Events as a training reads them: all that count, in pages.

use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use uuid::Uuid;

use super::Events;

/// Events of one page: with long descriptions that is some megabytes.
const PAGE: usize = 2_000;

/// How the store stands: a change of any event changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableChange {
    pub(crate) count: i64,
    /// Milliseconds since the epoch; 0 without any.
    pub(crate) changed: i64,
}

/// One event of a page.
#[derive(Debug)]
pub(crate) struct ForTraining {
    pub(crate) id: Ulid,
    /// Milliseconds since the epoch.
    pub(crate) starts_ms: i64,
    pub(crate) category: Option<String>,
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    /// Degrees.
    pub(crate) place: Option<(f64, f64)>,
}

type Row = (
    Uuid,
    i64,
    Option<String>,
    String,
    Option<String>,
    Option<f64>,
    Option<f64>,
);

impl From<Row> for ForTraining {
    fn from((id, starts_ms, category, title, description, lat, lon): Row) -> Self {
        Self {
            id: Ulid(id.as_u128()),
            starts_ms,
            category,
            title,
            description,
            place: lat.zip(lon),
        }
    }
}

const POSTGRES_PAGE: &str = "
select id, (extract(epoch from starts_at) * 1000)::bigint, category, title, description, lat, lon
from holdfast_events
where cancelled_at is null and ($1::bigint is null
    or (starts_at, id) < ('epoch'::timestamptz + $1 * interval '1 millisecond', $2))
order by starts_at desc, id desc limit $3";

const SQLITE_PAGE: &str = "
select id, starts_at, category, title, description, lat, lon from holdfast_events
where cancelled_at is null and (?1 is null or (starts_at, id) < (?1, ?2))
order by starts_at desc, id desc limit ?3";

impl Events {
    /// The next events that are not cancelled, latest start first.
    pub(crate) async fn training_page(
        &self,
        after: Option<(i64, Ulid)>,
    ) -> Result<Vec<ForTraining>, LedgerError> {
        let (at, id) = (
            after.map(|(at, _)| at),
            after.map(|(_, id)| Uuid::from_u128(id.0)),
        );
        let sql = &self.0.sql;
        sql.within("read events to learn from", async {
            let mut tx = sql.begin_read().await?;
            let page: Vec<Row> = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_as(POSTGRES_PAGE).bind(at).bind(id).bind(PAGE as i64);
                    query.persistent(sql.named()).fetch_all(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query_as(SQLITE_PAGE).bind(at).bind(id).bind(PAGE as i64);
                    query.fetch_all(on).await?
                }
            };
            tx.commit().await?;
            Ok(page.into_iter().map(ForTraining::from).collect())
        })
        .await
    }

    pub(crate) async fn standing(&self) -> Result<TableChange, LedgerError> {
        let sql = &self.0.sql;
        sql.within("see whether events have changed", async {
            let mut tx = sql.begin_read().await?;
            let (count, changed): (i64, i64) = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_as(
                        "select count(*), coalesce((extract(epoch from max(updated_at)) * 1000)::bigint, 0)
                         from holdfast_events",
                    );
                    query.persistent(sql.named()).fetch_one(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let query =
                        sqlx::query_as("select count(*), coalesce(max(updated_at), 0) from holdfast_events");
                    query.fetch_one(on).await?
                }
            };
            tx.commit().await?;
            Ok(TableChange { count, changed })
        })
        .await
    }
}
