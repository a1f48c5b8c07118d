//! The log of deliveries: what was sent, what came back, and what follows for the endpoint.
//!
//! Attempts that end at the same time share one transaction: a task takes the first that waits and every one behind it, up
//! to [`BATCH`]. An attempt waits for its row, so that a client that sees a delivery's outcome finds it here; a row that cannot be
//! written is told in the process' log and dropped, and nothing is sent again for its sake.
//!
//! In the same transaction an endpoint's `failing_since` follows its last attempt, and one that has failed for too long, or
//! is gone, is disabled; with an entry in the audit log, and an event `webhook.disabled` for the other endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_jobs::audit::{Actor, AuditContext, AuditEntry};
use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::{OwnTx, Sql};
use holdfast_jobs::{JobContext, JobError, JobId, Jobs, LedgerTx};
use reqwest::StatusCode;
use serde::Serialize;
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::deliver::{DeliveryReport, NotifyWebhook};
use super::model::{InvalidEvent, WebhookId};
use super::publish::{Event, publish};
use super::{EXCERPT, WebhookError, Webhooks};
use crate::action;
use holdfast_core::sql::dialect::{millis, moment, on_either, read_either, rows, write_either};
use holdfast_outbound::Reply;

/// Most attempts of one transaction.
const BATCH: usize = 200;

/// Attempts that may wait for their rows; further ones wait for a place.
const WAITING: usize = 4_096;

/// Longest that an attempt waits for its row.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rows pruned by one statement, and statements of one look.
const PRUNE: usize = 1_000;
const PRUNE_STEPS: usize = 20;

/// Longest error that is kept, in bytes.
const MAX_ERROR: usize = 1_024;

holdfast_core::ids! {
    /// Names one attempt; a ULID.
    DeliveryId;
}

/// One attempt, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub message_id: String,
    pub event_type: String,
    pub job_id: JobId,
    pub attempt: u32,
    pub at: DateTime<Utc>,
    pub duration_ms: u64,
    pub delivered: bool,
    /// `None`: there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The beginning of the body that was sent.
    pub request: String,
    /// The beginning of the body that came back.
    pub response: Option<String>,
}

/// Which attempts to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeliveryFilter {
    pub delivered: Option<bool>,
    /// Only attempts older than this one.
    pub before: Option<DeliveryId>,
    pub limit: usize,
}

/// An attempt that has ended, before it is written.
#[derive(Debug, Serialize)]
pub(super) struct Attempt {
    #[serde(skip)]
    webhook: WebhookId,
    #[serde(skip)]
    gone: bool,
    id: String,
    webhook_id: String,
    message_id: String,
    event_type: String,
    job_id: String,
    #[serde(rename = "attempt")]
    number: u32,
    duration_ms: u64,
    delivered: bool,
    status: Option<u16>,
    error: Option<String>,
    request: String,
    response: Option<String>,
}

impl Attempt {
    pub(super) fn of(
        job: &NotifyWebhook,
        ctx: &JobContext,
        body: &str,
        answer: &Result<Reply, JobError>,
        took: Duration,
    ) -> Self {
        let reply = answer.as_ref().ok();
        Self {
            webhook: job.webhook,
            gone: reply.is_some_and(|reply| reply.status == StatusCode::GONE),
            id: Uuid::from_u128(DeliveryId::generate().0.0).simple().to_string(),
            webhook_id: job.webhook.as_uuid().simple().to_string(),
            message_id: job.id.clone(),
            event_type: job.event_type.to_string(),
            job_id: ctx.id().as_uuid().simple().to_string(),
            number: ctx.attempt(),
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            delivered: false,
            status: reply.map(|reply| reply.status.as_u16()),
            error: None,
            request: beginning(body, EXCERPT),
            response: reply.map(|reply| beginning(&String::from_utf8_lossy(&reply.body), EXCERPT)),
        }
    }

    pub(super) fn ended(mut self, outcome: &Result<DeliveryReport, JobError>) -> Self {
        self.delivered = outcome.is_ok();
        self.error = outcome
            .as_ref()
            .err()
            .map(|error| beginning(&error.to_string(), MAX_ERROR));
        self
    }
}

