//! Group commit: producers that enqueue at the same time share one statement and one commit.
//!
//! A lane takes the first request that waits and every other one that waits behind it, up to
//! [`MAX_STATEMENT_ROWS`], writes them in one transaction, and answers each. While it waits for the disk, the next
//! requests gather. Nothing is delayed to gather more: a lone request is written at once.
//!
//! Requests with a key have lanes of their own where a key can be waited for (PostgreSQL): a request whose key another open
//! transaction holds must not delay those without. A request of several jobs with keys is a transaction of its own, so that
//! a conflict takes back all of it and nothing else.
//!
//! # When things fail
//! A transient failure is retried while the producer still waits (ids make that safe), the time in the queue included: a
//! producer hears within [`PATIENCE`] and one statement's [`STATEMENT_LIMIT`] that no job was taken. If any of the tries
//! may have been applied, it hears that too.
//!
//! A batch that the database refuses is halved down to the request that it refuses, and so is one that waited in vain for a
//! key. The request whose key is held then waits in [`HeldKeys`], where it delays nobody.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::failpoint;
use holdfast_core::failure::Certainty;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::held_keys::{Entry, HeldKeys, Key, KeyTurn, PROBE_WAIT};
use crate::id::JobId;
use crate::ledger::{InsertOutcome, Insertion, Ledger, LedgerError, MAX_STATEMENT_ROWS, NewJob};

/// Requests that may wait for a lane; more producers wait for a place, within their own deadline.
const WAITING_REQUESTS: usize = 4_096;

/// Requests of one statement in a lane for keys: what is held among them is found by halving.
const KEYED_REQUESTS: usize = 100;

/// How long a piece of a statement that waited in vain for a key waits. What it takes for held wrongly, because another
/// producer's commit takes longer, is asked for again soon.
const SPLIT_WAIT: Duration = Duration::from_millis(5);

/// Requests of several jobs with keys, and batches with one, that are written at once.
const WHOLE_REQUESTS: usize = 2;

/// How long one request waits and is retried through transient failures before its producer is told to come back.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Longest one try may take: less than a producer's own deadline, though the database may allow a statement more.
const STATEMENT_LIMIT: Duration = Duration::from_secs(4);

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));

type Reply = oneshot::Sender<Result<Vec<InsertOutcome>, WriteError>>;

/// Why jobs were not accepted.
#[derive(Debug)]
pub(super) struct WriteError {
    /// Whether a repeat may succeed.
    pub transient: bool,
    /// Nothing was written; otherwise nobody knows.
    pub certain: bool,
    /// Another open transaction holds a key of the request.
    pub key_held: bool,
    /// Told to the first producer of a batch alone.
    pub source: Option<LedgerError>,
}

impl WriteError {
    fn unserved() -> Self {
        Self {
            transient: true,
            certain: true,
            key_held: false,
            source: None,
        }
    }

    fn key_held(certain: bool) -> Self {
        Self {
            certain,
            key_held: true,
            ..Self::unserved()
        }
    }

    /// The same for another producer of the batch.
    fn again(&self) -> Self {
        Self {
            transient: self.transient,
            certain: self.certain,
            key_held: self.key_held,
            source: None,
        }
    }
}

/// Statements that enqueue at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    /// For jobs without a key; for all, where `keyed` is zero.
    pub plain: usize,
    /// For single jobs with a key.
    pub keyed: usize,
}

struct Request {
    jobs: Vec<NewJob>,
    give_up: Instant,
    reply: Reply,
}

/// What a producer asks for under keys.
#[derive(Debug, Clone, Copy)]
struct KeyedRequest<'a> {
    keys: &'a [Key],
    /// Those that have the keys, where there are several.
    jobs: &'a [NewJob],
    give_up: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Writer {
    plain: mpsc::Sender<Request>,
    keyed: Option<KeyLanes>,
    ledger: Arc<dyn Ledger>,
}

/// Where keys can be waited for.
#[derive(Debug, Clone)]
struct KeyLanes {
    lanes: mpsc::Sender<Request>,
    whole: Arc<Semaphore>,
    held: Arc<HeldKeys>,
}

