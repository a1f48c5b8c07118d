//! [`Jobs`]: what a service holds to enqueue jobs, follow them and steer queues.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::{Durability, QueueSettings, Settings};
use holdfast_core::encryption::Encryption;
use holdfast_core::redis::RedisGate;
use holdfast_core::sql::dialect::{moment, on_either};
use holdfast_core::sql::{Database, Tx as LedgerTx};
use serde_json::value::RawValue;

use crate::audit::AuditLog;
use crate::bell::Bell;
use crate::broker::{Broker, BrokerSettings};
use crate::declared::Declarations;
use crate::enqueue::{Enqueue, EnqueueError, EnqueuedJob, JobRequest, Lanes, Producer, ProducerParts};
use crate::follow_ups::Effects;
use crate::id::JobId;
use crate::job::Job;
use crate::ledger::{
    self, CancelReply, JobFilter, JobRecord, Ledger, LedgerError, NewJob, QueueStats, RetryReply,
    WorkerRecord,
};
use crate::limits::LimitStore;
use crate::marks::sealed::{self, FieldOpenFailure};
use crate::observer::{Observer, Observers};
use crate::queue_counts::QueueCounts;
use crate::registry::Registry;
use crate::retry::RetryPolicies;
use crate::search;
use crate::sql::Sql;
use crate::statistics::Statistics;
use crate::wait::WaitHub;

/// Statements that enqueue at once: while one waits for the disk, the next gathers.
const POSTGRES_LANES: Lanes = Lanes { plain: 3, keyed: 2 };
/// SQLite has one writer, and nobody waits for a key.
const SQLITE_LANES: Lanes = Lanes { plain: 1, keyed: 0 };

/// A handle on everything that can be done with jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Inner>);

/// The same for what [`Jobs`] itself holds.
#[derive(Debug, Clone)]
pub struct WeakJobs(Weak<Inner>);

impl WeakJobs {
    /// `None`: the process has given its handle up.
    pub fn upgrade(&self) -> Option<Jobs> {
        self.0.upgrade().map(Jobs)
    }
}

#[derive(Debug)]
struct Inner {
    producer: Producer,
    ledger: Arc<dyn Ledger>,
    broker: Option<Broker>,
    registry: Registry,
    declared: Declarations,
    queues: BTreeMap<String, QueueSettings>,
    waiting: WaitHub,
    counts: QueueCounts,
    audit: AuditLog,
    limits: LimitStore,
    sql: Sql,
    observers: Observers,
    statistics: Statistics,
    retries: RetryPolicies,
    default_timeout: Duration,
    /// See `database.prepared_statements`.
    named_statements: bool,
    encryption: Encryption,
}

impl Jobs {
    /// Over the process' database and its Redis gate of the queue role. Call it inside tokio; it reaches nothing yet.
    pub fn new(settings: &Settings, registry: Registry, database: &Database, gate: &RedisGate) -> Self {
        let observers = Observers::default();
        let ledger = ledger::open_observed(database, &settings.database, observers.clone());
        let broker = gate.is_configured().then(|| {
            let terms = BrokerSettings::new(settings.jobs.broker_result_ttl, settings.worker.lost_after);
            Broker::new(gate.clone(), terms)
        });
        let lanes = if matches!(database, Database::Postgres(_)) {
            POSTGRES_LANES
        } else {
            SQLITE_LANES
        };
        let statistics = Statistics::new(Sql::new(database, &settings.database), database, gate);
        let retries = RetryPolicies::new(settings);
        let declared = Declarations::new(Sql::new(database, &settings.database));
        let producer = Producer::new(ProducerParts {
            registry: registry.clone(),
            declared: declared.clone(),
            queues: settings.queues.clone(),
            settings: settings.jobs.clone(),
            retries: retries.clone(),
            encryption: settings.encryption.clone(),
            ledger: Arc::clone(&ledger),
            sql: Sql::new(database, &settings.database),
            lanes,
            bell: Bell::new(gate.clone()),
            broker: broker.clone(),
            statistics: statistics.clone(),
        });
        let redis_queues = settings
            .queues
            .iter()
            .filter(|(_, queue)| queue.durability == Durability::Redis)
            .map(|(name, _)| name.clone())
            .collect();
        let sql = Sql::new(database, &settings.database).observed(observers.clone());
        let waiting = WaitHub::new(Arc::clone(&ledger), sql.clone(), broker.clone(), redis_queues);
        Self(Arc::new(Inner {
            producer,
            ledger,
            broker,
            registry,
            declared,
            queues: settings.queues.clone(),
            waiting,
            counts: QueueCounts::default(),
            audit: AuditLog::new(database, &settings.database),
            limits: LimitStore::new(database, &settings.database),
            sql,
            observers,
            statistics,
            retries,
            default_timeout: settings.jobs.default_timeout,
            named_statements: settings.database.prepared_statements,
            encryption: settings.encryption.clone(),
        }))
    }

