//! `notify.webhook`: tells one endpoint of one event.
//!
//! | answer | what becomes of the delivery |
//! | --- | --- |
//! | 2xx | delivered |
//! | 410 | given up; the endpoint is disabled |
//! | any other, none, a network fault | tried again, after `Retry-After` if the receiver names a time |
//! | the address is refused, the endpoint is deleted or disabled | given up |
//!
//! A 4xx is tried again too: it is what a receiver in the middle of a deployment, or with the wrong secret, answers.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use holdfast_jobs::{Backoff, Job, JobContext, JobError, PayloadFault, RetryPolicy, id_schema};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::endpoints::Endpoint;
use super::log::Attempt;
use super::model::{ENGINE_EVENTS, EVENT_PATTERN, EventType, MAX_EVENT, WebhookId};
use super::{EXCERPT, Webhooks};
use holdfast_outbound::{Call, Outbound, Reply, shown, signed_headers};

/// What the runner grants beyond the longest time of a receiver, for the log and our own error.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Longest id of a message, in bytes.
const MAX_ID: usize = 255;

const HOLDFAST_ATTEMPT: HeaderName = HeaderName::from_static("holdfast-attempt");

/// An event for an endpoint.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyWebhook {
    /// The id of the endpoint, from `POST /v1/webhooks`.
    #[schemars(schema_with = "id_schema")]
    pub webhook: WebhookId,
    /// The id of the notification, sent as `webhook-id`, by which a receiver recognises a repeat.
    #[schemars(pattern(r"^[!-\-/-~]{1,255}$"))]
    pub id: String,
    /// The type of the notification, e.g. `order.paid`. Not one of the engine's own, such as `job.completed`.
    #[schemars(
        with = "String",
        length(max = MAX_EVENT),
        extend("pattern" = EVENT_PATTERN, "not" = {"enum": ENGINE_EVENTS})
    )]
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it happened.
    #[schemars(extend("pattern" = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"))]
    pub timestamp: DateTime<Utc>,
    /// The data of the notification.
    pub data: Box<RawValue>,
    /// Whether it is also sent to a disabled endpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
}

/// The body, as Standard Webhooks recommends it.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    event_type: &'a EventType,
    timestamp: String,
    data: &'a RawValue,
}

/// How it was delivered.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Delivered")]
pub struct DeliveryReport {
    pub status: u16,
    pub elapsed_ms: u64,
}

impl Job for NotifyWebhook {
    const KIND: &'static str = "notify.webhook";
    const QUEUE: &'static str = "notifications";
    type Output = DeliveryReport;

    fn example() -> Option<Self> {
        let data = serde_json::value::to_raw_value(&serde_json::json!({"order": 17}));
        Some(Self {
            webhook: "01JD3V0S7W8Q4M2XKZC5T9R6BH".parse().ok()?,
            id: "msg_17".to_owned(),
            event_type: "order.paid".parse().ok()?,
            timestamp: DateTime::from_timestamp(1_795_953_600, 0)?,
            data: data.ok()?,
            test: false,
        })
    }

    fn timeout() -> Option<Duration> {
        Some(TIMEOUT)
    }

    /// Over at least a day, and at most two: a receiver that is down for a night receives everything in the morning.
    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts: 18,
            backoff: Backoff::with_floor(Duration::from_secs(30), Duration::from_hours(6)),
        })
    }

    /// Events of the engine are refused by the schema, which payloads of producers are checked against: those that the engine makes
    /// itself are typed.
    fn validate(&self) -> Result<(), PayloadFault> {
        let is_sound = (1..=MAX_ID).contains(&self.id.len())
            && self
                .id
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'.');
        if !is_sound {
            let reason = "must be 1 to 255 printable ASCII characters without blanks and dots";
            return Err(PayloadFault::new("id", reason));
        }
        Ok(())
    }

    async fn run(self, ctx: JobContext) -> Result<DeliveryReport, JobError> {
        let (webhooks, outbound) = (ctx.resource::<Webhooks>()?, ctx.resource::<Outbound>()?);
        let endpoint = webhooks.endpoint(self.webhook).await?;
        let endpoint = endpoint.ok_or_else(|| {
            let text = format!("the webhook {} no longer exists", self.webhook);
            JobError::permanent(text)
        })?;
        if !endpoint.enabled && !self.test {
            let why = endpoint.disabled_reason.as_deref().unwrap_or("by its owner");
            let text = format!("the webhook {} is disabled: {why}", self.webhook);
            return Err(JobError::permanent(text));
        }
        let body = self.body()?;
        let call = Call {
            method: reqwest::Method::POST,
            url: endpoint.url.clone(),
            headers: self.headers(&endpoint, &body, &ctx)?,
            body: Some(body.clone().into()),
            timeout: webhooks.0.settings.webhook_timeout,
            accept: Vec::new(),
        };
        let began = Instant::now();
        let answer = tokio::select! {
            answer = outbound.send_once(call, EXCERPT) => answer,
            () = ctx.cancelled() => return Err(JobError::Cancelled),
        };
        let attempt = Attempt::of(&self, &ctx, &body, &answer, began.elapsed());
        let outcome = judge(&endpoint, answer);
        if webhooks.0.log.write(attempt.ended(&outcome)).await {
            webhooks.forget(self.webhook);
        }
        outcome
    }
}

impl NotifyWebhook {
    fn body(&self) -> Result<String, JobError> {
        let body = Body {
            event_type: &self.event_type,
            timestamp: self.timestamp.to_rfc3339_opts(SecondsFormat::Millis, true),
            data: &self.data,
        };
        serde_json::to_string(&body).map_err(JobError::permanent)
    }

    fn headers(&self, endpoint: &Endpoint, body: &str, ctx: &JobContext) -> Result<HeaderMap, JobError> {
        let mut headers = signed_headers(&self.id, endpoint.secrets(), body.as_bytes())?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HOLDFAST_ATTEMPT, HeaderValue::from(ctx.attempt()));
        Ok(headers)
    }
}

/// What an answer means for the delivery.
fn judge(endpoint: &Endpoint, answer: Result<Reply, JobError>) -> Result<DeliveryReport, JobError> {
    let reply = answer?;
    if reply.status.is_success() {
        return Ok(DeliveryReport {
            status: reply.status.as_u16(),
            elapsed_ms: u64::try_from(reply.elapsed.as_millis()).unwrap_or(u64::MAX),
        });
    }
    let text = format!("{} answered {}", shown(&endpoint.url), reply.status);
    Err(match reply.retry_after() {
        _ if reply.status == reqwest::StatusCode::GONE => JobError::permanent(text),
        Some(rest) => JobError::retry_after(rest, text),
        None => JobError::transient(text),
    })
}
