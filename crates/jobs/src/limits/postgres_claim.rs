//! The limited claim on PostgreSQL: one message to the server, which takes the queue's lock, chooses, leases and commits
//! while it works on that message (`holdfast_claim_limited_2`, in the migrations). So no lock is held while the server
//! waits for this process. The message needs no prepared statement and no session, so it passes any pooler as it is.

use std::fmt::{Display, Write};
use std::io;
use std::time::Duration;

use holdfast_core::config::Rate;
use holdfast_core::sql::{Bounds, PostgresDatabase};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, FromRow, Row};
use uuid::Uuid;

use super::{
    CANDIDATES, ClaimRequest, KEYS, KnownLimits, LimitedClaim, NEXT_WALK, UNKEYED_WINDOW, WALKS, WIDE_WINDOW,
    decoded,
};
use crate::ledger::{ClaimedJob, MAX_STATEMENT_ROWS};
use crate::sql::millis;

/// Most bytes of an answer. They fit into the buffers of a connection, so the server sends all of them, and commits, even
/// if this process stands still. Details of jobs beyond that are read after the commit.
const MOST_BYTES: usize = 32 * 1024;

/// A claim that is told of other limits asks again with them. Limits that change faster than that give nothing for now.
const TRIES: usize = 3;

/// The names that a [`ClaimedJob`] is read by, in the order of the function's answer.
const JOB: &str = "id, kind, payload, attempt, crashes, max_attempts, timeout_ms, options, priority, run_at, snoozes, doubtful, \
                   batch_id";

/// What the server made of one message.
enum Answer {
    Claimed {
        claim: LimitedClaim,
        /// Leased too, with details that did not fit into the answer.
        unread: Vec<Uuid>,
    },
    /// Other limits are in force than those that the message named; nothing was taken.
    OtherLimits(KnownLimits),
}

/// Claims outside of any transaction of ours. `known`: the limits as they were told last.
pub(super) async fn claim(
    pool: &PostgresDatabase,
    asked: ClaimRequest<'_>,
    known: &mut Option<KnownLimits>,
) -> Result<LimitedClaim, sqlx::Error> {
    // The lock of the queue is waited for as long as any other.
    let bounds = pool.bounds_in_message(Bounds::SETTINGS);
    let mut on = pool.acquire().await?;
    for _ in 0..TRIES {
        let message = format!("{bounds}{}", call(asked, known.as_ref()));
        let rows = sqlx::raw_sql(AssertSqlSafe(message)).fetch_all(&mut *on).await?;
        match answer(&rows, known.as_ref())? {
            Answer::OtherLimits(limits) => *known = Some(limits),
            Answer::Claimed { mut claim, unread } => {
                if !unread.is_empty() {
                    claim
                        .jobs
                        .extend(details(&mut on, &bounds, asked, &unread).await?);
                    claim.jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
                }
                return Ok(claim);
            }
        }
    }
    Ok(LimitedClaim {
        limited: true,
        again_in: Some(NEXT_WALK),
        ..LimitedClaim::default()
    })
}

fn call(asked: ClaimRequest<'_>, known: Option<&KnownLimits>) -> String {
    let limits = known.map(|known| known.limits).unwrap_or_default();
    let mut sql = format!(
        "select * from holdfast_claim_limited_2(of_queue => {}, by_worker => '{}', wanted => {}, lost_after_ms => {}",
        text(asked.queue),
        asked.worker.as_uuid(),
        asked.room.min(MAX_STATEMENT_ROWS),
        millis(asked.lost_after),
    );
    let mut name = |parameter: &str, value: &dyn Display| {
        // Writing to a text cannot fail.
        write!(sql, ", {parameter} => {value}").ok();
    };
    name("believed", &or_null(known.map(|known| text(&known.text))));
    name("max_running", &or_null(limits.max_running));
    name("rate_count", &or_null(limits.rate.map(|rate| rate.count)));
    name("rate_each_ms", &or_null(limits.rate.map(Rate::millis_each)));
    name("key_max_running", &or_null(limits.key_max_running));
    name("key_rate_count", &or_null(limits.key_rate.map(|rate| rate.count)));
    name("key_each_ms", &or_null(limits.key_rate.map(Rate::millis_each)));
    name("most_keys", &KEYS);
    name("most_walks", &WALKS);
    name("next_walk_ms", &NEXT_WALK.as_millis());
    name("unkeyed_window", &UNKEYED_WINDOW);
    name("wide_window", &WIDE_WINDOW);
    name("most_candidates", &CANDIDATES);
    name("most_bytes", &MOST_BYTES);
    write!(sql, ") as claimed (limited, limits, again_ms, {JOB})").ok();
    sql
}

fn or_null(value: Option<impl Display>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

/// A text as SQL that holds nothing but digits of it, whatever is in it.
fn text(text: &str) -> String {
    let mut hex = String::with_capacity(text.len() * 2);
    for byte in text.as_bytes() {
        write!(hex, "{byte:02x}").ok();
    }
    // Without the last word it would compare as `convert_from` was told to, and not as columns do.
    format!("convert_from(decode('{hex}', 'hex'), 'UTF8') collate \"default\"")
}

fn answer(rows: &[PgRow], known: Option<&KnownLimits>) -> Result<Answer, sqlx::Error> {
    let mut claim = LimitedClaim::default();
    let mut unread = Vec::new();
    for row in rows {
        match (row.try_get("id")?, row.try_get::<Option<&str>, _>("kind")?) {
            (None::<Uuid>, _) => {
                claim.limited = row.try_get("limited")?;
                let again_ms: Option<f64> = row.try_get("again_ms")?;
                claim.again_in = again_ms.map(|millis| Duration::from_secs_f64(millis.max(1.0) / 1_000.0));
                let text: Option<String> = row.try_get("limits")?;
                if let Some(text) = text.filter(|text| known.is_none_or(|known| known.text != *text)) {
                    let limits = decoded(Some(&text))?.unwrap_or_default();
                    return Ok(Answer::OtherLimits(KnownLimits { text, limits }));
                }
            }
            (Some(id), None) => unread.push(id),
            (Some(_), Some(_)) => claim.jobs.push(ClaimedJob::from_row(row)?),
        }
    }
    Ok(Answer::Claimed { claim, unread })
}

/// Reads what did not fit. A failure says nothing about the claim, which has been applied: it counts as one whose
/// answer was lost.
async fn details(
    on: &mut PgConnection,
    bounds: &str,
    asked: ClaimRequest<'_>,
    ids: &[Uuid],
) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let message = format!(
        "{bounds}select id, kind, payload::text as payload, attempt, crashes, max_attempts, timeout_ms, \
         options::text as options, priority, run_at, snoozes, doubtful, batch_id \
         from holdfast_jobs where id = any ('{{{}}}'::uuid[]) and state || '' = 'running' and worker = '{}'",
        ids.join(","),
        asked.worker.as_uuid(),
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(message))
        .fetch_all(on)
        .await
        .map_err(|source| sqlx::Error::Io(io::Error::other(source)))?;
    rows.iter().map(ClaimedJob::from_row).collect()
}
