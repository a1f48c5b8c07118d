//! Where a checked job goes: onto the broker, or into the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::{Durability, JobsSettings, QueueSettings};
use holdfast_core::encryption::Encryption;
use holdfast_core::failpoint;
use holdfast_core::failure::Certainty;
use holdfast_core::sql::Bounds;
use holdfast_core::telemetry::traces::{self, Span};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::catalogue::Catalogue;
use super::check::{Checker, KnownKind, Origin, check_key};
use super::held_keys::Key;
use super::writer::{Lanes, WriteError, Writer};
use super::{EnqueueError, EnqueuedJob, Fault, FaultCode, JobRequest};
use crate::admin::JobEdit;
use crate::batches::store::BatchWrite;
use crate::batches::{self, BatchRequest, EnqueuedBatch, NewBatch};
use crate::bell::Bell;
use crate::broker::{Broker, OutgoingJob, PushOutcome};
use crate::declared::Declarations;
use crate::envelope::Envelope;
use crate::id::{BatchId, JobId};
use crate::json_text;
use crate::ledger::{InsertOutcome, Ledger, LedgerError, NewJob, Priority, RunAt};
use crate::link::Link;
use crate::marks::sealed;
use crate::registry::Registry;
use crate::retry::RetryPolicies;
use crate::sql::Sql;
use crate::state::State;
use crate::statistics::Statistics;

/// What a producer is told to wait when no store can take its job.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What a [`Producer`] is made of.
#[derive(Debug)]
pub(crate) struct ProducerParts {
    pub registry: Registry,
    pub declared: Declarations,
    pub queues: BTreeMap<String, QueueSettings>,
    pub settings: JobsSettings,
    pub retries: RetryPolicies,
    pub encryption: Encryption,
    pub ledger: Arc<dyn Ledger>,
    pub sql: Sql,
    /// Statements that may be under way at once.
    pub lanes: Lanes,
    pub bell: Bell,
    pub broker: Option<Broker>,
    pub statistics: Statistics,
}

/// Checks jobs and puts them where they belong. Cheap to share.
#[derive(Debug)]
pub(crate) struct Producer {
    checker: Checker,
    writer: Writer,
    sql: Sql,
    bell: Bell,
    broker: Option<Broker>,
    statistics: Statistics,
}

impl Producer {
    pub(crate) fn new(parts: ProducerParts) -> Self {
        Self {
            checker: Checker {
                registry: parts.registry,
                declared: parts.declared,
                queues: parts.queues,
                settings: parts.settings,
                retries: parts.retries,
                encryption: parts.encryption,
            },
            writer: Writer::spawn(parts.ledger, parts.lanes),
            sql: parts.sql,
            bell: parts.bell,
            broker: parts.broker,
            statistics: parts.statistics,
        }
    }

    /// Keys that other open transactions hold, as far as this process knows.
    pub(crate) fn held_keys(&self) -> usize {
        self.writer.held_keys()
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// What the functions that enqueue by SQL are to know.
    pub(super) fn catalogue(&self) -> Catalogue<'_> {
        Catalogue::of(&self.checker)
    }

