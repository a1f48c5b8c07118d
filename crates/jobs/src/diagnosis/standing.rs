//! Why one job waits: the one place that says so, for `GET /v1/jobs/{id}/why`, the command line and the console.
//!
//! What decides is what a claim looks at: its time, the pause and the limits of its queue, the workers. So the answer is of one moment, and
//! a job without a reason to wait is taken by the next worker that looks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::{QueueLimits, Rate};
use holdfast_core::sql::dialect::{moment, on_either, rows};
use uuid::Uuid;

use crate::client::Jobs;
use crate::id::{JobId, WorkerId};
use crate::ledger::{JobRecord, LedgerError, WorkerRecord};
use crate::limits::{self, KeyOverride, KeyRule};
use crate::sql::now_ms;
use crate::state::State;

/// Jobs ahead of one are counted up to this.
pub const MAX_AHEAD: usize = 10_000;

/// Running jobs of a key that are named.
const NAMED_HOLDERS: usize = 10;

/// Running jobs of a key that are counted.
const MAX_HOLDERS: usize = 1_000;

/// Less than this part of a token is none.
const TOKEN_EPSILON: f64 = 1e-6;

/// Why a job does not end now.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WaitReason {
    #[error("it expired, and is cancelled with the next look at its queue")]
    Expired,
    #[error("it is due at {at}")]
    DueLater { at: DateTime<Utc> },
    #[error("its queue is paused")]
    QueuePaused,
    #[error("no living worker takes jobs of its queue and its kind")]
    NoWorker,
    /// Where, and which key.
    #[error("its payload cannot be decrypted: {place}")]
    PayloadSealed { place: String },
    #[error("{running} jobs of its queue run, and its limit is {limit}")]
    QueueLimit { running: u64, limit: u64 },
    #[error("its queue has started as many jobs as its rate allows; the next may start at {until}")]
    QueueRate { until: DateTime<Utc> },
    #[error("its limit key {key} is paused until {until}")]
    KeyPaused { key: String, until: DateTime<Utc> },
    #[error("{running} jobs of its key run, and the limit of the key is {limit}")]
    KeyLimit {
        running: u64,
        limit: u64,
        /// Some of those that run.
        holders: Vec<JobId>,
    },
    #[error(
        "as many jobs of its key have started as the rate for each key allows; the next may start at {until}"
    )]
    KeyRate { until: DateTime<Utc> },
    #[error("{} due jobs of its queue come first", at_most(*jobs))]
    JobsAhead { jobs: u64 },
    #[error("it is due, and the next worker that looks takes it")]
    Ready,
    #[error("it runs on the worker {worker}")]
    Runs { worker: WorkerId },
    #[error("its worker {worker} was not heard of for too long; it is returned to its queue soon")]
    WorkerLost { worker: WorkerId },
    #[error("it runs, and was asked to stop")]
    Stopping,
}

fn at_most(jobs: u64) -> String {
    if jobs > MAX_AHEAD as u64 {
        format!("more than {MAX_AHEAD}")
    } else {
        jobs.to_string()
    }
}

impl WaitReason {
    /// A stable name, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::DueLater { .. } => "due_later",
            Self::QueuePaused => "queue_paused",
            Self::NoWorker => "no_worker",
            Self::PayloadSealed { .. } => "payload_sealed",
            Self::QueueLimit { .. } => "queue_limit",
            Self::QueueRate { .. } => "queue_rate",
            Self::KeyPaused { .. } => "key_paused",
            Self::KeyLimit { .. } => "key_limit",
            Self::KeyRate { .. } => "key_rate",
            Self::JobsAhead { .. } => "jobs_ahead",
            Self::Ready => "ready",
            Self::Runs { .. } => "running",
            Self::WorkerLost { .. } => "worker_lost",
            Self::Stopping => "stopping",
        }
    }
}

/// A job and why it does not end now. Without reasons: it has ended.
#[derive(Debug)]
pub struct JobDiagnosis {
    pub job: JobRecord,
    /// The one that decides first.
    pub reasons: Vec<WaitReason>,
}

/// What the database says about the queue and the key of a job.
#[derive(Debug)]
struct QueueFacts {
    now_ms: i64,
    is_paused: bool,
    /// When the bucket of the queue is full again, and that of the key; in milliseconds since the epoch.
    queue_full_at: Option<i64>,
    key_full_at: Option<i64>,
    running: u64,
    /// Running jobs with the job's key, up to [`MAX_HOLDERS`].
    holders: Vec<JobId>,
    /// What holds for the job's key in place of the queue's limit for each key.
    key_override: Option<KeyOverride>,
    ahead: u64,
}

const QUEUE: &str = "select paused, cast(@ms(rate_full_at) as bigint) from holdfast_queues where name = $1";

const BUCKET: &str =
    "select cast(@ms(full_at) as bigint) from holdfast_limit_buckets where queue = $1 and key = $2";