    /// The keys of what is encrypted at rest.
    pub fn encryption(&self) -> &Encryption {
        &self.0.encryption
    }

    /// A stored payload with its encrypted fields opened; `None`: none is encrypted.
    ///
    /// # Errors
    /// The first field that cannot be opened, and why.
    pub fn opened(&self, kind: &str, payload: &RawValue) -> Result<Option<Box<RawValue>>, FieldOpenFailure> {
        sealed::open(&self.0.encryption, kind, payload)
    }

    /// The payload as its producer sent it, or as it is stored where it cannot be opened.
    pub fn readable(&self, kind: &str, payload: Box<RawValue>) -> Box<RawValue> {
        match self.opened(kind, &payload) {
            Ok(Some(opened)) => opened,
            Ok(None) | Err(_) => payload,
        }
    }

    /// A text, such as an error, without the values of the payload's secret fields.
    pub(crate) fn cleaned(&self, kind: &str, payload: &RawValue, text: String) -> String {
        let Some(known) = self.0.producer.kind(kind) else {
            return text;
        };
        let opened = self.opened(kind, payload).ok().flatten();
        known.marks().cleaned(opened.as_deref().unwrap_or(payload), text)
    }

    /// Whether any kind of pull workers marks fields as secret.
    pub(crate) fn has_marks(&self) -> bool {
        let declared = self.0.declared.snapshot();
        let mut coded = self.0.registry.kinds();
        declared.kinds.values().any(|kind| !kind.marks().is_empty())
            || coded.any(|kind| !kind.marks.is_empty())
    }

    /// A stored job with the payloads that its producer sent: its own, and those of what follows it.
    pub(crate) fn readable_record(&self, mut record: JobRecord) -> JobRecord {
        record.payload = self.readable(&record.kind, record.payload);
        let mut next = record.then.as_deref_mut();
        while let Some(link) = next {
            let payload = std::mem::replace(&mut link.payload, RawValue::NULL.to_owned());
            link.payload = self.readable(&link.kind, payload);
            next = link.then.as_deref_mut();
        }
        record
    }

    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The kinds and queues that were declared at run time.
    pub fn declared(&self) -> &Declarations {
        &self.0.declared
    }

    /// Keys that other open transactions hold, as the enqueues of this process found them within the last second.
    pub fn held_keys(&self) -> usize {
        self.0.producer.held_keys()
    }

    pub fn queues(&self) -> &BTreeMap<String, QueueSettings> {
        &self.0.queues
    }

    /// How often jobs are tried, and how long they rest.
    pub fn retries(&self) -> &RetryPolicies {
        &self.0.retries
    }