    pub(crate) fn kind(&self, name: &str) -> Option<KnownKind<'_>> {
        self.checker.known_kind(name)
    }

    /// See [`Checker::unknown_queue`].
    pub(crate) fn unknown_queue(&self, field: &str, name: &str) -> Fault {
        self.checker.unknown_queue(field, name)
    }

    /// Looks for the kinds and queues that these requests name and neither the program nor its configuration knows. To be
    /// called before they are checked.
    ///
    /// # Errors
    /// The database does not answer, so the names cannot be judged.
    pub(crate) async fn look_up<'r>(
        &self,
        requests: impl IntoIterator<Item = &'r JobRequest>,
    ) -> Result<(), EnqueueError> {
        let (mut kinds, mut queues) = (BTreeSet::new(), BTreeSet::new());
        for request in requests {
            let mut next = Some(request);
            while let Some(job) = next {
                if self.checker.registry.get(&job.kind).is_none() {
                    kinds.insert(job.kind.as_str());
                }
                if let Some(queue) = job
                    .queue
                    .as_deref()
                    .filter(|queue| !self.checker.queues.contains_key(*queue))
                {
                    queues.insert(queue);
                }
                next = job.then.as_deref();
            }
        }
        let (kinds, queues) = (Vec::from_iter(kinds), Vec::from_iter(queues));
        let found = self.checker.declared.look_up(&kinds, &queues).await;
        found.map_err(|source| {
            let (transient, certain) = (source.is_transient(), true);
            let error = WriteError {
                transient,
                certain,
                key_held: false,
                source: Some(source),
            };
            refusal(error, certain)
        })
    }

    /// Checks one job without storing it.
    pub(crate) fn check_typed(&self, request: JobRequest) -> Result<NewJob, EnqueueError> {
        self.checker
            .check(request, Origin::Typed)
            .map_err(EnqueueError::Invalid)
    }

    pub(crate) fn check_text(&self, request: JobRequest) -> Result<NewJob, EnqueueError> {
        self.checker
            .check(request, Origin::Text)
            .map_err(EnqueueError::Invalid)
    }

    /// Checks a change to a job of this kind; the payload as it is stored, if there is one.
    pub(crate) fn check_edit(&self, kind: &str, edit: &JobEdit) -> Result<Option<Box<RawValue>>, Fault> {
        self.checker.check_edit(kind, edit)
    }

    /// Checks a batch: the first fault refuses it whole, and says which job it is.
    pub(crate) fn check_batch(
        &self,
        requests: Vec<JobRequest>,
        typed: bool,
    ) -> Result<Vec<NewJob>, EnqueueError> {
        let most = self.checker.settings.max_batch;
        if requests.is_empty() {
            let fault = Fault::new(FaultCode::BatchEmpty, "jobs", "must hold at least one job");
            return Err(EnqueueError::Invalid(fault));
        }
        if requests.len() > most {
            let reason = format!("{} jobs are more than the {most} of one batch", requests.len());
            return Err(EnqueueError::Invalid(Fault::new(
                FaultCode::BatchTooLarge,
                "jobs",
                reason,
            )));
        }
        let origin = if typed { Origin::Typed } else { Origin::Text };
        requests
            .into_iter()
            .enumerate()
            .map(|(index, request)| {
                self.checker.check(request, origin).map_err(|fault| {
                    EnqueueError::Invalid(Fault {
                        index: Some(index),
                        ..fault
                    })
                })
            })
            .collect()
    }

    /// Checks a batch with its callback; a fault of a job says which it is.
    pub(crate) fn check_group(&self, request: BatchRequest, typed: bool) -> Result<NewBatch, EnqueueError> {
        let BatchRequest {
            name,
            jobs,
            callback,
            idempotency_key,
        } = request;
        check_key("name", name.as_deref()).map_err(EnqueueError::Invalid)?;
        check_key("Idempotency-Key", idempotency_key.as_deref()).map_err(EnqueueError::Invalid)?;
        for (index, job) in jobs.iter().enumerate() {
            check_member(job).map_err(|fault| {
                EnqueueError::Invalid(Fault {
                    index: Some(index),
                    ..fault
                })
            })?;
        }
        let id = BatchId::generate();
        let mut jobs = self.check_batch(jobs, typed)?;
        for job in &mut jobs {
            job.batch = Some(id);
        }
        let origin = if typed { Origin::Typed } else { Origin::Text };
        let callback = callback
            .map(|callback| self.checker.check_callback(callback, origin))
            .transpose()
            .map_err(|fault| EnqueueError::Invalid(fault.under("callback")))?;
        let mut batch = NewBatch {
            id,
            name,
            jobs,
            callback,
            idempotency_key,
            fingerprints: Vec::new(),
        };
        if batch.idempotency_key.is_some() {
            batch.fingerprints = fingerprints(&self.checker.encryption, &batch)?;
        }
        Ok(batch)
    }

    /// Stores a checked batch, all or nothing, and wakes whoever runs its jobs.
    pub(crate) async fn store_group(&self, mut batch: NewBatch) -> Result<EnqueuedBatch, EnqueueError> {
        let mut span = begin_trace(&mut batch.jobs);
        if let (Some(callback), Some(first)) = (&mut batch.callback, batch.jobs.first()) {
            callback.traceparent.clone_from(&first.options.traceparent);
        }
        let stored = self.store_group_traced(&batch).await;
        match &stored {
            Ok(stored) => span.set("job.count", stored.jobs.len() as i64),
            Err(error) => span.fail(error.to_string()),
        }
        stored
    }

    async fn store_group_traced(&self, batch: &NewBatch) -> Result<EnqueuedBatch, EnqueueError> {
        let (sql, total) = (&self.sql, u32::try_from(batch.jobs.len()).unwrap_or(u32::MAX));
        let key: Vec<Key> = batch.idempotency_key.iter().cloned().map(Key::Batch).collect();
        let insert = |lock: Option<Duration>| {
            let bounds = Bounds {
                lock,
                ..Bounds::SETTINGS
            };
            sql.within_bounds("accept a batch", bounds, async move {
                let mut tx = sql.begin().await?;
                let written = batches::store::insert(tx.on(), batch, sql.named).await?;
                tx.commit().await?;
                Ok(written)
            })
        };
        let written = self.writer.write_whole(&key, &[], insert).await;
        let written = written.map_err(|error| refusal(error, true))?;
        match written {
            BatchWrite::Conflict(id) => Err(EnqueueError::BatchKeyReused { id }),
            BatchWrite::Duplicate(id, total) => Ok(EnqueuedBatch {
                id,
                jobs: Vec::new(),
                total,
                duplicate: true,
            }),
            BatchWrite::New => {
                let stored = batch.jobs.iter();
                let stored: Vec<EnqueuedJob> = stored
                    .map(|job| enqueued(job, job.id, Durability::Ledger, false))
                    .collect();
                self.ring_for(&batch.jobs);
                failpoint::reach("ring");
                self.count(&stored);
                Ok(EnqueuedBatch {
                    id: batch.id,
                    jobs: stored,
                    total,
                    duplicate: false,
                })
            }
        }
    }

    /// Stores checked jobs, all or none, and wakes whoever runs them. One answer for each, in order.
    pub(crate) async fn store(&self, jobs: Vec<NewJob>) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        self.store_as(jobs, false).await
    }

    /// The jobs' idempotency keys were made of one, so another set of jobs under them is refused: one that begins otherwise, one
    /// that goes on (see [`Insertion::one_key`](crate::ledger::Insertion::one_key)), and one that ends before the first did.
    /// `key_after` is the key that a further job would have.
    pub(crate) async fn store_under_one_key(
        &self,
        jobs: Vec<NewJob>,
        key_after: String,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let like = jobs.first().map(summary);
        let stored = self.store_as(jobs, true).await?;
        // The first batch was one transaction: if this is a repeat, all of the first is there to be found.
        if let Some(like) = like
            && stored.iter().all(|job| job.duplicate)
            && let Some(id) = self.holder_of(key_after, &like).await?
        {
            return Err(EnqueueError::KeyReused { id });
        }
        Ok(stored)
    }

    /// The job that has this idempotency key. `like`: any job.
    async fn holder_of(&self, key: String, like: &NewJob) -> Result<Option<JobId>, EnqueueError> {
        let held = self.writer.holder_of(key, like).await;
        held.map_err(|error| refusal(error, true))
    }

    async fn store_as(&self, mut jobs: Vec<NewJob>, one_key: bool) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let mut span = begin_trace(&mut jobs);
        let stored = self.store_traced(jobs, one_key).await;
        match &stored {
            Ok(stored) => span.set("job.count", stored.len() as i64),
            Err(error) => span.fail(error.to_string()),
        }
        stored
    }

    async fn store_traced(&self, jobs: Vec<NewJob>, one_key: bool) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        // A batch that is not for the broker throughout goes to the ledger whole: two stores cannot share a commit.
        let stored = match &self.broker {
            Some(broker) if jobs.iter().all(|job| self.belongs_on_broker(job)) => {
                self.push(broker, jobs).await
            }
            _ => self.write(jobs, one_key, true).await,
        }?;
        self.count(&stored);
        Ok(stored)
    }

    fn count(&self, stored: &[EnqueuedJob]) {
        for job in stored.iter().filter(|job| !job.duplicate) {
            if let Some(kind) = self.kind(&job.kind) {
                kind.meters().enqueued(job.durability);
            }
            self.statistics.enqueued(&job.queue, &job.kind);
        }
    }

    /// Only what is plain and due fits on the broker; the ledger knows delays, priorities, keys, limits and chains.
    fn belongs_on_broker(&self, job: &NewJob) -> bool {
        let redis = self
            .checker
            .queues
            .get(&*job.queue)
            .is_some_and(|queue| queue.durability == Durability::Redis && queue.limits.is_empty());
        redis
            && job.run_at == RunAt::Now
            && job.priority == Priority::Normal
            && job.unique_key.is_none()
            && job.idempotency_key.is_none()
            && job.limit_key.is_none()
            && job.options.then.is_none()
            && job.options.expires_at.is_none()
            && job.tags.is_empty()
    }

    async fn push(&self, broker: &Broker, jobs: Vec<NewJob>) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let mut by_queue: BTreeMap<Arc<str>, Vec<OutgoingJob>> = BTreeMap::new();
        for job in &jobs {
            by_queue
                .entry(Arc::clone(&job.queue))
                .or_default()
                .push(outgoing(job)?);
        }
        let mut refused: BTreeMap<JobId, Doubt> = BTreeMap::new();
        for (queue, entries) in &by_queue {
            let mut accepted = 0;
            for part in broker.push(queue, entries).await {
                let doubt = match part.outcome {
                    PushOutcome::Pushed => {
                        accepted += part.jobs.len();
                        continue;
                    }
                    PushOutcome::Refused(_) => Doubt::None,
                    PushOutcome::Doubtful(_) => Doubt::MayStandThere,
                };
                refused.extend(entries[part.jobs].iter().map(|entry| (entry.id, doubt)));
            }
            failpoint::reach("broker.push");
            if accepted > 0 {
                self.bell.ring(queue, accepted, Duration::ZERO);
            }
        }
        if refused.is_empty() {
            return Ok(jobs
                .iter()
                .map(|job| enqueued(job, job.id, Durability::Redis, false))
                .collect());
        }
        self.upgrade(jobs, &refused).await
    }

    /// The broker did not take some of the jobs: the ledger does.
    async fn upgrade(
        &self,
        jobs: Vec<NewJob>,
        refused: &BTreeMap<JobId, Doubt>,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let order: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let (for_ledger, on_broker): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| refused.contains_key(&job.id));
        let doubt = !on_broker.is_empty() || refused.values().any(|doubt| *doubt == Doubt::MayStandThere);
        let for_ledger = for_ledger
            .into_iter()
            .map(|job| NewJob {
                doubtful: refused.get(&job.id) == Some(&Doubt::MayStandThere),
                ..job
            })
            .collect();
        let written = self.write(for_ledger, false, !doubt).await?;
        let mut answers: BTreeMap<JobId, EnqueuedJob> = written.into_iter().map(|e| (e.id, e)).collect();
        answers.extend(
            on_broker
                .iter()
                .map(|job| (job.id, enqueued(job, job.id, Durability::Redis, false))),
        );
        Ok(order.iter().filter_map(|id| answers.remove(id)).collect())
    }

    /// `certain`: nothing was left behind before the ledger was asked.
    async fn write(
        &self,
        jobs: Vec<NewJob>,
        one_key: bool,
        certain: bool,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let summaries: Vec<NewJob> = jobs.iter().map(summary).collect();
        let accepted = self
            .writer
            .write(jobs, one_key)
            .await
            .map_err(|error| refusal(error, certain))?;
        let answers = answers(&summaries, accepted)?;
        self.ring_for(&summaries);
        failpoint::reach("ring");
        Ok(answers)
    }

    /// The answer to a job that was written in its producer's own transaction. Nobody is woken: it has yet to commit.
    pub(crate) fn answer_in(
        jobs: &[NewJob],
        accepted: Result<Vec<InsertOutcome>, LedgerError>,
    ) -> Result<EnqueuedJob, EnqueueError> {
        Self::answers_in(jobs, accepted)?.pop().ok_or_else(|| {
            EnqueueError::Internal(LedgerError::Corrupt("an insert gave no answer".to_owned()))
        })
    }

    /// One answer for each job, in order.
    pub(crate) fn answers_in(
        jobs: &[NewJob],
        accepted: Result<Vec<InsertOutcome>, LedgerError>,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let accepted = accepted.map_err(|error| {
            let (transient, certain) = (error.is_transient(), error.certainty() == Certainty::NotApplied);
            refusal(
                WriteError {
                    transient,
                    certain,
                    key_held: false,
                    source: Some(error),
                },
                true,
            )
        })?;
        answers(jobs, accepted)
    }

    /// One ring for each queue, for the job that is due first.
    pub(crate) fn ring_for(&self, jobs: &[NewJob]) {
        let mut due: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
        for job in jobs {
            let delay = delay_of(job.run_at);
            let (count, earliest) = due.entry(&job.queue).or_insert((0, delay));
            *count += 1;
            *earliest = delay.min(*earliest);
        }
        for (queue, (count, delay)) in due {
            self.bell.ring(queue, count, delay);
        }
    }
}