impl Writer {
    /// The lanes end when the last writer is dropped.
    pub(super) fn spawn(ledger: Arc<dyn Ledger>, lanes: Lanes) -> Self {
        let keyed = (lanes.keyed > 0).then(|| KeyLanes {
            lanes: spawn_lanes(&ledger, lanes.keyed, Sort::Keyed),
            whole: Arc::new(Semaphore::new(WHOLE_REQUESTS)),
            held: Arc::new(HeldKeys::new()),
        });
        Self {
            plain: spawn_lanes(&ledger, lanes.plain, Sort::Plain),
            keyed,
            ledger,
        }
    }

    /// See [`HeldKeys::count`].
    pub(super) fn held_keys(&self) -> usize {
        self.keyed.as_ref().map_or(0, |keyed| keyed.held.count())
    }

    /// Accepts all jobs or none; one answer for each, in order. `one_key`: see [`Insertion::one_key`].
    pub(super) async fn write(
        &self,
        jobs: Vec<NewJob>,
        one_key: bool,
    ) -> Result<Vec<InsertOutcome>, WriteError> {
        let give_up = Instant::now() + PATIENCE;
        let keys = Key::of(&jobs);
        let whole = |lock_wait| {
            let how = Insertion {
                one_key,
                lock_wait,
                ..Insertion::WHOLE
            };
            self.ledger.insert_as(&jobs, how)
        };
        match &self.keyed {
            Some(keyed) if jobs.len() == 1 && !keys.is_empty() => {
                let first = || ask_lane(&keyed.lanes, jobs.clone(), give_up);
                let request = KeyedRequest {
                    keys: &keys,
                    jobs: &jobs,
                    give_up,
                };
                self.write_under(keyed, request, first, whole).await
            }
            _ if jobs.len() >= MAX_STATEMENT_ROWS || jobs.len() > 1 && !keys.is_empty() => {
                self.write_whole(&keys, &jobs, whole).await
            }
            _ => ask_lane(&self.plain, jobs, give_up).await,
        }
    }

    /// The job that has this idempotency key, found by the insert of a job with it that is not kept. `like`: any job.
    pub(super) async fn holder_of(&self, key: String, like: &NewJob) -> Result<Option<JobId>, WriteError> {
        let job = only_with(&Key::Idempotency(key), like);
        let how = Insertion {
            dry: true,
            ..Insertion::WHOLE
        };
        let give_up = Instant::now() + PATIENCE;
        let inserted = try_patiently(give_up, true, || {
            self.ledger.insert_as(std::slice::from_ref(&job), how)
        });
        let held = inserted.await?.into_iter().find_map(|accepted| match accepted {
            InsertOutcome::New(_) => None,
            InsertOutcome::Duplicate(id) | InsertOutcome::Conflict(id) => Some(id),
        });
        Ok(held)
    }

    /// Writes something under keys in a transaction of its own. `write` takes how long to wait for a key; `jobs`: whose keys
    /// they are, where there are several.
    pub(super) async fn write_whole<T, F: Future<Output = Result<T, LedgerError>>>(
        &self,
        keys: &[Key],
        jobs: &[NewJob],
        write: impl Fn(Option<Duration>) -> F,
    ) -> Result<T, WriteError> {
        let give_up = Instant::now() + PATIENCE;
        let Some(keyed) = self.keyed.as_ref().filter(|_| !keys.is_empty()) else {
            return patiently(give_up, || write(None)).await;
        };
        let write = &write;
        let first = || async move {
            let place = tokio::time::timeout_at(give_up, keyed.whole.acquire()).await;
            if place.is_err() {
                return Err(WriteError::unserved());
            }
            try_patiently(give_up, true, || write(None)).await
        };
        let request = KeyedRequest { keys, jobs, give_up };
        self.write_under(keyed, request, first, write).await
    }

