//! Sets of parts.
//!
//! # Invariants
//! - Parts come and go under the lock of their set's row, so `count` is the number of parts while none has expired.
//! - `next_expiry` is a lower bound: once it has passed, the expired parts are deleted and the others are counted before anything else
//!   is done with the set. So parts that a sweep deletes are not counted at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_core::sql::Tx;
use holdfast_core::sql::dialect::{millis, on_either, read_either, rows};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use sqlx::{PgConnection, SqliteConnection};

use crate::ResultsError;
use crate::documents::list as json_list;

/// Most parts of a set.
pub const MAX_PARTS: i64 = 100_000;

/// The set after parts were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedParts {
    pub count: i64,
    /// Those that were not there before.
    pub added: i64,
}

/// The set after parts were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeletedParts {
    pub count: i64,
    pub deleted: i64,
}

/// Some parts of a set, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartPage {
    pub parts: Vec<String>,
    /// Of the whole set.
    pub count: i64,
    /// There are more.
    pub more: bool,
}

/// Locks the row of the set, and makes it if need be. Whether parts may have expired.
const LOCK: &str = "
insert into holdfast_result_sets (id, count, next_expiry, expires_at) values ($1, 0, @now, @now)
on conflict (id) do update set count = holdfast_result_sets.count
returning case when next_expiry <= @now then 1 else 0 end";

const DELETE_EXPIRED: &str = "delete from holdfast_result_parts where set_id = $1 and expires_at <= @now";

const RECOUNT: &str = "
update holdfast_result_sets set
    count = (select count(*) from holdfast_result_parts where set_id = $1),
    next_expiry = coalesce((select min(expires_at) from holdfast_result_parts where set_id = $1), @now),
    expires_at = coalesce((select max(expires_at) from holdfast_result_parts where set_id = $1), @now)
where id = $1";

const POSTGRES_ADD: &str = "
with given as materialized (select part from unnest($2::text[]) as g(part)),
known as materialized (
    select count(*) as count from given join holdfast_result_parts as p on p.set_id = $1 and p.part = given.part),
put as (
    insert into holdfast_result_parts (set_id, part, expires_at)
    select $1, part, now() + $3 * interval '1 millisecond' from given
    on conflict (set_id, part) do update set expires_at = excluded.expires_at)
update holdfast_result_sets set
    count = count + (select count(*) from given) - (select count from known),
    next_expiry = least(case when next_expiry > now() then next_expiry end, now() + $3 * interval '1 millisecond'),
    expires_at = greatest(expires_at, now() + $3 * interval '1 millisecond')
where id = $1
returning count, (select count(*) from given) - (select count from known)";

const SQLITE_KNOWN: &str = "
select count(*) from holdfast_result_parts where set_id = ?1 and part in (select value from json_each(?2))";

const SQLITE_PUT: &str = "
insert into holdfast_result_parts (set_id, part, expires_at)
select ?1, value, cast(unixepoch('subsec') * 1000 as integer) + ?3 from json_each(?2) where true
on conflict (set_id, part) do update set expires_at = excluded.expires_at";

const SQLITE_COUNT: &str = "
update holdfast_result_sets set
    count = count + ?2,
    next_expiry = case when next_expiry > at then min(next_expiry, at + ?3) else at + ?3 end,
    expires_at = max(expires_at, at + ?3)
from (select cast(unixepoch('subsec') * 1000 as integer) as at)
where id = ?1
returning count";

/// Locks the set, and takes out of it what has expired.
async fn lock(mut on: Tx<'_>, named: bool, set: &str) -> Result<(), sqlx::Error> {
    let may_have_expired = on_either!(
        on.reborrow(),
        named,
        query_scalar::<i32>(LOCK),
        [set],
        fetch_optional
    )?;
    if may_have_expired == Some(1) {
        on_either!(on.reborrow(), named, query(DELETE_EXPIRED), [set], execute)?;
        on_either!(on.reborrow(), named, query(RECOUNT), [set], execute)?;
    }
    Ok(())
}

pub(crate) async fn add(
    sql: &Sql,
    set: &str,
    parts: &BTreeSet<String>,
    ttl: Duration,
) -> Result<AddedParts, ResultsError> {
    let added = sql.within("add parts of a result", async {
        let mut tx = sql.begin().await?;
        lock(tx.on(), sql.named(), set).await?;
        let added = match tx.on() {
            LedgerTx::Postgres(on) => add_postgres(on, set, parts, ttl, sql.named()).await?,
            LedgerTx::Sqlite(on) => add_sqlite(on, set, parts, ttl).await?,
        };
        // Dropped, the transaction has changed nothing.
        if added.count <= MAX_PARTS {
            tx.commit().await?;
        }
        Ok(added)
    });
    let added = added.await?;
    if added.count > MAX_PARTS {
        return Err(ResultsError::TooManyParts);
    }
    Ok(added)
}

