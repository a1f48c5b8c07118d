//! Following a job or a batch from outside: reading a job wherever it lives, and waiting for an end.
//!
//! All waiters of a process share one poll every [`POLL_EVERY`], whatever their number: one statement for each
//! [`POLL_IDS`] jobs and batches in the ledger, and one pipeline for each [`POLL_IDS`] jobs of a queue on the broker. The
//! polls of the ledger and of the broker run concurrently, so that neither waits for the other when it is slow. A waiter
//! reads its job twice: when it begins to wait, and when the poll reports that the job has ended or has left the broker.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_core::waiters::{Waiter, Waiters};
use tokio::time::Instant;

use crate::batches;
use crate::broker::{Broker, BrokerRecord, EndState, Place, Resolution};
use crate::id::{BatchId, JobId};
use crate::ledger::{CancelReply, ErrorRecord, JobRecord, Ledger, LedgerError, Priority, QueueStats};
use crate::sql::Sql;
use crate::state::State;

/// Pause between two shared polls while anyone waits.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Ids of one statement or pipeline.
const POLL_IDS: usize = 1_000;

type Board = Waiters<Followable>;

#[derive(Debug)]
pub(crate) struct WaitHub {
    ledger: Arc<dyn Ledger>,
    broker: Option<Broker>,
    redis_queues: Arc<[String]>,
    board: Arc<Board>,
}

/// Whose end may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Followable {
    /// A job in the ledger.
    Job(JobId),
    Batch(BatchId),
    /// A job on the broker, until it ends there or moves to the ledger. `queue` is a place in [`WaitHub`]'s `redis_queues`.
    BrokerJob {
        queue: usize,
        id: JobId,
    },
}

/// A job, and where it was found.
struct LocatedJob {
    record: JobRecord,
    /// On the broker: the place of its queue in `redis_queues`.
    broker_queue: Option<usize>,
}