/// What a job of a batch cannot have: each one is the batch's own, and is counted there once.
fn check_member(job: &JobRequest) -> Result<(), Fault> {
    if job.unique_key.is_some() {
        let reason = "a job of a batch is always a new one, so it cannot have a unique_key; leave it out, or enqueue the \
                      job by itself";
        return Err(Fault::field("unique_key", reason));
    }
    if job.idempotency_key.is_some() {
        let reason = "give the key to the batch, not to one of its jobs";
        return Err(Fault::field("idempotency_key", reason));
    }
    Ok(())
}

/// What a batch says, however it is spelt. Of ordinary texts it is what the releases before 0015 stored.
///
/// The first one is stored, and a batch repeats one that has any of them. Where something in it is encrypted they are keyed, one for
/// each key, because a plain one would let the secrets be guessed; the plain one is last, for batches from before the keys.
fn fingerprints(encryption: &Encryption, batch: &NewBatch) -> Result<Vec<String>, EnqueueError> {
    let mut hash = Sha256::new();
    let mut has_sealed = false;
    let mut opened = |kind: &str, payload: &RawValue| {
        let opened = sealed::open(encryption, kind, payload).ok().flatten();
        has_sealed |= opened.is_some();
        opened
    };
    for job in &batch.jobs {
        let plain = opened(&job.kind, &job.payload);
        let payload = json_text::exact_value(plain.as_deref().unwrap_or(&job.payload).get());
        let mut then = job.options.then.clone();
        open_links(then.as_deref_mut(), &mut opened);
        let then = exact_document(then.as_ref())?;
        hash.update(serde_json::json!([job.kind, job.queue, payload, then]).to_string());
    }
    let mut callback = batch.callback.clone();
    open_links(callback.as_mut(), &mut opened);
    let callback = exact_document(callback.as_ref())?;
    hash.update(serde_json::json!([batch.name, callback]).to_string());
    let plain = hash.finalize();
    let mut fingerprints = if has_sealed {
        encryption.digests(&plain)
    } else {
        Vec::new()
    };
    fingerprints.push(format!("{plain:x}"));
    Ok(fingerprints)
}

