//! Kinds and queues as data: declared, shown and forgotten at run time.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web;
use holdfast_http::body::fields::Seconds;
use holdfast_http::problem::quote;
use holdfast_http::{Admin, Bound, Call, Declare, Problem, ProblemKind, Read, Reply, json, ok};
use holdfast_jobs::declared::{DeclaredKind, KindDefinition, RetryDefinition};
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::kinds::KindView;
use crate::queues;
use crate::state::ControlState;

/// The parts of a retry policy that a kind decides. The others are the configured default's.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KindRetry)]
pub struct RetryBody {
    /// Largest number of attempts, the first included.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub max_attempts: Option<u32>,
    /// Longest delay after the first failure, doubled after each further one.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 86_400)]
    pub base_seconds: Option<Seconds>,
    /// Longest delay.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 604_800)]
    pub cap_seconds: Option<Seconds>,
    /// Whether each delay is random.
    #[serde(default)]
    pub jitter: Option<bool>,
}

/// A kind to be declared.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewKind, example = json!({"queue": "media", "timeout_seconds": 60, "retry": {"max_attempts": 5},
    "payload_schema": {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}}}))]
pub struct KindBody {
    /// The queue of its jobs, served by pull workers. It is declared with the kind if there is none.
    pub queue: String,
    /// Longest duration of one attempt. Default: `jobs.default_timeout_seconds`.
    #[serde(default)]
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 86_400)]
    pub timeout_seconds: Option<Seconds>,
    #[serde(default)]
    pub retry: RetryBody,
    /// JSON Schema (2020-12) of the payload, 16 KiB at most, without references to other documents. Checked when a job is enqueued.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub payload_schema: Option<Box<RawValue>>,
    /// The same of the result. Checked when a job completes.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub result_schema: Option<Box<RawValue>>,
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub description: Option<String>,
    /// Secret fields of payloads: paths such as `login.token`, `items[].secret` or `/customer/email`. Callers that are no admins see
    /// `"[redacted]"` there, and stored payloads are encrypted there where the installation has keys.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub redact: Vec<String>,
}

impl From<KindBody> for KindDefinition {
    fn from(body: KindBody) -> Self {
        let seconds = |seconds: Option<Seconds>| seconds.map(|seconds| seconds.0.as_secs_f64());
        Self {
            queue: body.queue,
            timeout_seconds: seconds(body.timeout_seconds),
            retry: RetryDefinition {
                max_attempts: body.retry.max_attempts,
                base_seconds: seconds(body.retry.base_seconds),
                cap_seconds: seconds(body.retry.cap_seconds),
                jitter: body.retry.jitter,
            },
            payload_schema: body.payload_schema,
            result_schema: body.result_schema,
            description: body.description,
            redact: body.redact,
        }
    }
}

/// A queue to be declared.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewQueue)]
pub struct QueueBody {
    /// `pull`, which is the default. Queues of Rust workers are in the configuration.
    #[serde(default)]
    #[schema(pattern = "^pull$")]
    pub served_by: Option<String>,
}

/// A declared queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeclaredQueue {
    pub name: String,
    /// `ledger`.
    pub durability: String,
    /// `pull`.
    pub served_by: String,
}

/// A kind or a queue that was forgotten.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ForgottenName {
    pub name: String,
    pub deleted: bool,
}

fn put_status(is_new: bool) -> StatusCode {
    if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}

fn unknown_kind(name: &str) -> Problem {
    let reason = format!("there is no kind {}", quote(name));
    Problem::field(ProblemKind::KindNotFound, "name", reason)
}

/// Declare a kind
///
/// For jobs that pull workers run, in any language. It can be enqueued here immediately, and at other processes within a second; a
/// change reaches them within five. Its jobs keep what they were accepted with. A key with the scopes `produce` and `work` may declare
/// what is not there yet, or repeat what is; to change it takes `admin`.
#[utoipa::path(put, path = "/v1/kinds/{name}", tag = "kinds", operation_id = "put_kind",
    request_body = KindBody,
    params(("name" = String, Path, description = "A letter, then up to 99 of letters, digits, _, -, . and :")),
    responses(
        (status = 200, body = KindView, description = "It was replaced"),
        (status = 201, body = KindView, description = "It is new"),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "kind-coded, queue-of-another-fleet, too-many-kinds, too-many-queues"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn put_kind(call: Call<Declare, ControlState>, payload: web::Payload) -> Reply {
    let name = call.path("name");
    let body: KindBody = call.json(payload).await?;
    let body = KindDefinition::from(body);
    if !call.allowed.is_admin()
        && let Some(kind) = existing(&call, &name).await?
    {
        if !kind.definition.is_same(&body) {
            return Err(changes_kind(&name));
        }
        return ok(&KindView::declared(&kind, &call.state().jobs));
    }
    let by = call.actor();
    let (is_new, kind) = call
        .run(move |state| async move { state.jobs.steer(&by).put_kind(&name, body).await })
        .await?;
    call.context().responses.forget(&queues::CACHED).await;
    json(put_status(is_new), &KindView::declared(&kind, &call.state().jobs))
}

/// The kind as it is stored, five seconds old at most.
async fn existing(
    call: &Call<Declare, ControlState>,
    name: &str,
) -> Result<Option<Arc<DeclaredKind>>, Problem> {
    let wanted = name.to_owned();
    call.run(move |state| async move {
        let jobs = &state.jobs;
        jobs.look_up(&[&wanted], &[]).await?;
        Ok::<_, LedgerError>(jobs.declared().snapshot().kinds.get(&*wanted).cloned())
    })
    .await
}

fn changes_kind(name: &str) -> Problem {
    let detail = format!(
        "the kind {} is declared otherwise; to change it takes a key with the scope `admin`",
        quote(name)
    );
    Problem::new(ProblemKind::MissingScope, detail)
}

/// Show a kind
#[utoipa::path(get, path = "/v1/kinds/{name}", tag = "kinds", operation_id = "show_kind",
    params(("name" = String, Path, description = "The kind's name")),
    responses(
        (status = 200, body = KindView),
        (status = 404, description = "kind-not-found"),
    ))]