const RUNNING: &str = "select count(*) from holdfast_jobs where state = 'running' and queue = $1";

const HOLDERS: &str = "select id from holdfast_jobs where state = 'running' and queue = $1 and limit_key = $2
    order by limit_key limit $3";

/// Due jobs of a more urgent priority, and those of the job's own before it. In the order of the index of claims: else PostgreSQL would
/// read all that wait.
const MORE_URGENT: &str = "select count(*) from (
    select id from holdfast_jobs where state = 'available' and queue = $1 and priority = $2 and run_at <= @now
    order by run_at, id limit $3) as ahead";

const BEFORE: &str = "select count(*) from (
    select id from holdfast_jobs
    where state = 'available' and queue = $1 and priority = $2 and run_at <= (select me.run_at from holdfast_jobs as me where me.id = $4)
      and (run_at, id) < ((select me.run_at from holdfast_jobs as me where me.id = $4), $4)
    order by run_at, id limit $3) as ahead";

impl Jobs {
    /// The job, and why it does not end now. `None`: unknown. A worker that was silent for `lost_after` is lost.
    pub async fn why(&self, id: JobId, lost_after: Duration) -> Result<Option<JobDiagnosis>, LedgerError> {
        let Some(job) = self.get(id).await? else {
            return Ok(None);
        };
        let reasons = match job.state {
            State::Completed | State::Discarded | State::Cancelled => Vec::new(),
            State::Running => vec![running(&job, &self.workers().await?, lost_after)],
            State::Scheduled | State::Available | State::Retryable => self.waits(&job, lost_after).await?,
        };
        Ok(Some(JobDiagnosis { job, reasons }))
    }

    async fn waits(&self, job: &JobRecord, lost_after: Duration) -> Result<Vec<WaitReason>, LedgerError> {
        let workers = self.workers().await?;
        let limits = self
            .limits()
            .all()
            .await?
            .get(&job.queue)
            .copied()
            .unwrap_or_default()
            .effective();
        let facts = self.queue_facts(job).await?;
        let sealed = self
            .opened(&job.kind, &job.payload)
            .err()
            .map(|failure| failure.to_string());
        let is_served = workers.iter().any(|worker| serves(worker, job, lost_after));
        Ok(reasons(job, &facts, limits, is_served, sealed))
    }

    async fn queue_facts(&self, job: &JobRecord) -> Result<QueueFacts, LedgerError> {
        let sql = self.sql();
        let (queue, key, named) = (job.queue.as_str(), job.limit_key.as_deref(), sql.named());
        sql.within("read why a job waits", async {
            let mut tx = sql.begin_read().await?;
            let now_ms = now_ms(tx.on(), named).await?;
            let row = on_either!(
                tx.on(),
                named,
                query_as::<(bool, Option<i64>)>(QUEUE),
                [queue],
                fetch_optional
            )?;
            let running = on_either!(
                tx.on(),
                named,
                query_as::<(i64,)>(RUNNING),
                [queue],
                fetch_optional
            )?;
            let mut ahead = 0;
            for level in 0..=job.priority.rank() {
                let most = rows(MAX_AHEAD + 1) - ahead;
                let row = if level < job.priority.rank() {
                    on_either!(
                        tx.on(),
                        named,
                        query_as::<(i64,)>(MORE_URGENT),
                        [queue, level, most],
                        fetch_optional
                    )?
                } else {
                    let id = job.id.as_uuid();
                    on_either!(
                        tx.on(),
                        named,
                        query_as::<(i64,)>(BEFORE),
                        [queue, level, most, id],
                        fetch_optional
                    )?
                };
                ahead += row.map_or(0, |(count,)| count);
            }
            let (mut key_full_at, mut holders, mut key_override) = (None, Vec::new(), None);
            if let Some(key) = key {
                key_override = limits::override_in(tx.on(), named, queue, key).await?;
                key_full_at = on_either!(
                    tx.on(),
                    named,
                    query_as::<(i64,)>(BUCKET),
                    [queue, key],
                    fetch_optional
                )?;
                let most = rows(MAX_HOLDERS);
                holders = on_either!(
                    tx.on(),
                    named,
                    query_as::<(Uuid,)>(HOLDERS),
                    [queue, key, most],
                    fetch_all
                )?;
            }
            tx.commit().await?;
            let (is_paused, queue_full_at) = row.unwrap_or_default();
            let count = |row: Option<(i64,)>| row.map_or(0, |(count,)| count.unsigned_abs());
            Ok(QueueFacts {
                now_ms,
                is_paused,
                queue_full_at,
                key_full_at: key_full_at.map(|(full_at,)| full_at),
                running: count(running),
                holders: holders.into_iter().map(|(id,)| JobId::from_uuid(id)).collect(),
                key_override,
                ahead: ahead.unsigned_abs(),
            })
        })
        .await
    }
}

