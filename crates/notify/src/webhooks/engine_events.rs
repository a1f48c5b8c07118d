//! Events of the engine: jobs, batches, schedules and queues.
//!
//! # Invariants
//! - Events are made of ids, names and counts, never of payloads, results or error messages.
//! - An endpoint that was made, changed or deleted counts from [`SUBSCRIPTIONS_TTL`] on at the latest, everywhere; in the process that
//!   changed it, immediately.
//! - Without endpoints for them, the list of endpoints is read at most once in that time, and only while jobs end.
//! - A delivery has no events itself: there would be no end to them.
//! - The event of a missed slot, of a stall, and of a job on Redis has an id that is made of what it tells of, and one delivery for
//!   each endpoint, however many processes notice it.
//!
//! # When things fail
//! *A delivery cannot be made into a job* (the queue `notifications` is not configured): the outcome is stored without it, and the log
//! says so.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_core::sql::dialect::{read_either, rows};
use holdfast_jobs::ledger::{LedgerError, NewJob};
use holdfast_jobs::link::EndedBatch;
use holdfast_jobs::observer::{EndedJob, MissedTick, Observer};
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{Job as _, Jobs, StoredState, WeakJobs};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use ulid::Ulid;
use uuid::Uuid;

use super::deliver::NotifyWebhook;
use super::endpoints::decoded;
use super::model::{
    BATCH_COMPLETED, Filter, JOB_COMPLETED, JOB_DISCARDED, QUEUE_STALLED, SCHEDULE_MISSED, Scope, WebhookId,
};
use super::publish::Event;
use super::{ENGINE_EVENTS, MAX_ENGINE_WEBHOOKS, MAX_WEBHOOKS, Webhooks};

/// Longest that a changed endpoint is taken for what it was.
pub const SUBSCRIPTIONS_TTL: Duration = Duration::from_secs(5);

/// An enabled endpoint that is sent events of the engine.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) webhook: WebhookId,
    events: Vec<Filter>,
    scope: Scope,
}

impl Subscription {
    fn takes(&self, event: &str, kind: Option<&str>, queue: Option<&str>) -> bool {
        self.events.iter().any(|filter| filter.names_engine_event(event)) && self.scope.takes(kind, queue)
    }
}

type Row = (Uuid, String, String, String);

/// The enabled endpoints for events of the engine, at most [`MAX_ENGINE_WEBHOOKS`].
async fn read(sql: &Sql) -> Result<Vec<Subscription>, LedgerError> {
    let text = "select id, events, kinds, queues from holdfast_webhooks where enabled order by id limit $1";
    let found = read_either!(
        sql,
        "read the webhooks of the engine",
        query_as::<Row>(text),
        [rows(MAX_WEBHOOKS)],
        fetch_all
    )?;
    let mut subscriptions = Vec::new();
    for (id, events, kinds, queues) in found {
        let webhook = WebhookId::from_uuid(id);
        match subscription(webhook, &events, &kinds, &queues) {
            Ok(subscription)
                if ENGINE_EVENTS
                    .iter()
                    .any(|event| subscription.takes(event, None, None)) =>
            {
                subscriptions.push(subscription);
            }
            Ok(_) => {}
            // One damaged row must not cost the others their events.
            Err(error) => tracing::error!(webhook.id = %webhook, error = ?error, "a webhook cannot be read"),
        }
    }
    subscriptions.truncate(MAX_ENGINE_WEBHOOKS);
    Ok(subscriptions)
}

fn subscription(
    webhook: WebhookId,
    events: &str,
    kinds: &str,
    queues: &str,
) -> Result<Subscription, sqlx::Error> {
    Ok(Subscription {
        webhook,
        events: decoded(events)?,
        scope: Scope {
            kinds: decoded(kinds)?,
            queues: decoded(queues)?,
        },
    })
}

impl Webhooks {
    pub(super) async fn subscriptions(&self) -> Result<Vec<Subscription>, LedgerError> {
        read(&self.0.sql).await
    }
}

#[derive(Debug, Default)]
struct SubscriptionList {
    subscriptions: Arc<[Subscription]>,
    /// From before the question on. `None`: never, or something has changed since.
    read_at: Option<Instant>,
    was_read: bool,
    changes: u64,
}

/// Makes the engine's events into deliveries.
#[derive(Debug)]
pub struct EngineEvents {
    sql: Sql,
    jobs: WeakJobs,
    known: RwLock<SubscriptionList>,
    turn: tokio::sync::Mutex<()>,
}

impl EngineEvents {
    /// Has what ends in this process become events. It reaches nothing yet.
    pub fn observe(settings: &Settings, database: &Database, jobs: &Jobs) -> Arc<Self> {
        let events = Arc::new(Self {
            sql: Sql::new(database, &settings.database),
            jobs: jobs.downgrade(),
            known: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
        });
        jobs.observe(events.clone());
        events
    }

    fn known<T>(&self, read: impl FnOnce(&SubscriptionList) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut SubscriptionList)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether an endpoint is sent this event, of some kind and queue.
    pub(super) fn wants(&self, event: &str) -> bool {
        self.known(|known| known.subscriptions.iter().any(|one| one.takes(event, None, None)))
    }