/// At most so many bytes, and no NUL, which PostgreSQL cannot hold.
fn beginning(text: &str, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

pub(super) struct LogParts {
    pub(super) sql: Sql,
    pub(super) jobs: Jobs,
    pub(super) disable_after: Duration,
}

/// What waits hears whether its endpoint is disabled now.
type WaitingAttempt = (Attempt, oneshot::Sender<bool>);

/// Takes attempts, and writes them in batches. Its task ends with the last handle.
#[derive(Debug)]
pub(super) struct Log {
    waiting: mpsc::Sender<WaitingAttempt>,
}

impl Log {
    /// Call it inside tokio.
    pub(super) fn spawn(parts: LogParts) -> Self {
        let (waiting, attempts) = mpsc::channel(WAITING);
        tokio::spawn(write_all(parts, attempts));
        Self { waiting }
    }

    /// Waits until the attempt is written, or cannot be; whether its endpoint is disabled now.
    pub(super) async fn write(&self, attempt: Attempt) -> bool {
        let (written, row) = oneshot::channel();
        let writing = async {
            // Nobody takes attempts any more only where the runtime ends.
            match self.waiting.send((attempt, written)).await {
                Ok(()) => row.await.unwrap_or_default(),
                Err(_) => false,
            }
        };
        tokio::time::timeout(PATIENCE, writing).await.unwrap_or_else(|_| {
            tracing::warn!("the row of a delivery is missing from the log of webhooks");
            false
        })
    }
}

async fn write_all(parts: LogParts, mut attempts: mpsc::Receiver<WaitingAttempt>) {
    let mut batch = Vec::with_capacity(BATCH);
    while attempts.recv_many(&mut batch, BATCH).await > 0 {
        let (rows, waiting): (Vec<Attempt>, Vec<_>) = batch.drain(..).unzip();
        let disabled = parts.write(&rows).await.unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                deliveries = rows.len(),
                "deliveries of webhooks are missing from their log"
            );
            Vec::new()
        });
        for (attempt, written) in rows.iter().zip(waiting) {
            // Its job may have been given up meanwhile.
            written.send(disabled.contains(&attempt.webhook)).ok();
        }
    }
}

const POSTGRES_INSERT: &str = "
insert into holdfast_webhook_deliveries (id, webhook_id, message_id, event_type, job_id, attempt, duration_ms,
                                         delivered, status, error, request, response)
select id, webhook_id, message_id, event_type, job_id, attempt, duration_ms, delivered, status, error, request, response
from json_to_recordset($1::text::json)
  as r(id uuid, webhook_id uuid, message_id text, event_type text, job_id uuid, attempt integer, duration_ms bigint,
       delivered boolean, status integer, error text, request text, response text)
on conflict do nothing";

const SQLITE_INSERT: &str = "
insert into holdfast_webhook_deliveries (id, webhook_id, message_id, event_type, job_id, attempt, at, duration_ms,
                                         delivered, status, error, request, response)
select unhex(value ->> 'id'), unhex(value ->> 'webhook_id'), value ->> 'message_id', value ->> 'event_type',
       unhex(value ->> 'job_id'), value ->> 'attempt', cast(unixepoch('subsec') * 1000 as integer),
       value ->> 'duration_ms', value ->> 'delivered', value ->> 'status', value ->> 'error', value ->> 'request',
       value ->> 'response'
from json_each($1)
where true
on conflict do nothing";

/// An endpoint that Holdfast has disabled.
struct DisabledEndpoint {
    id: WebhookId,
    reason: String,
}

/// What the other endpoints are told then.
const DISABLED_EVENT: &str = "webhook.disabled";

/// How an endpoint's attempts of one batch ended.
#[derive(Debug, Clone, Copy, Default)]
struct BatchSummary {
    /// The last one.
    delivered: bool,
    gone: bool,
}