    /// `first` writes as if no key were held; `probe` asks for one that is.
    async fn write_under<
        T,
        F: Future<Output = Result<T, LedgerError>>,
        G: Future<Output = Result<T, WriteError>>,
    >(
        &self,
        keyed: &KeyLanes,
        request: KeyedRequest<'_>,
        first: impl Fn() -> G,
        probe: impl Fn(Option<Duration>) -> F,
    ) -> Result<T, WriteError> {
        let mut certain = true;
        loop {
            let tried = match keyed.held.enter(request.keys, request.give_up).await {
                Entry::Free => Some(first().await),
                Entry::Turn(turn) => self.ask_for_held(keyed, request, turn, &probe).await,
                Entry::Held => Some(Err(WriteError::key_held(true))),
            };
            match tried {
                None => {}
                Some(Err(error)) if error.key_held && Instant::now() < request.give_up => {
                    certain &= error.certain;
                    if let Some(key) = self.find_held(request).await {
                        keyed.held.mark(key);
                    }
                }
                Some(Err(error)) => {
                    return Err(WriteError {
                        certain: certain && error.certain,
                        ..error
                    });
                }
                Some(Ok(written)) => return Ok(written),
            }
        }
    }

    /// Asks for a held key until the ledger answers or the producer's patience ends. `None`: it is another key that is held.
    async fn ask_for_held<T, F: Future<Output = Result<T, LedgerError>>>(
        &self,
        keyed: &KeyLanes,
        request: KeyedRequest<'_>,
        mut turn: KeyTurn,
        probe: &impl Fn(Option<Duration>) -> F,
    ) -> Option<Result<T, WriteError>> {
        let mut certain = true;
        while let Some(_place) = keyed.held.wait_to_ask(&turn, request.give_up).await {
            failpoint::reach("insert");
            let error = match probe(Some(PROBE_WAIT)).await {
                Ok(written) => {
                    failpoint::reach("commit");
                    keyed.held.release(turn);
                    return Some(Ok(written));
                }
                Err(error) => error,
            };
            certain &= error.certainty() == Certainty::NotApplied;
            if !error.is_contention() {
                keyed.held.release(turn);
                return Some(Err(WriteError {
                    transient: error.is_transient(),
                    certain,
                    key_held: false,
                    source: Some(error),
                }));
            }
            keyed.held.still_held(&mut turn);
            if request.keys.len() > 1
                && let Some(other) = self.find_held(request).await
                && other != turn.key
            {
                keyed.held.mark(other);
                keyed.held.release(turn);
                return None;
            }
        }
        Some(Err(WriteError::key_held(certain)))
    }

    /// The key among several that is held: each is tried as if it were a job's only one, in halves, and nothing is kept.
    async fn find_held(&self, request: KeyedRequest<'_>) -> Option<Key> {
        let KeyedRequest { keys, jobs, .. } = request;
        let mut suspects: Vec<(Key, NewJob)> = keys
            .iter()
            .filter(|_| keys.len() > 1)
            .filter_map(|key| Some((key.clone(), only_with(key, jobs.first()?))))
            .collect();
        if suspects.is_empty() {
            return keys.first().cloned();
        }
        let how = Insertion {
            dry: true,
            lock_wait: Some(PROBE_WAIT),
            ..Insertion::WHOLE
        };
        while suspects.len() > 1 {
            let rest = suspects.split_off(suspects.len() / 2);
            let rows: Vec<NewJob> = suspects.iter().map(|(_, job)| job.clone()).collect();
            match self.ledger.insert_as(&rows, how).await {
                Ok(_) => suspects = rest,
                Err(error) if error.is_contention() => {}
                Err(_) => return None,
            }
        }
        suspects.pop().map(|(key, _)| key)
    }
}

/// A job like this one that has no key but this one.
fn only_with(key: &Key, like: &NewJob) -> NewJob {
    let mut job = NewJob {
        id: JobId::generate(),
        payload: Arc::from(serde_json::value::RawValue::NULL.to_owned()),
        unique_key: None,
        idempotency_key: None,
        ..like.clone()
    };
    match key {
        Key::Unique(kind, key) => {
            job.kind = Arc::clone(kind);
            job.unique_key = Some(key.clone());
        }
        Key::Idempotency(key) | Key::Batch(key) => job.idempotency_key = Some(key.clone()),
    }
    job
}