    /// One delivery for each endpoint that is sent the event.
    fn deliveries(
        &self,
        event: &Event,
        kind: Option<&str>,
        queue: Option<&str>,
        is_keyed: bool,
    ) -> Vec<NewJob> {
        let Some(jobs) = self.jobs.upgrade() else {
            return Vec::new();
        };
        let subscriptions = self.known(|known| Arc::clone(&known.subscriptions));
        let taking = subscriptions
            .iter()
            .filter(|one| one.takes(event.name.as_str(), kind, queue));
        let checked = taking.filter_map(|one| {
            let delivery = jobs.enqueue(event.to(one.webhook, false));
            let delivery = if is_keyed {
                delivery.idempotency_key(event.key_for(one.webhook))
            } else {
                delivery
            };
            jobs.checked(delivery)
                .inspect_err(|error| {
                    tracing::error!(event = event.name.as_str(), error = ?error, "an event cannot be delivered");
                })
                .ok()
        });
        checked.collect()
    }

    pub(super) fn stalled(&self, queue: &str, since: DateTime<Utc>) -> Vec<NewJob> {
        let data = json!({"queue": queue, "oldest_due_at": since});
        let id = named_id(since, &[QUEUE_STALLED, queue]);
        event(id, QUEUE_STALLED, &data)
            .map(|event| self.deliveries(&event, None, Some(queue), true))
            .unwrap_or_default()
    }
}

fn name_of(state: StoredState) -> Option<&'static str> {
    match state {
        StoredState::Completed => Some(JOB_COMPLETED),
        StoredState::Discarded => Some(JOB_DISCARDED),
        StoredState::Available | StoredState::Running | StoredState::Cancelled => None,
    }
}

/// An event of now; its id may name another time.
fn event(id: Ulid, name: &str, data: &Value) -> Option<Event> {
    let name = name.parse().ok()?;
    let data = serde_json::value::to_raw_value(data).ok()?;
    Some(Event {
        at: clock::now(),
        ..Event::at(id, name, data)
    })
}

fn fresh_id() -> Ulid {
    Ulid::from_parts(clock::unix_millis(), rand::random::<u128>())
}

/// The same in every process for the same moment and the same thing.
fn named_id(at: DateTime<Utc>, of: &[&str]) -> Ulid {
    let hash = Sha256::digest(of.join("\n"));
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or_default();
    Ulid::from_parts(millis, u128::from_be_bytes(half))
}

#[async_trait]
impl Observer for EngineEvents {
    async fn refresh(&self) -> Result<(), LedgerError> {
        let _turn = self.turn.lock().await;
        if self.is_current() {
            return Ok(());
        }
        let (began, changes) = (Instant::now(), self.known(|known| known.changes));
        let subscriptions = read(&self.sql).await?;
        self.change(|known| {
            known.subscriptions = subscriptions.into();
            known.was_read = true;
            // What changed while it was read may not be in it.
            known.read_at = (known.changes == changes).then_some(began);
        });
        Ok(())
    }

    fn is_current(&self) -> bool {
        self.known(|known| known.read_at.is_some_and(|at| at.elapsed() < SUBSCRIPTIONS_TTL))
    }

    fn is_known(&self) -> bool {
        self.known(|known| known.was_read)
    }

    fn changed(&self) {
        self.change(|known| {
            known.changes += 1;
            known.read_at = None;
        });
    }

    fn wants_job(&self, kind: &str, queue: &str, state: StoredState) -> bool {
        let Some(name) = name_of(state).filter(|_| kind != NotifyWebhook::KIND) else {
            return false;
        };
        self.known(|known| {
            let mut subscriptions = known.subscriptions.iter();
            subscriptions.any(|one| one.takes(name, Some(kind), Some(queue)))
        })
    }

    fn on_job(&self, job: &EndedJob<'_>) -> Vec<NewJob> {
        let Some(name) = name_of(job.state) else {
            return Vec::new();
        };
        let mut data = json!({
            "job": job.id,
            "kind": job.kind,
            "queue": job.queue,
            "attempt": job.attempt,
            "crashes": job.crashes,
        });
        if let Some(batch) = job.batch {
            data["batch"] = json!(batch);
        }
        if let Some(class) = job.error_class {
            data["error"] = json!({"class": class});
        }
        let id = if job.may_repeat {
            let (id, run) = (job.id.to_string(), format!("{}/{}", job.attempt, job.crashes));
            named_id(DateTime::UNIX_EPOCH, &[name, &id, &run])
        } else {
            fresh_id()
        };
        event(id, name, &data)
            .map(|event| self.deliveries(&event, Some(job.kind), Some(job.queue), job.may_repeat))
            .unwrap_or_default()
    }

    fn on_batch(&self, batch: &EndedBatch) -> Vec<NewJob> {
        let data = json!({
            "batch": batch.id,
            "total": batch.total,
            "completed": batch.completed,
            "discarded": batch.discarded,
            "cancelled": batch.cancelled,
        });
        event(fresh_id(), BATCH_COMPLETED, &data)
            .map(|event| self.deliveries(&event, None, None, false))
            .unwrap_or_default()
    }

    fn on_missed(&self, tick: &MissedTick) -> Vec<NewJob> {
        let data = json!({
            "schedule": tick.schedule,
            "kind": tick.kind,
            "queue": tick.queue,
            "slot": tick.slot,
        });
        let id = named_id(tick.slot, &[SCHEDULE_MISSED, &tick.schedule]);
        event(id, SCHEDULE_MISSED, &data)
            .map(|event| self.deliveries(&event, Some(&tick.kind), tick.queue.as_deref(), true))
            .unwrap_or_default()
    }
}
