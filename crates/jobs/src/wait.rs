//! Following a job or a batch from outside: reading a job wherever it lives, and waiting for an end.
//!
//! All waiters of a process share one look at the ledger every [`LOOK_EVERY`], whatever their number.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::batches;
use crate::broker::{Broker, BrokerRecord, Ended, Place, Resolved};
use crate::id::{BatchId, JobId};
use crate::ledger::{CancelReply, ErrorRecord, JobRecord, Ledger, LedgerError, Priority, QueueStats};
use crate::sql::Sql;
use crate::state::State;

/// The pace of the shared look while anyone waits.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Ids of one look; more waiters take turns.
const LOOK_IDS: usize = 1_000;

/// How often a waiter for a broker job looks by itself.
const BROKER_LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct WaitHub {
    ledger: Arc<dyn Ledger>,
    broker: Option<Broker>,
    redis_queues: Vec<String>,
    board: Arc<Board>,
}

/// Whose end may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Followable {
    Job(JobId),
    Batch(BatchId),
}

#[derive(Debug, Default)]
struct Board {
    waiting: Mutex<HashMap<Followable, Vec<oneshot::Sender<()>>>>,
    joined: Notify,
}

impl WaitHub {
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        sql: Sql,
        broker: Option<Broker>,
        redis_queues: Vec<String>,
    ) -> Self {
        let board = Arc::new(Board::default());
        tokio::spawn(run_lookout(Arc::downgrade(&board), Arc::clone(&ledger), sql));
        Self {
            ledger,
            broker,
            redis_queues,
            board,
        }
    }

    pub(crate) async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        let in_ledger = self.ledger.get(id).await;
        if let Ok(Some(record)) = in_ledger {
            return Ok(Some(record));
        }
        if self.broker.is_none() || self.redis_queues.is_empty() {
            return in_ledger;
        }
        match self.find_on_broker(id).await {
            Some(record) => Ok(Some(record)),
            // A job that failed between the two looks has moved to the ledger.
            None => self.ledger.get(id).await,
        }
    }

    async fn find_on_broker(&self, id: JobId) -> Option<JobRecord> {
        let broker = self.broker.as_ref()?;
        for queue in &self.redis_queues {
            match broker.job(queue, id).await {
                Ok(Some(record)) => return Some(job_record(queue, record)),
                Ok(None) => {}
                Err(error) => tracing::debug!(queue, error = %error, "cannot ask the broker for a job"),
            }
        }
        None
    }

    pub(crate) async fn wait(&self, id: JobId, limit: Duration) -> Result<Option<JobRecord>, LedgerError> {
        let deadline = Instant::now() + limit;
        loop {
            // Joined before the look, so that an end in between is heard.
            let ended = self.join(Followable::Job(id));
            let record = self.get(id).await?;
            let Some(seen) = &record else { return Ok(None) };
            if seen.state.is_final() || Instant::now() >= deadline {
                return Ok(record);
            }
            let look_again = if self.redis_queues.contains(&seen.queue) {
                BROKER_LOOK
            } else {
                limit
            };
            tokio::select! {
                _ = ended => {}
                () = tokio::time::sleep(look_again) => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Told once it has ended; its end may be heard late, and is not if the hub goes.
    pub(crate) fn join(&self, id: Followable) -> oneshot::Receiver<()> {
        let (told, ended) = oneshot::channel();
        let mut waiting = self.board.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(id).or_default().push(told);
        drop(waiting);
        self.board.joined.notify_one();
        ended
    }

    pub(crate) async fn cancel_on_broker(&self, id: JobId) -> Option<CancelReply> {
        let broker = self.broker.as_ref()?;
        for queue in &self.redis_queues {
            match broker.cancel(queue, id).await {
                Ok(Resolved::Removed) => return Some(CancelReply::Cancelled),
                Ok(Resolved::Running) => return Some(CancelReply::Requested),
                Ok(Resolved::Done) => {
                    let state = self
                        .find_on_broker(id)
                        .await
                        .map_or(State::Completed, |record| record.state);
                    return Some(CancelReply::AlreadyFinal(state));
                }
                Ok(Resolved::Unknown) => {}
                Err(error) => tracing::debug!(queue, error = %error, "cannot cancel on the broker"),
            }
        }
        None
    }

    /// Adds what waits and runs on the broker to the ledger's counts.
    pub(crate) async fn add_broker_depths(&self, stats: &mut BTreeMap<String, QueueStats>) {
        let Some(broker) = &self.broker else { return };
        for queue in &self.redis_queues {
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

impl Board {
    /// What somebody still waits for.
    fn wanted(&self) -> Vec<Followable> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        waiting.keys().copied().collect()
    }

    fn tell(&self, ids: impl IntoIterator<Item = Followable>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for waiter in ids.into_iter().filter_map(|id| waiting.remove(&id)).flatten() {
            // A waiter that has gone needs not be told.
            waiter.send(()).ok();
        }
    }
}

/// Ends with the hub.
async fn run_lookout(board: Weak<Board>, ledger: Arc<dyn Ledger>, sql: Sql) {
    loop {
        let Some(strong) = board.upgrade() else { return };
        let wanted = strong.wanted();
        if wanted.is_empty() {
            // Wakes now and then to see whether the hub is gone.
            let _ = tokio::time::timeout(Duration::from_secs(1), strong.joined.notified()).await;
            continue;
        }
        let (mut jobs, mut batches) = (Vec::new(), Vec::new());
        for id in wanted {
            match id {
                Followable::Job(id) => jobs.push(id),
                Followable::Batch(id) => batches.push(id),
            }
        }
        for ids in jobs.chunks(LOOK_IDS) {
            match ledger.final_among(ids).await {
                Ok(ended) => strong.tell(ended.into_iter().map(Followable::Job)),
                Err(error) => tracing::debug!(error = ?error, "cannot look for ends of jobs"),
            }
        }
        for ids in batches.chunks(LOOK_IDS) {
            match ended_batches(&sql, ids).await {
                Ok(ended) => strong.tell(ended.into_iter().map(Followable::Batch)),
                Err(error) => tracing::debug!(error = ?error, "cannot look for ends of batches"),
            }
        }
        drop(strong);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn ended_batches(sql: &Sql, ids: &[BatchId]) -> Result<Vec<BatchId>, LedgerError> {
    sql.within("look for ended batches", async {
        let mut tx = sql.begin_read().await?;
        let ended = batches::store::ended(tx.on(), ids, sql.named).await?;
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
                Ended::Completed => State::Completed,
                Ended::Cancelled => State::Cancelled,
                Ended::Discarded => State::Discarded,
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