pub(crate) async fn show_kind(call: Call<Bound<Read>, ControlState>) -> Reply {
    let name = call.path("name");
    if let Some(binding) = call.allowed.binding() {
        binding.permit_kind("name", &name)?;
    }
    let jobs = &call.state().jobs;
    if let Some(kind) = jobs.registry().get(&name) {
        return ok(&KindView::of(kind, jobs));
    }
    let declared = call.state().declared().await?;
    let kind = declared.kinds.get(&*name).ok_or_else(|| unknown_kind(&name))?;
    ok(&KindView::declared(kind, jobs))
}

/// Delete a kind
///
/// New jobs of it are refused. Those that were accepted stay and run, and its queue stays. Only admins
/// see their payloads from then on.
#[utoipa::path(delete, path = "/v1/kinds/{name}", tag = "kinds", operation_id = "delete_kind",
    params(("name" = String, Path, description = "The kind's name")),
    responses(
        (status = 200, body = ForgottenName),
        (status = 404, description = "kind-not-found"),
        (status = 409, description = "kind-coded"),
    ))]
pub(crate) async fn delete_kind(call: Call<Admin, ControlState>) -> Reply {
    let name = call.path("name");
    let (by, kind) = (call.actor(), name.clone());
    let deleted = call
        .run(move |state| async move { state.jobs.steer(&by).delete_kind(&kind).await })
        .await?;
    if !deleted {
        return Err(unknown_kind(&name));
    }
    ok(&ForgottenName { name, deleted })
}

/// Declare a queue
///
/// For pull workers, with the durability `ledger`. Queues of Rust workers are in the configuration. A key with the scopes `produce` and
/// `work` may do it too.
#[utoipa::path(put, path = "/v1/queues/{name}", tag = "queues", operation_id = "put_queue",
    request_body = QueueBody,
    params(("name" = String, Path, description = "A lower-case letter, then up to 62 of a-z, 0-9, _ and -")),
    responses(
        (status = 200, body = DeclaredQueue, description = "It existed"),
        (status = 201, body = DeclaredQueue, description = "It is new"),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "queue-configured, too-many-queues"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn put_queue(call: Call<Declare, ControlState>, payload: web::Payload) -> Reply {
    let name = call.path("name");
    let body: QueueBody = call.json(payload).await?;
    if body.served_by.as_deref().is_some_and(|fleet| fleet != "pull") {
        let reason = format!(
            "must be \"pull\": queues of Rust workers are in the configuration, [queues.{name}] in holdfast.toml"
        );
        return Err(Problem::field(ProblemKind::InvalidField, "served_by", reason));
    }
    let (by, queue) = (call.actor(), name.clone());
    let is_new = call
        .run(move |state| async move { state.jobs.steer(&by).put_queue(&queue).await })
        .await?;
    call.context().responses.forget(&queues::CACHED).await;
    let queue = DeclaredQueue {
        name,
        durability: "ledger".to_owned(),
        served_by: "pull".to_owned(),
    };
    json(put_status(is_new), &queue)
}

/// Delete a declared queue
///
/// Only a queue that no kind names and that has no job to run.
#[utoipa::path(delete, path = "/v1/queues/{name}", tag = "queues", operation_id = "delete_queue",
    params(("name" = String, Path, description = "A declared queue")),
    responses(
        (status = 200, body = ForgottenName),
        (status = 404, description = "queue-not-found"),
        (status = 409, description = "queue-configured, queue-in-use"),
    ))]
pub(crate) async fn delete_queue(call: Call<Admin, ControlState>) -> Reply {
    let name = call.path("name");
    let (by, queue) = (call.actor(), name.clone());
    let deleted = call
        .run(move |state| async move { state.jobs.steer(&by).delete_queue(&queue).await })
        .await?;
    call.context().responses.forget(&queues::CACHED).await;
    if !deleted {
        let reason = format!("there is no declared queue {}", quote(&name));
        return Err(Problem::field(ProblemKind::QueueNotFound, "name", reason));
    }
    ok(&ForgottenName { name, deleted })
}