impl WaitHub {
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        sql: Sql,
        broker: Option<Broker>,
        redis_queues: Vec<String>,
    ) -> Self {
        let board = Arc::new(Board::default());
        let redis_queues: Arc<[String]> = redis_queues.into();
        let poller = Poller {
            ledger: Arc::clone(&ledger),
            sql,
            broker: broker.clone(),
            redis_queues: Arc::clone(&redis_queues),
        };
        tokio::spawn(run_poller(Arc::downgrade(&board), poller));
        Self {
            ledger,
            broker,
            redis_queues,
            board,
        }
    }

    pub(crate) async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        Ok(self.find(id).await?.map(|found| found.record))
    }

    async fn find(&self, id: JobId) -> Result<Option<LocatedJob>, LedgerError> {
        let in_ledger = |record| LocatedJob {
            record,
            broker_queue: None,
        };
        let found = self.ledger.get(id).await;
        if let Ok(Some(record)) = found {
            return Ok(Some(in_ledger(record)));
        }
        if self.broker.is_none() || self.redis_queues.is_empty() {
            return Ok(found?.map(in_ledger));
        }
        match self.find_on_broker(id).await {
            Some(found) => Ok(Some(found)),
            // A job that failed between the two reads has moved to the ledger.
            None => Ok(self.ledger.get(id).await?.map(in_ledger)),
        }
    }

    async fn find_on_broker(&self, id: JobId) -> Option<LocatedJob> {
        let broker = self.broker.as_ref()?;
        for (place, queue) in self.redis_queues.iter().enumerate() {
            match broker.job(queue, id).await {
                Ok(Some(record)) => {
                    return Some(LocatedJob {
                        record: job_record(queue, record),
                        broker_queue: Some(place),
                    });
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(queue, error = %error, "cannot ask the broker for a job"),
            }
        }
        None
    }

    pub(crate) async fn wait(&self, id: JobId, limit: Duration) -> Result<Option<JobRecord>, LedgerError> {
        let deadline = Instant::now() + limit;
        let mut followed = Followable::Job(id);
        loop {
            // Joined before the job is read, so that an end in between is reported.
            let ended = self.join(followed);
            let Some(found) = self.find(id).await? else {
                return Ok(None);
            };
            if found.record.state.is_final() || Instant::now() >= deadline {
                return Ok(Some(found.record));
            }
            let place = match found.broker_queue {
                Some(queue) => Followable::BrokerJob { queue, id },
                None => Followable::Job(id),
            };
            if place != followed {
                followed = place;
                continue;
            }
            tokio::select! {
                () = ended.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Is notified once it has ended, at most a poll later.
    pub(crate) fn join(&self, id: Followable) -> Waiter {
        self.board.join([(id, ())])
    }

    pub(crate) async fn cancel_on_broker(&self, id: JobId) -> Option<CancelReply> {
        let broker = self.broker.as_ref()?;
        for queue in self.redis_queues.iter() {
            match broker.cancel(queue, id).await {
                Ok(Resolution::Removed) => return Some(CancelReply::Cancelled),
                Ok(Resolution::Running) => return Some(CancelReply::Requested),
                Ok(Resolution::Done) => {
                    let state = self
                        .find_on_broker(id)
                        .await
                        .map_or(State::Completed, |found| found.record.state);
                    return Some(CancelReply::AlreadyFinal(state));
                }
                Ok(Resolution::Unknown) => {}
                Err(error) => tracing::debug!(queue, error = %error, "cannot cancel on the broker"),
            }
        }
        None
    }

    /// Adds what waits and runs on the broker to the ledger's counts.
    pub(crate) async fn add_broker_depths(&self, stats: &mut BTreeMap<String, QueueStats>) {
        let Some(broker) = &self.broker else { return };
        for queue in self.redis_queues.iter() {
            let Ok(depth) = broker.depth(queue).await else {
                continue;
            };
            let entry = stats.entry(queue.clone()).or_insert_with(|| QueueStats {
                queue: queue.clone(),
                ..QueueStats::default()
            });
            entry.available += depth.active;
            entry.scheduled += depth.scheduled;
            entry.running += depth.inflight;
            let oldest = depth.oldest_age.map_or(0.0, |age| age.as_secs_f64());
            entry.oldest_age_seconds = entry.oldest_age_seconds.max(oldest);
        }
    }
}

/// What the shared poll reads from.
struct Poller {
    ledger: Arc<dyn Ledger>,
    sql: Sql,
    broker: Option<Broker>,
    redis_queues: Arc<[String]>,
}

/// Polls while anyone waits; ends with the hub.
async fn run_poller(board: Weak<Board>, poller: Poller) {
    loop {
        let Some(strong) = board.upgrade() else { return };
        let wanted = strong.wanted();
        if wanted.is_empty() {
            // Wakes now and then to see whether the hub is gone.
            let _ = tokio::time::timeout(Duration::from_secs(1), strong.joined()).await;
            continue;
        }
        poller.poll(&strong, wanted).await;
        drop(strong);
        tokio::time::sleep(POLL_EVERY).await;
    }
}

impl Poller {
    async fn poll(&self, board: &Board, wanted: Vec<(Followable, ())>) {
        let (mut jobs, mut batches) = (Vec::new(), Vec::new());
        let mut on_broker = vec![Vec::new(); self.redis_queues.len()];
        for (followed, ()) in wanted {
            match followed {
                Followable::Job(id) => jobs.push(id),
                Followable::Batch(id) => batches.push(id),
                Followable::BrokerJob { queue, id } => on_broker[queue].push(id),
            }
        }
        tokio::join!(
            self.poll_jobs(board, &jobs),
            self.poll_batches(board, &batches),
            self.poll_broker(board, &on_broker),
        );
    }

    async fn poll_jobs(&self, board: &Board, jobs: &[JobId]) {
        for ids in jobs.chunks(POLL_IDS) {
            match self.ledger.final_among(ids).await {
                Ok(ended) => board.notify(ended.into_iter().map(Followable::Job)),
                Err(error) => tracing::debug!(error = ?error, "cannot poll for finished jobs"),
            }
        }
    }

    async fn poll_batches(&self, board: &Board, batches: &[BatchId]) {
        for ids in batches.chunks(POLL_IDS) {
            match ended_batches(&self.sql, ids).await {
                Ok(ended) => board.notify(ended.into_iter().map(Followable::Batch)),
                Err(error) => tracing::debug!(error = ?error, "cannot poll for ended batches"),
            }
        }
    }

    async fn poll_broker(&self, board: &Board, on_broker: &[Vec<JobId>]) {
        let Some(broker) = &self.broker else { return };
        for (place, jobs) in on_broker.iter().enumerate() {
            for ids in jobs.chunks(POLL_IDS) {
                match broker.gone_among(&self.redis_queues[place], ids).await {
                    Ok(gone) => {
                        board.notify(
                            gone.into_iter()
                                .map(|id| Followable::BrokerJob { queue: place, id }),
                        );
                    }
                    Err(error) => {
                        tracing::debug!(error = %error, "cannot poll the broker for jobs that ended");
                    }
                }
            }
        }
    }
}

async fn ended_batches(sql: &Sql, ids: &[BatchId]) -> Result<Vec<BatchId>, LedgerError> {
    sql.within("look for ended batches", async {
        let mut tx = sql.begin_read().await?;
        let ended = batches::read::ended(tx.on(), ids, sql.named).await?;
        tx.commit().await?;
        Ok(ended)
    })
    .await
}

fn job_record(queue: &str, record: BrokerRecord) -> JobRecord {
    let created = chrono::DateTime::from_timestamp_millis(i64::try_from(record.id.created_ms()).unwrap_or(0))
        .unwrap_or_default();
    let envelope = record.envelope;
    let max_attempts = envelope
        .as_ref()
        .and_then(|envelope| envelope.max_attempts)
        .unwrap_or(1);
    let timeout_ms = envelope
        .as_ref()
        .and_then(|envelope| envelope.timeout_ms)
        .unwrap_or(0);
    let kind = record
        .kind
        .or_else(|| envelope.as_ref().map(|envelope| envelope.kind.clone()));
    let mut seen = JobRecord {
        id: record.id,
        kind: kind.unwrap_or_default(),
        queue: queue.to_owned(),
        state: State::Available,
        priority: Priority::Normal,
        payload: envelope.map_or_else(
            || serde_json::value::RawValue::NULL.to_owned(),
            |envelope| envelope.payload,
        ),
        attempt: 0,
        max_attempts,
        crashes: record.crashes,
        timeout_seconds: timeout_ms as f64 / 1_000.0,
        unique_key: None,
        limit_key: None,
        run_at: created,
        created_at: created,
        started_at: None,
        finished_at: None,
        result: None,
        progress: None,
        errors: Vec::new(),
        worker: None,
        cancel_requested: false,
        // What hangs on other jobs is in the ledger.
        batch: None,
        then: None,
        child: None,
        parent: None,
        callback_of: None,
        expires_at: None,
        tags: Vec::new(),
        enqueued_by: None,
    };
    match record.place {
        Place::Waiting => {}
        Place::Running { worker } => {
            seen.state = State::Running;
            seen.worker = worker;
        }
        Place::Ended {
            outcome,
            attempts,
            result,
            error,
            at,
        } => {
            seen.state = match outcome {
                EndState::Completed => State::Completed,
                EndState::Cancelled => State::Cancelled,
                EndState::Discarded => State::Discarded,
            };
            seen.attempt = attempts;
            seen.result = result;
            seen.finished_at = at;
            seen.errors = error
                .map(|message| ErrorRecord::new(at.unwrap_or(created), attempts, "permanent", &message, ""))
                .into_iter()
                .collect();
        }
    }
    seen
}
