//! Searches for jobs of the ledger: by what a row's columns say, and by what is in its payload and its errors.
//!
//! # How far one call goes
//! There is no index on kinds or payloads: every insert and every outcome would pay for it. So a search walks the jobs by id, the newest
//! first, in windows of some thousand rows, and ends a call after [`CALL_TIME`] or [`CALL_ROWS`] rows. Its answer says how far it has
//! come, and the next call continues there. Where a partial index has every match and is small (what runs, what waits in a queue, a
//! batch), it is read in place of the walk.
//!
//! # Invariants
//! - Statements have the conditions that were asked for alone ([`statement`]); values are bound.
//! - Contents are held against what the caller is shown ([`contents`]): a search cannot tell what a page would hide.
//! - A call holds [`walk::WINDOW_BYTES`] of payloads, one row of them at a time.
//!
//! # When things fail
//! A search only reads. One that fails may be repeated with the same cursor.

mod contents;
mod counts;
mod grammar;
mod query;
mod statement;
mod summary;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

pub use self::counts::{Certainty, CountBy, CountedJobs, GroupCount, MAX_GROUPS};
pub use self::grammar::{MAX_QUERY_BYTES, MAX_TERMS, MAX_VALUES, TermFault};
pub use self::query::JobQuery;
pub use self::summary::JobSummary;

use self::walk::Walk;
use crate::LedgerTx;
use crate::client::Jobs;
use crate::id::JobId;
use crate::ledger::{JobFilter, JobRecord, LedgerError, POSTGRES_RECORD, SQLITE_RECORD, records};
use crate::marks::sealed;
use crate::sql::{Sql, hex_ids};

/// A call begins no further window after this long.
pub const CALL_TIME: Duration = Duration::from_millis(150);

/// Rows that one call looks at, at most.
pub const CALL_ROWS: usize = 20_000;

/// What a caller is shown of a payload; `None`: all of it.
pub type ShownPayload = Arc<dyn Fn(&str, &RawValue) -> Option<Box<RawValue>> + Send + Sync>;

/// Opens what is encrypted of a stored payload; `None`: nothing is.
type OpenedPayload<'a> = &'a (dyn Fn(&str, &str) -> Option<String> + Send + Sync);

/// Which way a search goes from a job, which it leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchFrom {
    /// The newest jobs, and older ones.
    Newest,
    OlderThan(JobId),
    NewerThan(JobId),
}

/// One call of a search.
#[derive(Clone)]
pub struct JobSearch {
    pub query: JobQuery,
    pub from: SearchFrom,
    /// Most jobs of the answer.
    pub limit: usize,
    /// `None`: the caller is shown payloads as they are.
    pub shown: Option<ShownPayload>,
}

impl std::fmt::Debug for JobSearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            query, from, limit, ..
        } = self;
        write!(
            f,
            "JobSearch {{ query: {query:?}, from: {from:?}, limit: {limit} }}"
        )
    }
}

/// How far a call has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundJobs {
    /// In the direction of the search.
    pub ids: Vec<JobId>,
    /// Where the next call continues; `None`: the search is complete.
    pub next: Option<JobId>,
    /// Rows that this call has looked at.
    pub searched: u64,
    /// About how many rows the whole search looks at; `None`: unknown.
    pub of: Option<u64>,
}

impl Jobs {
    /// Looks for jobs of the ledger, as far as one call goes.
    pub async fn search(&self, search: &JobSearch) -> Result<FoundJobs, LedgerError> {
        let opened = |kind: &str, payload: &str| self.opened_text(kind, payload);
        let mut walk = Walk::new(self.sql(), search, &opened, true);
        walk.run().await?;
        Ok(walk.found)
    }

    /// How many jobs of the ledger match, as far as one call goes. The search's page and its direction do not matter.
    pub async fn count_jobs(&self, search: &JobSearch, by: CountBy) -> Result<CountedJobs, LedgerError> {
        let opened = |kind: &str, payload: &str| self.opened_text(kind, payload);
        let mut walk = Walk::new(self.sql(), search, &opened, true).counting(by);
        walk.run().await?;
        let is_complete = walk.found.next.is_none();
        let counted = CountedJobs::of_walk(walk.groups, walk.found.searched, walk.found.of, is_complete);
        if by != CountBy::State || !search.query.is_empty() || is_complete {
            return Ok(counted);
        }
        Ok(counted.with_queue_stats(&self.ledger_counts().await?))
    }

    /// These jobs of the ledger, in this order; those that are gone are left out.
    pub async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRecord>, LedgerError> {
        let found = read(self.sql(), ids).await?;
        Ok(self.readable_records(found))
    }

    /// The same, without payloads, results and all errors but the last.
    pub async fn summaries(&self, ids: &[JobId]) -> Result<Vec<JobSummary>, LedgerError> {
        let found = summary::read(self.sql(), ids).await?;
        Ok(in_order(ids, found, |summary| summary.id))
    }

    /// A stored payload with its encrypted fields opened; `None`: it is as it is stored.
    fn opened_text(&self, kind: &str, payload: &str) -> Option<String> {
        let payload = sealed::may_hold_sealed(payload).then(|| payload.to_owned())?;
        let payload = RawValue::from_string(payload).ok()?;
        Some(self.opened(kind, &payload).ok().flatten()?.get().to_owned())
    }
}

/// Every match up to the filter's limit, however long it takes.
pub async fn list(sql: &Sql, filter: &JobFilter) -> Result<Vec<JobRecord>, LedgerError> {
    let search = JobSearch {
        query: filter.into(),
        from: filter.after.map_or(SearchFrom::Newest, SearchFrom::OlderThan),
        limit: filter.limit,
        shown: None,
    };
    let mut walk = Walk::new(sql, &search, &|_, _| None, false);
    walk.run().await?;
    read(sql, &walk.found.ids).await
}

/// The jobs with these ids, in their order; those that are gone are left out.
async fn read(sql: &Sql, ids: &[JobId]) -> Result<Vec<JobRecord>, LedgerError> {
    let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let read = sql.within("read jobs", async {
        let mut tx = sql.begin_read().await?;
        let found = match tx.on() {
            LedgerTx::Postgres(on) => {
                let text = format!("{POSTGRES_RECORD} where id = any($1)");
                let query = sqlx::query(AssertSqlSafe(text))
                    .bind(&uuids)
                    .persistent(sql.named);
                records(&query.fetch_all(on).await?)
            }
            LedgerTx::Sqlite(on) => {
                let text = format!("{SQLITE_RECORD} where id in (select unhex(value) from json_each(?1))");
                let query = sqlx::query(AssertSqlSafe(text)).bind(hex_ids(&uuids));
                records(&query.fetch_all(on).await?)
            }
        };
        tx.commit().await?;
        Ok(found)
    });
    Ok(in_order(ids, read.await?, |record| record.id))
}

fn in_order<T>(ids: &[JobId], mut found: Vec<T>, id_of: impl Fn(&T) -> JobId) -> Vec<T> {
    let places: std::collections::HashMap<JobId, usize> =
        ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    found.sort_by_key(|one| places.get(&id_of(one)).copied());
    found
}
