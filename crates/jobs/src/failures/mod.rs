//! Dead letters, grouped by what they failed of.
//!
//! # Invariants
//! - A dead letter gets its fingerprint in the statement that discards it. One that has none (it was discarded after crashes, or by an
//!   older version, or came from the broker) is given it by the pruner of any worker ([`Jobs::fill_fingerprints`]).
//! - Reading is bounded: groups are found one after another in the index, each is counted up to [`COUNT_CAP`], and no error is read but
//!   that of each group's sample.

mod fill;
mod fingerprint;

use chrono::{DateTime, Utc};
use holdfast_core::sql::Tx as LedgerTx;
use holdfast_core::sql::dialect::{moment, on_either, rows};
use uuid::Uuid;

pub use self::fingerprint::{fingerprint, is_fingerprint, normalized};
use crate::client::Jobs;
use crate::id::JobId;
use crate::ledger::{ErrorRecord, LedgerError};
use crate::sql::{Sql, now_ms};

/// Groups that are looked for. Of more, some are not seen.
pub const MAX_GROUPS: usize = 1_000;

/// Dead letters of a group that are counted.
pub const COUNT_CAP: u64 = 10_000;

/// Hours of [`FailureGroup::recent`].
pub const RECENT_HOURS: usize = 24;

/// Dead letters of a group that are named.
pub const MAX_SAMPLES: usize = 20;

const HOUR_MS: i64 = 3_600_000;

/// Dead letters with one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    pub fingerprint: String,
    pub kind: String,
    /// Of the newest one.
    pub queue: String,
    /// Of the error: `permanent`, `transient`, `timeout`, `panic`, `crash`, …
    pub class: String,
    /// Without what differs from job to job.
    pub message: String,
    /// Up to [`COUNT_CAP`].
    pub count: u64,
    /// There are more than `count`.
    pub is_capped: bool,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// How many were discarded in each of the last hours, the oldest first. Of a capped group some may be missing.
    pub recent: [u64; RECENT_HOURS],
    /// The newest first.
    pub samples: Vec<JobId>,
}

/// Some groups, those that failed last first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureList {
    pub groups: Vec<FailureGroup>,
    pub has_more: bool,
}

/// One after another, so that no group's size matters.
const GROUPS: &str = "with recursive prints (print) as (
        select min(fingerprint) from holdfast_jobs where state = 'discarded' and fingerprint is not null
        union all
        select (select min(fingerprint) from holdfast_jobs where state = 'discarded' and fingerprint > prints.print)
        from prints where prints.print is not null)
    select print, @ms(newest) from (
        select print,
            (select max(finished_at) from holdfast_jobs where state = 'discarded' and fingerprint = prints.print) as newest
        from prints where print is not null limit $1) as found
    order by newest desc, print";

const SPAN: &str = "select @ms(oldest), @ms(newest) from (
        select min(finished_at) as oldest, max(finished_at) as newest from holdfast_jobs
        where state = 'discarded' and fingerprint = $1) as found";

const HOURS: &str =
    "select case when finished_at < @at($2) then -1 else (@ms(finished_at) - $2) / $3 end as hour, count(*)
    from (select finished_at from holdfast_jobs where state = 'discarded' and fingerprint = $1
          order by finished_at desc limit $4) as found
    group by 1";

const SAMPLES: &str = "select id, kind, queue, @last(errors) from holdfast_jobs
    where state = 'discarded' and fingerprint = $1 order by finished_at desc limit $2";

impl Jobs {
    /// Groups of dead letters, `most` at most.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn failures(&self, most: usize) -> Result<FailureList, LedgerError> {
        let sql = self.sql();
        let read = sql.within("list failures", async {
            let mut tx = sql.begin_read().await?;
            let limit = rows(MAX_GROUPS);
            let prints = on_either!(
                tx.on(),
                sql.named,
                query_as::<(String, i64)>(GROUPS),
                [limit],
                fetch_all
            )?;
            let now = now_ms(tx.on(), sql.named).await?;
            let mut groups = Vec::with_capacity(most.min(prints.len()));
            for (print, _) in prints.iter().take(most) {
                groups.extend(group(tx.on(), sql, print, now).await?);
            }
            tx.commit().await?;
            Ok(FailureList {
                groups,
                has_more: prints.len() > most,
            })
        });
        read.await
    }

    /// One group; `None`: no dead letter has this fingerprint.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn failure(&self, fingerprint: &str) -> Result<Option<FailureGroup>, LedgerError> {
        let sql = self.sql();
        let read = sql.within("read a failure", async {
            let mut tx = sql.begin_read().await?;
            let now = now_ms(tx.on(), sql.named).await?;
            let found = group(tx.on(), sql, fingerprint, now).await?;
            tx.commit().await?;
            Ok(found)
        });
        read.await
    }
}

async fn group(
    mut on: LedgerTx<'_>,
    sql: &Sql,
    print: &str,
    now: i64,
) -> Result<Option<FailureGroup>, sqlx::Error> {
    type SampleRow = (Uuid, String, String, Option<String>);
    let limit = rows(MAX_SAMPLES);
    let samples = on_either!(
        on.reborrow(),
        sql.named,
        query_as::<SampleRow>(SAMPLES),
        [print, limit],
        fetch_all
    )?;
    let Some((_, kind, queue, error)) = samples.first() else {
        return Ok(None);
    };
    let span = on_either!(
        on.reborrow(),
        sql.named,
        query_as::<(Option<i64>, Option<i64>)>(SPAN),
        [print],
        fetch_optional
    )?;
    let hours = RECENT_HOURS as i64;
    // One more than is told, to know whether there are more.
    let (start, cap) = (now - hours * HOUR_MS, rows(COUNT_CAP as usize) + 1);
    let counts = on_either!(
        on,
        sql.named,
        query_as::<(i64, i64)>(HOURS),
        [print, start, HOUR_MS, cap],
        fetch_all
    )?;
    let mut recent = [0; RECENT_HOURS];
    let mut count = 0;
    for (hour, discarded) in counts {
        count += discarded.unsigned_abs();
        // Discarded a moment after the time was read.
        let hour = hour.min(hours - 1);
        if let Some(place) = usize::try_from(hour).ok().and_then(|hour| recent.get_mut(hour)) {
            *place += discarded.unsigned_abs();
        }
    }
    let error = error
        .as_deref()
        .and_then(|text| serde_json::from_str::<ErrorRecord>(text).ok());
    let (class, message) = error.map_or_else(
        || (fill::UNKNOWN.to_owned(), String::new()),
        |error| (error.class.into_owned(), normalized(&error.message)),
    );
    let (first, last) = span.unwrap_or_default();
    Ok(Some(FailureGroup {
        fingerprint: print.to_owned(),
        kind: kind.clone(),
        queue: queue.clone(),
        class,
        message,
        count: count.min(COUNT_CAP),
        is_capped: count > COUNT_CAP,
        first_at: moment(first.unwrap_or_default()),
        last_at: moment(last.unwrap_or_default()),
        recent,
        samples: samples.iter().map(|(id, ..)| JobId::from_uuid(*id)).collect(),
    }))
}