async fn add_postgres(
    on: &mut PgConnection,
    set: &str,
    parts: &BTreeSet<String>,
    ttl: Duration,
    named: bool,
) -> Result<AddedParts, sqlx::Error> {
    let (count, added) = sqlx::query_as(POSTGRES_ADD)
        .bind(set)
        .bind(parts.iter().map(String::as_str).collect::<Vec<_>>())
        .bind(millis(ttl))
        .persistent(named)
        .fetch_one(on)
        .await?;
    Ok(AddedParts { count, added })
}

async fn add_sqlite(
    on: &mut SqliteConnection,
    set: &str,
    parts: &BTreeSet<String>,
    ttl: Duration,
) -> Result<AddedParts, sqlx::Error> {
    let given = json_list(parts.iter());
    let known: i64 = sqlx::query_scalar(SQLITE_KNOWN)
        .bind(set)
        .bind(&given)
        .fetch_one(&mut *on)
        .await?;
    sqlx::query(SQLITE_PUT)
        .bind(set)
        .bind(&given)
        .bind(millis(ttl))
        .execute(&mut *on)
        .await?;
    let added = rows(parts.len()) - known;
    let count = sqlx::query_scalar(SQLITE_COUNT)
        .bind(set)
        .bind(added)
        .bind(millis(ttl))
        .fetch_one(on)
        .await?;
    Ok(AddedParts { count, added })
}

pub(crate) async fn list(sql: &Sql, set: &str, after: &str, limit: usize) -> Result<PartPage, LedgerError> {
    let wanted = rows(limit + 1);
    let mut parts: Vec<String> = read_either!(
        sql,
        "list parts of a result",
        query_scalar::<String>(
            "select part from holdfast_result_parts
             where set_id = $1 and part > $2 and expires_at > @now order by part limit $3"
        ),
        [set, after, wanted],
        fetch_all
    )?;
    let count = read_either!(
        sql,
        "count parts of a result",
        query_scalar::<i64>(
            "select count(*) from holdfast_result_parts where set_id = $1 and expires_at > @now"
        ),
        [set],
        fetch_optional
    )?;
    let more = parts.len() > limit;
    parts.truncate(limit);
    let count = count.unwrap_or(0);
    Ok(PartPage { parts, count, more })
}

pub(crate) async fn delete(
    sql: &Sql,
    set: &str,
    parts: &BTreeSet<String>,
) -> Result<DeletedParts, LedgerError> {
    sql.within("delete parts of a result", async {
        let mut tx = sql.begin().await?;
        let exists = "select 1 from holdfast_result_sets where id = $1";
        if on_either!(
            tx.on(),
            sql.named(),
            query_scalar::<i32>(exists),
            [set],
            fetch_optional
        )?
        .is_none()
        {
            return Ok(DeletedParts::default());
        }
        lock(tx.on(), sql.named(), set).await?;
        let deleted = match tx.on() {
            LedgerTx::Postgres(on) => {
                sqlx::query("delete from holdfast_result_parts where set_id = $1 and part = any($2)")
                    .bind(set)
                    .bind(parts.iter().map(String::as_str).collect::<Vec<_>>())
                    .persistent(sql.named())
                    .execute(on)
                    .await?
                    .rows_affected()
            }
            LedgerTx::Sqlite(on) => sqlx::query(
                "delete from holdfast_result_parts
                 where set_id = ?1 and part in (select value from json_each(?2))",
            )
            .bind(set)
            .bind(json_list(parts.iter()))
            .execute(on)
            .await?
            .rows_affected(),
        };
        let deleted = i64::try_from(deleted).unwrap_or(i64::MAX);
        let subtract = "update holdfast_result_sets set count = count - $2 where id = $1 returning count";
        let count = on_either!(
            tx.on(),
            sql.named(),
            query_scalar::<i64>(subtract),
            [set, deleted],
            fetch_optional
        )?;
        tx.commit().await?;
        let count = count.unwrap_or(0);
        Ok(DeletedParts { count, deleted })
    })
    .await
}