fn is_lost(worker: &WorkerRecord, lost_after: Duration) -> bool {
    worker.seen_seconds_ago >= lost_after.as_secs_f64()
}

/// Whether a worker would take the job.
fn serves(worker: &WorkerRecord, job: &JobRecord, lost_after: Duration) -> bool {
    let takes_kind = |kinds: &std::collections::BTreeSet<String>| kinds.contains(&job.kind);
    let kinds = worker.client.as_ref().and_then(|client| client.kinds.as_ref());
    !is_lost(worker, lost_after)
        && !worker.draining
        && worker.queues.contains(&job.queue)
        && kinds.is_none_or(takes_kind)
}

fn running(job: &JobRecord, workers: &[WorkerRecord], lost_after: Duration) -> WaitReason {
    let worker = job.worker.unwrap_or_else(|| WorkerId::from_uuid(Uuid::nil()));
    // A process has several ids, and is listed under the newest: one that is not listed may run all the same.
    let row = workers.iter().find(|row| row.id == worker);
    if row.is_some_and(|row| is_lost(row, lost_after)) {
        WaitReason::WorkerLost { worker }
    } else if job.cancel_requested {
        WaitReason::Stopping
    } else {
        WaitReason::Runs { worker }
    }
}

fn reasons(
    job: &JobRecord,
    facts: &QueueFacts,
    limits: QueueLimits,
    is_served: bool,
    sealed: Option<String>,
) -> Vec<WaitReason> {
    let now = moment(facts.now_ms);
    let is_fresh = job.attempt == 0 && job.crashes == 0;
    let mut reasons = Vec::new();
    if is_fresh && job.expires_at.is_some_and(|at| at <= now) {
        reasons.push(WaitReason::Expired);
    }
    let is_due = job.run_at <= now;
    if !is_due {
        reasons.push(WaitReason::DueLater { at: job.run_at });
    }
    if facts.is_paused {
        reasons.push(WaitReason::QueuePaused);
    }
    if !is_served {
        reasons.push(WaitReason::NoWorker);
    }
    reasons.extend(sealed.map(|place| WaitReason::PayloadSealed { place }));
    if let Some(limit) = limits
        .max_running
        .map(u64::from)
        .filter(|limit| facts.running >= *limit)
    {
        reasons.push(WaitReason::QueueLimit {
            running: facts.running,
            limit,
        });
    }
    let until = |rate, full_at| next_token(rate, full_at, facts.now_ms);
    if let Some(until) = until(limits.rate, facts.queue_full_at) {
        reasons.push(WaitReason::QueueRate { until });
    }
    if let Some(key) = &job.limit_key {
        let running = facts.holders.len() as u64;
        let mut most = limits.key_max_running;
        match facts.key_override {
            Some(KeyOverride {
                rule: KeyRule::Paused,
                expires_at: until,
            }) => reasons.push(WaitReason::KeyPaused {
                key: key.clone(),
                until,
            }),
            Some(KeyOverride {
                rule: KeyRule::MaxRunning(own),
                ..
            }) => most = Some(own),
            None => {}
        }
        if let Some(limit) = most.map(u64::from).filter(|limit| running >= *limit) {
            reasons.push(WaitReason::KeyLimit {
                running,
                limit,
                holders: facts.holders.iter().copied().take(NAMED_HOLDERS).collect(),
            });
        }
        if let Some(until) = until(limits.key_rate, facts.key_full_at) {
            reasons.push(WaitReason::KeyRate { until });
        }
    }
    if is_due && facts.ahead > 0 {
        reasons.push(WaitReason::JobsAhead { jobs: facts.ahead });
    }
    if reasons.is_empty() {
        reasons.push(WaitReason::Ready);
    }
    reasons
}

/// When the next job may start, where none may now. A bucket is the time at which it is full again ([`crate::limits`]).
fn next_token(rate: Option<Rate>, full_at_ms: Option<i64>, now_ms: i64) -> Option<DateTime<Utc>> {
    let rate = rate?;
    let each = rate.millis_each();
    let whole = each * f64::from(rate.count);
    let debt = (full_at_ms? - now_ms).max(0) as f64;
    let wait = debt.min(whole) - (whole - each);
    (wait > each * TOKEN_EPSILON).then(|| moment(now_ms + wait.ceil() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_without_a_token_says_when_there_is_one() {
        let rate: Rate = "2/10s".parse().unwrap();
        let next = |full_at| next_token(Some(rate), full_at, 1_000).map(|at| at.timestamp_millis());
        assert_eq!(next(None), None);
        assert_eq!(next(Some(0)), None, "full");
        assert_eq!(next(Some(6_000)), None, "one of two");
        assert_eq!(next(Some(11_000)), Some(6_000), "empty");
        assert_eq!(next(Some(8_000)), Some(3_000), "a part of one");
        assert_eq!(next(Some(90_000)), Some(6_000), "never emptier than empty");
        assert_eq!(next_token(None, Some(11_000), 1_000), None);
    }
}