fn open_links(first: Option<&mut Link>, opened: &mut impl FnMut(&str, &RawValue) -> Option<Box<RawValue>>) {
    let mut next = first;
    while let Some(link) = next {
        if let Some(plain) = opened(&link.kind, &link.payload) {
            link.payload = plain;
        }
        next = link.then.as_deref_mut();
    }
}

/// By its text: a document may hold a payload that no value can.
fn exact_document(document: Option<&impl Serialize>) -> Result<serde_json::Value, EnqueueError> {
    let text = serde_json::to_string(&document)
        .map_err(|error| EnqueueError::Internal(LedgerError::Corrupt(error.to_string())))?;
    Ok(json_text::exact_value(&text))
}

/// The enqueue's span; each job carries its context on. What one call stores is one span.
fn begin_trace(jobs: &mut [NewJob]) -> Span {
    if !traces::is_on() {
        return Span::none();
    }
    let Some(first) = jobs.first() else {
        return Span::none();
    };
    let one_kind = jobs.iter().all(|job| job.kind == first.kind);
    let name = if one_kind {
        format!("enqueue {}", first.kind)
    } else {
        "enqueue a batch".to_owned()
    };
    let mut span = traces::begin(traces::Kind::Producer, name, first.options.traceparent.as_deref());
    span.set("job.queue", first.queue.to_string());
    if jobs.len() == 1 {
        span.set("job.id", first.id.to_string());
    }
    let context = span.traceparent();
    for job in jobs {
        job.options.traceparent.clone_from(&context);
    }
    span
}