    /// Longest attempt of a kind that sets none.
    pub fn default_timeout(&self) -> Duration {
        self.0.default_timeout
    }

    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.0.ledger
    }

    /// What this process counts, and what all processes have counted.
    pub fn statistics(&self) -> &Statistics {
        &self.0.statistics
    }

    /// Who did what.
    pub fn audit(&self) -> &AuditLog {
        &self.0.audit
    }

    /// What bounds each queue over all of its workers.
    pub fn limits(&self) -> &LimitStore {
        &self.0.limits
    }

    pub fn broker(&self) -> Option<&Broker> {
        self.0.broker.as_ref()
    }

    pub fn bell(&self) -> &Bell {
        self.0.producer.bell()
    }

    pub fn downgrade(&self) -> WeakJobs {
        WeakJobs(Arc::downgrade(&self.0))
    }

    /// Has an observer decide what ends enqueue. A process has one: further ones are ignored.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.0.observers.set(observer);
    }

    pub fn observers(&self) -> &Observers {
        &self.0.observers
    }

    /// A job that an [`Observer`] enqueues: checked as any other, of a kind and a queue that the program knows.
    ///
    /// # Errors
    /// The check refuses it.
    pub fn checked(&self, enqueue: Enqueue) -> Result<NewJob, EnqueueError> {
        self.0.producer.check_typed(enqueue.into_request()?)
    }

    pub(crate) fn sql(&self) -> &Sql {
        &self.0.sql
    }

    pub(crate) fn waiting(&self) -> &WaitHub {
        &self.0.waiting
    }

    pub(crate) fn producer(&self) -> &Producer {
        &self.0.producer
    }

    /// Starts a typed enqueue; await the answer.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a job that is enqueued is given away"
    )]
    pub fn enqueue<J: Job>(&self, job: J) -> Enqueue {
        Enqueue::new(self.clone(), &job)
    }

    /// Enqueues many jobs of one kind, all or none.
    pub async fn enqueue_all<J: Job>(&self, jobs: &[J]) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let requests = jobs
            .iter()
            .map(|job| Enqueue::new(self.clone(), job).into_request())
            .collect::<Result<Vec<_>, _>>()?;
        self.0.producer.look_up(&requests).await?;
        let checked = self.0.producer.check_batch(requests, true)?;
        self.0.producer.store(checked).await
    }

    /// Enqueues a job worded by an outside producer: everything about it is checked.
    pub async fn enqueue_request(&self, request: JobRequest) -> Result<EnqueuedJob, EnqueueError> {
        self.0.producer.look_up([&request]).await?;
        let job = self.0.producer.check_text(request)?;
        self.store_one(job).await
    }

    /// Enqueues a batch worded by an outside producer, all or none; a fault names the job's index.
    pub async fn enqueue_requests(
        &self,
        requests: Vec<JobRequest>,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        self.0.producer.look_up(&requests).await?;
        let checked = self.0.producer.check_batch(requests, false)?;
        self.0.producer.store(checked).await
    }

    /// The same under one idempotency key: `key_of` makes the key of each job, by its index. A repeat must be the same jobs, no
    /// more and no fewer, or the key was used for another batch.
    pub async fn enqueue_requests_under_one_key(
        &self,
        mut requests: Vec<JobRequest>,
        key_of: impl Fn(usize) -> String,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        for (index, request) in requests.iter_mut().enumerate() {
            request.idempotency_key = Some(key_of(index));
        }
        let key_after = key_of(requests.len());
        self.0.producer.look_up(&requests).await?;
        let checked = self.0.producer.check_batch(requests, false)?;
        self.0.producer.store_under_one_key(checked, key_after).await
    }

    /// Enqueues inside the caller's own transaction: the job exists if and only if that commits. It always goes to the
    /// ledger. Call [`Jobs::ring`] after the commit, or the worker's safety poll finds the job.
    ///
    /// # Errors
    /// The caller's transaction is to be rolled back after any but `Invalid`.
    pub async fn enqueue_in<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        enqueue: Enqueue,
    ) -> Result<EnqueuedJob, EnqueueError> {
        let (_, job) = enqueue.check().await?;
        let jobs = [job];
        let written = ledger::insert_in(tx.into(), &jobs, self.0.named_statements).await;
        let accepted = written.map_err(|source| LedgerError::Sql {
            doing: "accept a job in a transaction",
            source,
        });
        Producer::answer_in(&jobs, accepted)
    }

    /// The same for many jobs, of any kinds, one answer for each, in
    /// order. Nothing at all for none.
    ///
    /// # Errors
    /// As [`Jobs::enqueue_in`], for the first job that is refused.
    pub async fn enqueue_all_in<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        enqueues: Vec<Enqueue>,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let mut checked = Vec::with_capacity(enqueues.len());
        for enqueue in enqueues {
            checked.push(enqueue.check().await?.1);
        }
        let written = ledger::insert_in(tx.into(), &checked, self.0.named_statements).await;
        let accepted = written.map_err(|source| LedgerError::Sql {
            doing: "accept jobs in a transaction",
            source,
        });
        Producer::answers_in(&checked, accepted)
    }

    /// Looks for those of these names that neither the program nor its configuration knows.
    pub async fn look_up(&self, kinds: &[&str], queues: &[&str]) -> Result<(), LedgerError> {
        let kinds: Vec<&str> = kinds
            .iter()
            .copied()
            .filter(|kind| self.0.registry.get(kind).is_none())
            .collect();
        let queues: Vec<&str> = queues
            .iter()
            .copied()
            .filter(|queue| !self.0.queues.contains_key(*queue))
            .collect();
        self.0.declared.look_up(&kinds, &queues).await
    }

    /// The queue of a kind's jobs, as far as this process knows the kind now.
    pub fn queue_of_kind(&self, kind: &str) -> Option<String> {
        self.0.producer.kind(kind).map(|kind| kind.queue().to_owned())
    }

    /// Wakes the workers of a queue.
    pub fn ring(&self, queue: &str) {
        self.bell().ring(queue, 1, Duration::ZERO);
    }

    /// Wakes the workers of a queue for jobs that were committed by others, who know how many: as many as a bell wakes at once.
    pub fn ring_for_all(&self, queue: &str) {
        self.bell().ring(queue, crate::bell::MAX_ENTRIES, Duration::ZERO);
    }

    /// Counts and rings for what the end of a job has enqueued. To be called once the transaction is committed; what is not
    /// rung for is found by a worker's safety poll.
    pub(crate) fn announce(&self, effects: &Effects) {
        for job in &effects.enqueued {
            if let Some(kind) = self.0.producer.kind(&job.kind) {
                kind.meters().enqueued(Durability::Ledger);
            }
            self.0.statistics.enqueued(&job.queue, &job.kind);
            self.bell().ring(&job.queue, 1, job.delay);
        }
        for batch in &effects.ended {
            tracing::debug!(batch.id = %batch, "a batch has ended");
        }
    }

    pub(crate) async fn store_one(&self, job: NewJob) -> Result<EnqueuedJob, EnqueueError> {
        let stored = self.0.producer.store(vec![job]).await?;
        stored.into_iter().next().ok_or_else(|| {
            EnqueueError::Internal(LedgerError::Corrupt("an insert gave no answer".to_owned()))
        })
    }

    /// The job, wherever it lives. `None`: unknown, or no longer kept.
    pub async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        let found = self.0.waiting.get(id).await?;
        Ok(found.map(|record| self.readable_record(record)))
    }

    /// The job once it is final, or as it stands after `limit`.
    pub async fn wait(&self, id: JobId, limit: Duration) -> Result<Option<JobRecord>, LedgerError> {
        let found = self.0.waiting.wait(id, limit).await?;
        Ok(found.map(|record| self.readable_record(record)))
    }

    /// Jobs of the ledger, newest first.
    pub async fn list(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, LedgerError> {
        let found = search::list(&self.0.sql, filter).await?;
        Ok(self.readable_records(found))
    }

    pub(crate) fn readable_records(&self, records: Vec<JobRecord>) -> Vec<JobRecord> {
        records
            .into_iter()
            .map(|record| self.readable_record(record))
            .collect()
    }

    /// The queues as the ledger counts them, without what is on the broker.
    pub(crate) async fn ledger_counts(&self) -> Result<Vec<QueueStats>, LedgerError> {
        self.0.counts.get(&*self.0.ledger).await
    }

    /// Cancels a waiting job, asks a running one to give way. `None`: unknown id.
    pub async fn cancel(&self, id: JobId) -> Result<Option<CancelReply>, LedgerError> {
        if let Some((reply, effects)) = self.0.ledger.cancel(id).await? {
            self.announce(&effects);
            return Ok(Some(reply));
        }
        Ok(self.0.waiting.cancel_on_broker(id).await)
    }

    /// Makes a discarded or waiting job available now. `None`: unknown id.
    pub async fn retry(&self, id: JobId) -> Result<Option<RetryReply>, LedgerError> {
        let reply = self.0.ledger.retry_now(id).await?;
        if let Some(RetryReply::Available { queue }) = &reply {
            self.ring(queue);
        }
        Ok(reply)
    }

    /// Every configured and declared queue, and every other one that holds jobs. Counts that took the database longer than 20 ms are given
    /// again for ten times as long, 30 s at most.
    pub async fn queue_stats(&self) -> Result<Vec<QueueStats>, LedgerError> {
        let mut stats: BTreeMap<String, QueueStats> = self
            .ledger_counts()
            .await?
            .into_iter()
            .map(|one| (one.queue.clone(), one))
            .collect();
        let declared = self.0.declared.current().await?;
        let declared = declared.queues.iter().map(ToString::to_string);
        for name in self.0.queues.keys().cloned().chain(declared) {
            stats.entry(name.clone()).or_insert_with(|| QueueStats {
                queue: name.clone(),
                ..QueueStats::default()
            });
        }
        self.0.waiting.add_broker_depths(&mut stats).await;
        Ok(stats.into_values().collect())
    }

    /// Since when the oldest waiting job of a queue is due; `None`: none is.
    pub async fn oldest_due(&self, queue: &str) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let text = "select @ms(run_at) from holdfast_jobs
            where state = 'available' and queue = $1 and run_at <= @now order by run_at limit 1";
        let sql = &self.0.sql;
        let look = sql.within("look for the oldest due job", async {
            let mut tx = sql.begin_read().await?;
            let found = on_either!(
                tx.on(),
                sql.named(),
                query_as::<(i64,)>(text),
                [queue],
                fetch_optional
            )?;
            tx.commit().await?;
            Ok(found)
        });
        Ok(look.await?.map(|(millis,)| moment(millis)))
    }

    pub(crate) fn counts_changed(&self) {
        self.0.counts.changed();
    }

    /// No worker claims from a paused queue; what runs goes on. Survives restarts.
    pub async fn pause(&self, queue: &str) -> Result<(), LedgerError> {
        self.0.ledger.set_paused(queue, true).await?;
        self.0.counts.changed();
        Ok(())
    }

    pub async fn resume(&self, queue: &str) -> Result<(), LedgerError> {
        self.0.ledger.set_paused(queue, false).await?;
        self.0.counts.changed();
        self.ring(queue);
        Ok(())
    }

    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, LedgerError> {
        self.0.ledger.workers().await
    }
}
