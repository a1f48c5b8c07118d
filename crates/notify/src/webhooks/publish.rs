//! Telling endpoints of events, and testing one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_jobs::enqueue::{Enqueue, EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{Jobs, LedgerTx};
use serde_json::value::RawValue;
use ulid::Ulid;
use uuid::Uuid;

use super::deliver::NotifyWebhook;
use super::model::{EventType, Filter, WebhookId};
use super::{MAX_WEBHOOKS, WebhookError, Webhooks};
use holdfast_core::sql::dialect::{on_either, rows};

/// What a publisher is told to wait while the database is away.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What a test tells an endpoint.
const TEST_EVENT: &str = "webhook.test";

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// The same at every endpoint, `msg_` and a ULID: what a receiver tells a repeat by.
    pub(crate) id: String,
    pub(crate) name: EventType,
    pub(crate) at: DateTime<Utc>,
    pub(crate) data: Box<RawValue>,
}

impl Event {
    /// Under a fresh id, at this moment.
    pub fn new(name: EventType, data: Box<RawValue>) -> Self {
        let id = Ulid::from_parts(clock::unix_millis(), rand::random::<u128>());
        Self::at(id, name, data)
    }

    /// Under an id of the caller's own, at the moment which that names.
    pub(crate) fn at(id: Ulid, name: EventType, data: Box<RawValue>) -> Self {
        let millis = i64::try_from(id.timestamp_ms()).unwrap_or_default();
        Self {
            id: format!("msg_{id}"),
            name,
            at: DateTime::from_timestamp_millis(millis).unwrap_or_default(),
            data,
        }
    }

    /// However often the event is published under this id, it makes one job for an endpoint.
    pub(super) fn key_for(&self, webhook: WebhookId) -> String {
        format!("notify.webhook/{}/{webhook}", self.id)
    }

    pub(super) fn to(&self, webhook: WebhookId, test: bool) -> NotifyWebhook {
        NotifyWebhook {
            webhook,
            id: self.id.clone(),
            event_type: self.name.clone(),
            timestamp: self.at,
            data: self.data.clone(),
            test,
        }
    }
}

impl Webhooks {
    /// Tells every enabled endpoint whose filters match, inside the caller's own transaction: the deliveries exist if and
    /// only if that commits. The jobs. Call [`Webhooks::ring`] after the commit.
    ///
    /// # Errors
    /// The caller's transaction is to be rolled back.
    pub async fn publish_in<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        event: &Event,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        publish(tx.into(), &self.0.sql, &self.0.jobs, std::slice::from_ref(event)).await
    }

    /// [`Webhooks::publish_in`] for many events: the endpoints are looked up once.
    ///
    /// # Errors
    /// The caller's transaction is to be rolled back.
    pub async fn publish_all_in<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        events: &[Event],
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        publish(tx.into(), &self.0.sql, &self.0.jobs, events).await
    }

    /// How many endpoints receive anything, at most [`MAX_WEBHOOKS`].
    pub(crate) async fn count_enabled(&self) -> Result<usize, LedgerError> {
        let sql = &self.0.sql;
        sql.within("count webhooks", async {
            let mut tx = sql.begin_read().await?;
            let enabled = enabled(tx.on(), sql).await?;
            tx.commit().await?;
            Ok(enabled.len())
        })
        .await
    }

    /// Wakes the workers that deliver.
    pub fn ring(&self, told: &[EnqueuedJob]) {
        if let Some(job) = told.first() {
            self.0.jobs.ring(&job.queue);
        }
    }

    /// Sends a test to an endpoint, whatever its filters and whether or not it is enabled; tried once.
    pub async fn test(&self, id: WebhookId) -> Result<EnqueuedJob, WebhookError> {
        let webhook = self.get(id).await?;
        let event_type = TEST_EVENT
            .parse()
            .map_err(|_| LedgerError::Corrupt("the test's name is no event".to_owned()))?;
        let data = serde_json::value::to_raw_value(&serde_json::json!({ "webhook_id": webhook.id }))
            .map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let event = Event::new(event_type, data);
        let job = event.to(id, true);
        Ok(self.0.jobs.enqueue(job).max_attempts(1).await?)
    }
}

/// See [`Webhooks::publish_all_in`].
pub(super) async fn publish(
    mut tx: LedgerTx<'_>,
    sql: &Sql,
    jobs: &Jobs,
    events: &[Event],
) -> Result<Vec<EnqueuedJob>, EnqueueError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let enabled = enabled(tx.reborrow(), sql).await.map_err(|source| {
        let doing = "find the webhooks of an event";
        unpublished(LedgerError::Sql { doing, source })
    })?;
    let mut told: Vec<Enqueue> = Vec::new();
    for event in events {
        let listening = enabled
            .iter()
            .filter(|(_, filters)| filters.iter().any(|filter| filter.matches(&event.name)));
        told.extend(listening.map(|&(webhook, _)| {
            let job = event.to(webhook, false);
            jobs.enqueue(job).idempotency_key(event.key_for(webhook))
        }));
    }
    jobs.enqueue_all_in(tx, told).await
}

/// Nothing was written by a statement that only reads.
fn unpublished(error: LedgerError) -> EnqueueError {
    if error.is_transient() {
        return EnqueueError::Unavailable {
            certain: true,
            retry_after: RETRY_AFTER,
            source: Some(error),
        };
    }
    EnqueueError::Internal(error)
}

/// The enabled endpoints, and what each of them wants to hear of.
async fn enabled(on: LedgerTx<'_>, sql: &Sql) -> Result<Vec<(WebhookId, Vec<Filter>)>, sqlx::Error> {
    let text = "select id, events from holdfast_webhooks where enabled order by id limit $1";
    let enabled = on_either!(
        on,
        sql.named(),
        query_as::<(Uuid, String)>(text),
        [rows(MAX_WEBHOOKS)],
        fetch_all
    )?;
    let decoded = |(id, filters): (Uuid, String)| {
        let filters = serde_json::from_str(&filters).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok((WebhookId::from_uuid(id), filters))
    };
    enabled.into_iter().map(decoded).collect()
}