impl LogParts {
    /// Both or neither: the rows, and what follows for their endpoints. Those that are disabled now.
    async fn write(&self, attempts: &[Attempt]) -> Result<Vec<WebhookId>, WebhookError> {
        let text =
            serde_json::to_string(attempts).map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        // By id: every change of several endpoints takes them in the same order.
        let mut summaries: BTreeMap<WebhookId, BatchSummary> = BTreeMap::new();
        for attempt in attempts {
            let summary = summaries.entry(attempt.webhook).or_default();
            summary.delivered = attempt.delivered;
            summary.gone |= attempt.gone;
        }
        let written = self
            .sql
            .within("log deliveries of webhooks", async {
                let mut tx = self.sql.begin().await?;
                match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let insert = sqlx::query(POSTGRES_INSERT).bind(&text);
                        insert.persistent(self.sql.named()).execute(on).await?;
                    }
                    LedgerTx::Sqlite(on) => {
                        sqlx::query(SQLITE_INSERT).bind(&text).execute(on).await?;
                    }
                }
                let mut disabled = Vec::new();
                for (&id, summary) in &summaries {
                    disabled.extend(self.follow(&mut tx, id, *summary).await?);
                }
                let mut told = Vec::new();
                for notice in &disabled {
                    match self.tell_others(&mut tx, notice).await {
                        Ok(jobs) => told.extend(jobs),
                        Err(error) => return Ok(Err(error)),
                    }
                }
                tx.commit().await?;
                Ok(Ok((disabled, told)))
            })
            .await?;
        let (disabled, told) = written?;
        for DisabledEndpoint { id, reason } in &disabled {
            tracing::warn!(webhook.id = %id, "the webhook is disabled: {reason}; PUT /v1/webhooks/{id} enables it again");
        }
        if let Some(job) = told.first() {
            self.jobs.ring(&job.queue);
        }
        Ok(disabled.into_iter().map(|disabled| disabled.id).collect())
    }

    /// What the last attempts mean for their endpoint; the reason, if it is disabled now.
    async fn follow(
        &self,
        tx: &mut OwnTx,
        id: WebhookId,
        summary: BatchSummary,
    ) -> Result<Option<DisabledEndpoint>, sqlx::Error> {
        let named = self.sql.named();
        if summary.delivered && !summary.gone {
            let text = "update holdfast_webhooks set failing_since = null where id = $1 and failing_since is not null";
            on_either!(tx.on(), named, query(text), [id.as_uuid()], execute)?;
            return Ok(None);
        }
        let text =
            "update holdfast_webhooks set failing_since = @now where id = $1 and failing_since is null";
        on_either!(tx.on(), named, query(text), [id.as_uuid()], execute)?;
        let (reason, failing_for) = if summary.gone {
            ("it answered 410 Gone".to_owned(), Duration::ZERO)
        } else {
            let days = self.disable_after.as_secs_f64() / 86_400.0;
            (
                format!("it failed for {days} days without a success"),
                self.disable_after,
            )
        };
        let text = "update holdfast_webhooks set enabled = false, disabled_reason = $2, updated_at = @now
            where id = $1 and enabled and failing_since <= @ago($3)";
        let disabled = on_either!(
            tx.on(),
            named,
            query(text),
            [id.as_uuid(), &reason, millis(failing_for)],
            execute
        )?;
        if disabled == 0 {
            return Ok(None);
        }
        let entry = AuditEntry::new(action::WEBHOOK_DISABLE)
            .target(id)
            .details(json!({ "reason": reason }));
        let by = AuditContext::new(Actor::system());
        self.jobs.audit().record_in(tx.on(), &by, &entry).await?;
        Ok(Some(DisabledEndpoint { id, reason }))
    }

    /// An endpoint that listens to `webhook.disabled` receives those of the others.
    async fn tell_others(
        &self,
        tx: &mut OwnTx,
        notice: &DisabledEndpoint,
    ) -> Result<Vec<EnqueuedJob>, EnqueueError> {
        let corrupt = |error: String| EnqueueError::Internal(LedgerError::Corrupt(error));
        let event_type = DISABLED_EVENT
            .parse()
            .map_err(|error: InvalidEvent| corrupt(error.to_string()))?;
        let data = to_raw_value(&json!({"webhook_id": notice.id, "reason": notice.reason}))
            .map_err(|error| corrupt(error.to_string()))?;
        publish(tx.on(), &self.sql, &self.jobs, &[Event::new(event_type, data)]).await
    }
}

type Row = (
    Uuid,
    String,
    String,
    Uuid,
    i32,
    i64,
    i64,
    bool,
    Option<i32>,
    Option<String>,
    String,
    Option<String>,
);

impl Webhooks {
    /// The attempts of an endpoint, newest first.
    pub async fn deliveries(
        &self,
        id: WebhookId,
        filter: DeliveryFilter,
    ) -> Result<Vec<Delivery>, WebhookError> {
        self.get(id).await?;
        let text = "select id, message_id, event_type, job_id, attempt, @ms(at), duration_ms, delivered, status, error,
                   request, response
            from holdfast_webhook_deliveries
            where webhook_id = $1 and id < $2 and ($3 or delivered = $4) order by id desc limit $5";
        let before = filter.before.map_or(Uuid::max(), DeliveryId::as_uuid);
        let listed = read_either!(
            self.0.sql,
            "list deliveries of a webhook",
            query_as::<Row>(text),
            [
                id.as_uuid(),
                before,
                filter.delivered.is_none(),
                filter.delivered.unwrap_or_default(),
                rows(filter.limit)
            ],
            fetch_all
        )?;
        Ok(listed.into_iter().map(delivery).collect())
    }

    /// Deletes rows past their retention, a bounded number; how many.
    pub async fn prune(&self) -> Result<u64, LedgerError> {
        let mut gone = 0;
        for table in ["holdfast_webhook_deliveries", "holdfast_notices"] {
            let text = format!(
                "delete from {table} where id in (select id from {table} where at < @ago($1) order by at limit $2 @skip_locked)"
            );
            for _ in 0..PRUNE_STEPS {
                let step = self.prune_step(&text).await?;
                gone += step;
                if step < PRUNE as u64 {
                    break;
                }
            }
        }
        Ok(gone)
    }

    async fn prune_step(&self, text: &str) -> Result<u64, LedgerError> {
        let age = millis(self.0.settings.retain_deliveries);
        write_either!(
            self.0.sql,
            "prune deliveries of webhooks",
            query(text),
            [age, rows(PRUNE)],
            execute
        )
    }
}

fn delivery(row: Row) -> Delivery {
    let (id, message_id, event_type, job, attempt, at, duration, delivered, status, error, request, response) =
        row;
    Delivery {
        id: DeliveryId::from_uuid(id),
        message_id,
        event_type,
        job_id: JobId::from_uuid(job),
        attempt: attempt.unsigned_abs(),
        at: moment(at),
        duration_ms: duration.unsigned_abs(),
        delivered,
        status: status.and_then(|status| u16::try_from(status).ok()),
        error,
        request,
        response,
    }
}
