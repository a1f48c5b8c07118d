//! Group commit: producers that enqueue at the same time share one statement and one commit.
//!
//! A lane takes the first request that waits and every other one that waits behind it, up to
//! [`MAX_STATEMENT_ROWS`], writes them in one transaction, and answers each. While it waits for the disk, the next
//! requests gather. Nothing is delayed to gather more: a lone request is written at once.
//!
//! A transient failure is retried while the producer still waits (ids make that safe), the time in the queue included: a
//! producer hears within [`PATIENCE`] and one statement's [`STATEMENT_LIMIT`] that no job was taken. If any of the tries
//! may have been applied, it hears that too. A batch that the database refuses is written request by request, so that
//! one bad request cannot fail the others.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::failpoint;
use holdfast_core::failure::Certainty;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use crate::ledger::{Accepted, Ledger, LedgerError, MAX_STATEMENT_ROWS, NewJob};

/// Requests that may wait for a lane; more producers wait for a place, within their own deadline.
const WAITING_REQUESTS: usize = 4_096;

/// How long one request waits and is retried through transient failures before its producer is told to come back.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Longest one try may take: less than a producer's own deadline, though the database may allow a statement more.
const STATEMENT_LIMIT: Duration = Duration::from_secs(4);

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));

type Reply = oneshot::Sender<Result<Vec<Accepted>, WriteError>>;

/// Why jobs were not accepted.
#[derive(Debug)]
pub(super) struct WriteError {
    /// Whether a repeat may succeed.
    pub transient: bool,
    /// Nothing was written; otherwise nobody knows.
    pub certain: bool,
    /// Told to the first producer of a batch alone.
    pub source: Option<LedgerError>,
}

impl WriteError {
    fn unserved() -> Self {
        Self {
            transient: true,
            certain: true,
            source: None,
        }
    }

    /// The same for another producer of the batch.
    fn again(&self) -> Self {
        Self {
            transient: self.transient,
            certain: self.certain,
            source: None,
        }
    }
}

struct Request {
    jobs: Vec<NewJob>,
    give_up: Instant,
    reply: Reply,
}

#[derive(Debug, Clone)]
pub(super) struct Writer {
    requests: mpsc::Sender<Request>,
    ledger: Arc<dyn Ledger>,
}

impl Writer {
    /// `lanes`: statements that may be under way at once. The lanes end when the last writer is dropped.
    pub(super) fn spawn(ledger: Arc<dyn Ledger>, lanes: usize) -> Self {
        let (requests, receiver) = mpsc::channel(WAITING_REQUESTS);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..lanes {
            tokio::spawn(run_lane(Arc::clone(&receiver), Arc::clone(&ledger)));
        }
        Self { requests, ledger }
    }

    /// Accepts all jobs or none; one answer for each, in order.
    pub(super) async fn write(&self, jobs: Vec<NewJob>) -> Result<Vec<Accepted>, WriteError> {
        let give_up = Instant::now() + PATIENCE;
        if jobs.len() >= MAX_STATEMENT_ROWS {
            return patiently(give_up, || self.ledger.insert(&jobs)).await;
        }
        let (reply, answer) = oneshot::channel();
        let request = Request { jobs, give_up, reply };
        match tokio::time::timeout_at(give_up, self.requests.send(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(WriteError::unserved()),
        }
        // A lane that ended without an answer may have written before it did.
        answer.await.unwrap_or(Err(WriteError {
            transient: true,
            certain: false,
            source: None,
        }))
    }
}

async fn run_lane(receiver: Arc<Mutex<mpsc::Receiver<Request>>>, ledger: Arc<dyn Ledger>) {
    while let Some(batch) = gather(&receiver).await {
        write_batch(&*ledger, batch).await;
    }
}

/// The first waiting request and all that fit behind it; `None` when no producer is left.
async fn gather(receiver: &Mutex<mpsc::Receiver<Request>>) -> Option<Vec<Request>> {
    let mut receiver = receiver.lock().await;
    let first = receiver.recv().await?;
    let mut rows = first.jobs.len();
    let mut batch = vec![first];
    while rows < MAX_STATEMENT_ROWS {
        let Ok(next) = receiver.try_recv() else { break };
        rows += next.jobs.len();
        batch.push(next);
    }
    Some(batch)
}

async fn write_batch(ledger: &dyn Ledger, batch: Vec<Request>) {
    let now = Instant::now();
    let (batch, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|request| request.give_up > now);
    for request in late {
        // The producer may have gone meanwhile; then nobody is left to tell.
        request.reply.send(Err(WriteError::unserved())).ok();
    }
    // A producer that gave up is not served: its job would run though it was told otherwise.
    let batch: Vec<_> = batch
        .into_iter()
        .filter(|request| !request.reply.is_closed())
        .collect();
    let Some(give_up) = batch.iter().map(|request| request.give_up).min() else {
        return;
    };
    if batch.len() == 1 {
        return write_apart(ledger, batch).await;
    }
    let jobs: Vec<NewJob> = batch
        .iter()
        .flat_map(|request| request.jobs.iter().cloned())
        .collect();
    match patiently(give_up, || ledger.insert(&jobs)).await {
        Ok(accepted) => answer_all(batch, accepted),
        Err(error) if error.transient => refuse_all(batch, error),
        Err(_) => write_apart(ledger, batch).await,
    }
}

async fn write_apart(ledger: &dyn Ledger, batch: Vec<Request>) {
    for request in batch {
        let result = patiently(request.give_up, || ledger.insert(&request.jobs)).await;
        request.reply.send(result).ok();
    }
}

fn answer_all(batch: Vec<Request>, accepted: Vec<Accepted>) {
    let mut accepted = accepted.into_iter();
    for request in batch {
        let own: Vec<_> = accepted.by_ref().take(request.jobs.len()).collect();
        request.reply.send(Ok(own)).ok();
    }
}

fn refuse_all(batch: Vec<Request>, error: WriteError) {
    let mut error = Some(error);
    for request in batch {
        let again = error
            .as_ref()
            .map_or_else(WriteError::unserved, WriteError::again);
        let told = error.replace(again).unwrap_or_else(WriteError::unserved);
        request.reply.send(Err(told)).ok();
    }
}

/// Writes something whose id was made before, through transient failures, for as long as its producer waits.
pub(super) async fn patiently<T, F: Future<Output = Result<T, LedgerError>>>(
    give_up: Instant,
    write: impl Fn() -> F,
) -> Result<T, WriteError> {
    let mut attempt = 0;
    // What an earlier try left open stays open, whatever a later one says.
    let mut certain = true;
    loop {
        failpoint::reach("insert");
        let tried = tokio::time::timeout(STATEMENT_LIMIT, write()).await;
        let error = match tried {
            Ok(Ok(accepted)) => {
                failpoint::reach("commit");
                return Ok(accepted);
            }
            Ok(Err(error)) => error,
            Err(_) => LedgerError::TimedOut {
                doing: "accept jobs",
                after: STATEMENT_LIMIT,
            },
        };
        certain &= error.certainty() == Certainty::NotApplied;
        attempt += 1;
        let transient = error.is_transient();
        if !transient || Instant::now() >= give_up {
            return Err(WriteError {
                transient,
                certain,
                source: Some(error),
            });
        }
        tokio::time::sleep(BACKOFF.delay(attempt)).await;
    }
}