fn answers(jobs: &[NewJob], accepted: Vec<InsertOutcome>) -> Result<Vec<EnqueuedJob>, EnqueueError> {
    jobs.iter()
        .zip(accepted)
        .map(|(job, accepted)| match accepted {
            InsertOutcome::Conflict(id) => Err(EnqueueError::KeyReused { id }),
            InsertOutcome::Duplicate(id) => Ok(enqueued(job, id, Durability::Ledger, true)),
            InsertOutcome::New(id) => Ok(enqueued(job, id, Durability::Ledger, false)),
        })
        .collect()
}

/// The job without its payload: what the answer and the bell need.
fn summary(job: &NewJob) -> NewJob {
    NewJob {
        payload: Arc::from(RawValue::NULL.to_owned()),
        errors: Vec::new(),
        ..job.clone()
    }
}

fn delay_of(run_at: RunAt) -> Duration {
    match run_at {
        RunAt::Now => Duration::ZERO,
        RunAt::In(delay) => delay,
        RunAt::At(at) | RunAt::Tick(at) => at
            .signed_duration_since(holdfast_core::clock::now())
            .to_std()
            .unwrap_or(Duration::ZERO),
    }
}

fn enqueued(job: &NewJob, id: JobId, durability: Durability, duplicate: bool) -> EnqueuedJob {
    let state = if delay_of(job.run_at).is_zero() {
        State::Available
    } else {
        State::Scheduled
    };
    EnqueuedJob {
        id,
        kind: job.kind.to_string(),
        queue: job.queue.to_string(),
        state,
        durability,
        duplicate,
    }
}

