//! Storing interactions, and reading those of one user.

use std::collections::HashSet;

use chrono::DateTime;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::Serialize;
use sqlx::{PgConnection, SqliteConnection};
use ulid::Ulid;
use uuid::Uuid;

use super::{Action, BATCH, Interaction, Interactions, UserInteraction};
use holdfast_product::UserName;

/// The result of storing interactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InteractionReport {
    /// New ones; the others were there.
    pub stored: u64,
    /// Events that do not exist: what names them was not stored.
    pub unknown: HashSet<Ulid>,
}

/// Locked against being pruned until the interactions are there.
const POSTGRES_KNOWN: &str =
    "select id from holdfast_events where id = any($1::uuid[]) order by id for key share";

const SQLITE_KNOWN: &str =
    "select id from holdfast_events where id in (select unhex(value) from json_each(?1))";

const POSTGRES_WRITE: &str = "
insert into holdfast_interactions (user_id, at, event_id, kind)
select user_id, 'epoch'::timestamptz + millis * interval '1 millisecond', event_id, kind
from unnest($1::text[], $2::bigint[], $3::uuid[], $4::smallint[]) as given (user_id, millis, event_id, kind)
order by user_id, millis, event_id, kind
on conflict do nothing";

const SQLITE_WRITE: &str = "
insert into holdfast_interactions (user_id, at, event_id, kind, received_at)
select value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, cast(unixepoch('subsec') * 1000 as integer)
from json_each(?1) where true
on conflict do nothing";

impl Interactions {
    /// Stores those whose event exists.
    pub async fn accept(&self, interactions: &[Interaction]) -> Result<InteractionReport, LedgerError> {
        let mut sum = InteractionReport::default();
        for batch in interactions.chunks(BATCH) {
            let accepted = self.accept_batch(batch).await?;
            sum.stored += accepted.stored;
            sum.unknown.extend(accepted.unknown);
        }
        Ok(sum)
    }

    async fn accept_batch(&self, batch: &[Interaction]) -> Result<InteractionReport, LedgerError> {
        let events: HashSet<Ulid> = batch.iter().map(|one| one.event).collect();
        let ids: Vec<_> = events.iter().map(|event| Uuid::from_u128(event.0)).collect();
        let sql = &self.0.sql;
        sql.within("store interactions", async {
            let mut tx = sql.begin().await?;
            let known: Vec<Uuid> = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query_scalar(POSTGRES_KNOWN).bind(&ids);
                    query.persistent(sql.named()).fetch_all(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let ids: Vec<_> = ids.iter().map(|id| id.simple().to_string()).collect();
                    let query = sqlx::query_scalar(SQLITE_KNOWN).bind(encoded(&ids)?);
                    query.fetch_all(on).await?
                }
            };
            let known: HashSet<_> = known.into_iter().map(|id| Ulid(id.as_u128())).collect();
            let good: Vec<_> = batch.iter().filter(|one| known.contains(&one.event)).collect();
            let stored = match tx.on() {
                LedgerTx::Postgres(on) => write_postgres(on, &good, sql.named()).await?,
                LedgerTx::Sqlite(on) => write_sqlite(on, &good).await?,
            };
            tx.commit().await?;
            Ok(InteractionReport {
                stored,
                unknown: events.difference(&known).copied().collect(),
            })
        })
        .await
    }

    /// The newest of what one user did, newest first.
    pub async fn of_user(&self, user: &UserName, limit: usize) -> Result<Vec<UserInteraction>, LedgerError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        let rows: Vec<(Uuid, i16, i64)> = sql
            .within("read a user's interactions", async {
                let mut tx = sql.begin_read().await?;
                let rows = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let query = sqlx::query_as(
                            "select event_id, kind, (extract(epoch from at) * 1000)::bigint from holdfast_interactions
                             where user_id = $1 order by at desc limit $2",
                        );
                        let query = query.bind(user.as_str()).bind(limit);
                        query.persistent(sql.named()).fetch_all(on).await?
                    }
                    LedgerTx::Sqlite(on) => {
                        let query = sqlx::query_as(
                            "select event_id, kind, at from holdfast_interactions
                             where user_id = ?1 order by at desc limit ?2",
                        );
                        query.bind(user.as_str()).bind(limit).fetch_all(on).await?
                    }
                };
                tx.commit().await?;
                Ok(rows)
            })
            .await?;
        rows.into_iter().map(done).collect()
    }
}

fn done((event, number, at): (Uuid, i16, i64)) -> Result<UserInteraction, LedgerError> {
    let action = Action::from_number(number)
        .ok_or_else(|| LedgerError::Corrupt(format!("{number} is no kind of interaction")))?;
    Ok(UserInteraction {
        event: Ulid(event.as_u128()),
        action,
        at: DateTime::from_timestamp_millis(at).unwrap_or_default(),
    })
}

async fn write_postgres(
    on: &mut PgConnection,
    rows: &[&Interaction],
    named: bool,
) -> Result<u64, sqlx::Error> {
    let users: Vec<_> = rows.iter().map(|one| one.user.as_str()).collect();
    let times: Vec<_> = rows.iter().map(|one| one.at.timestamp_millis()).collect();
    let events: Vec<_> = rows.iter().map(|one| Uuid::from_u128(one.event.0)).collect();
    let kinds: Vec<_> = rows.iter().map(|one| one.action.number()).collect();
    let query = sqlx::query(POSTGRES_WRITE)
        .bind(users)
        .bind(times)
        .bind(events)
        .bind(kinds);
    Ok(query.persistent(named).execute(on).await?.rows_affected())
}

async fn write_sqlite(on: &mut SqliteConnection, rows: &[&Interaction]) -> Result<u64, sqlx::Error> {
    let given: Vec<_> = rows
        .iter()
        .map(|one| {
            let event = Uuid::from_u128(one.event.0).simple().to_string();
            (
                one.user.as_str(),
                one.at.timestamp_millis(),
                event,
                one.action.number(),
            )
        })
        .collect();
    let query = sqlx::query(SQLITE_WRITE).bind(encoded(&given)?);
    Ok(query.execute(on).await?.rows_affected())
}

fn encoded(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}