/// Which requests a lane takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Plain,
    Keyed,
}

fn spawn_lanes(ledger: &Arc<dyn Ledger>, lanes: usize, sort: Sort) -> mpsc::Sender<Request> {
    let (requests, receiver) = mpsc::channel(WAITING_REQUESTS);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..lanes {
        tokio::spawn(run_lane(Arc::clone(&receiver), Arc::clone(ledger), sort));
    }
    requests
}

async fn ask_lane(
    lanes: &mpsc::Sender<Request>,
    jobs: Vec<NewJob>,
    give_up: Instant,
) -> Result<Vec<InsertOutcome>, WriteError> {
    let (reply, answer) = oneshot::channel();
    let request = Request { jobs, give_up, reply };
    match tokio::time::timeout_at(give_up, lanes.send(request)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(WriteError::unserved()),
    }
    // A lane that ended without an answer may have written before it did.
    answer.await.unwrap_or(Err(WriteError {
        certain: false,
        ..WriteError::unserved()
    }))
}

async fn run_lane(receiver: Arc<Mutex<mpsc::Receiver<Request>>>, ledger: Arc<dyn Ledger>, sort: Sort) {
    let most = match sort {
        Sort::Plain => MAX_STATEMENT_ROWS,
        Sort::Keyed => KEYED_REQUESTS,
    };
    while let Some(batch) = gather(&receiver, most).await {
        write_batch(&*ledger, batch, sort).await;
    }
}

/// The first waiting request and all that fit behind it, up to `most` rows; `None` when no producer is left.
async fn gather(receiver: &Mutex<mpsc::Receiver<Request>>, most: usize) -> Option<Vec<Request>> {
    let mut receiver = receiver.lock().await;
    let first = receiver.recv().await?;
    let mut rows = first.jobs.len();
    let mut batch = vec![first];
    while rows < most {
        let Ok(next) = receiver.try_recv() else { break };
        rows += next.jobs.len();
        batch.push(next);
    }
    Some(batch)
}

/// Writes the requests of those producers that still wait.
async fn write_batch(ledger: &dyn Ledger, batch: Vec<Request>, sort: Sort) {
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
    // What is still to be written, and how long to wait for its keys.
    let mut pieces = vec![(batch, None)];
    while let Some((mut piece, lock_wait)) = pieces.pop() {
        let Some(give_up) = piece.iter().map(|request| request.give_up).min() else {
            continue;
        };
        let jobs: Vec<NewJob> = piece
            .iter()
            .flat_map(|request| request.jobs.iter().cloned())
            .collect();
        let how = Insertion {
            whole: false,
            lock_wait,
            ..Insertion::WHOLE
        };
        let written = try_patiently(give_up, sort == Sort::Keyed, || ledger.insert_as(&jobs, how)).await;
        match written {
            Ok(accepted) => answer_all(piece, accepted),
            Err(error) if piece.len() > 1 && (error.key_held || !error.transient) => {
                let lock_wait = if error.key_held {
                    Some(SPLIT_WAIT)
                } else {
                    lock_wait
                };
                let rest = piece.split_off(piece.len() / 2);
                pieces.extend([(rest, lock_wait), (piece, lock_wait)]);
            }
            Err(error) => refuse_all(piece, error),
        }
    }
}

fn answer_all(batch: Vec<Request>, accepted: Vec<InsertOutcome>) {
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
    try_patiently(give_up, false, write).await
}

/// `keyed`: that another transaction holds a lock means that it holds a key, and is told at once.
async fn try_patiently<T, F: Future<Output = Result<T, LedgerError>>>(
    give_up: Instant,
    keyed: bool,
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
        let key_held = keyed && error.is_contention();
        // While the gate is open a repeat is refused as well: its producer shall hear that in milliseconds.
        if !transient || key_held || error.is_unavailable() || Instant::now() >= give_up {
            return Err(WriteError {
                transient,
                certain,
                key_held,
                source: Some(error),
            });
        }
        tokio::time::sleep(BACKOFF.delay(attempt)).await;
    }
}