/// `certain`: nothing was left behind before the ledger was asked.
fn refusal(error: WriteError, certain: bool) -> EnqueueError {
    match error {
        WriteError {
            transient: false,
            source: Some(source),
            ..
        } => EnqueueError::Internal(source),
        WriteError {
            certain: written,
            key_held: true,
            ..
        } => EnqueueError::KeyHeld {
            certain: certain && written,
            retry_after: RETRY_AFTER,
        },
        WriteError {
            certain: written,
            source,
            ..
        } => EnqueueError::Unavailable {
            certain: certain && written,
            retry_after: RETRY_AFTER,
            source,
        },
    }
}

/// What a push that failed leaves behind on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// It got no answer: it may have been applied.
    MayStandThere,
}

fn outgoing(job: &NewJob) -> Result<OutgoingJob, EnqueueError> {
    let envelope = Envelope {
        kind: job.kind.to_string(),
        payload: (*job.payload).to_owned(),
        max_attempts: Some(job.max_attempts),
        timeout_ms: u64::try_from(job.timeout.as_millis()).ok(),
        backoff: job.options.backoff,
        traceparent: job.options.traceparent.clone(),
    };
    let envelope = serde_json::to_vec(&envelope)
        .map_err(|error| EnqueueError::Internal(LedgerError::Corrupt(error.to_string())))?;
    Ok(OutgoingJob {
        id: job.id,
        envelope: Arc::from(envelope),
        max_attempts: job.max_attempts,
    })
}
