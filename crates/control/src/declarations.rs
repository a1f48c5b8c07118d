//! Kinds and queues as data: declared, shown and forgotten at run time.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_http::body::fields::Seconds;
use holdfast_http::body::json_body;
use holdfast_http::params::{Params, path_name};
use holdfast_http::problem::{kind_of, quote};
use holdfast_http::{Admin, Allowed, FieldFault, Problem, ProblemKind, Read, json};
use holdfast_jobs::declared::{DeclareError, DeclaredKind, KindDefinition, RetryDefinition};
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
    /// JSON pointers such as `/customer/email`: who is no admin sees `"[redacted]"` there in payloads.
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

fn problem(error: DeclareError) -> Problem {
    let text = error.to_string();
    match error {
        DeclareError::Invalid(faults) => {
            let kind = faults
                .first()
                .map_or(ProblemKind::InvalidField, |fault| kind_of(fault.code));
            let faults = faults
                .into_iter()
                .map(|fault| FieldFault::new(fault.field, fault.reason));
            Problem::faults(kind, faults.collect())
        }
        DeclareError::CodedKind(_) => Problem::field(ProblemKind::KindCoded, "name", text),
        DeclareError::ConfiguredQueue(_) => Problem::field(ProblemKind::QueueConfigured, "name", text),
        DeclareError::RustQueue(_) => Problem::field(ProblemKind::QueueOfAnotherFleet, "queue", text),
        DeclareError::QueueInUse(..) => Problem::field(ProblemKind::QueueInUse, "name", text),
        DeclareError::TooManyKinds => Problem::new(ProblemKind::TooManyKinds, text),
        DeclareError::TooManyQueues => Problem::new(ProblemKind::TooManyQueues, text),
        DeclareError::Ledger(error) => error.into(),
    }
}

/// What the engine's errors become on the way through the runtime.
struct Refused(DeclareError);

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        problem(refused.0)
    }
}

fn unknown_kind(name: &str) -> Problem {
    let reason = format!("there is no kind {}", quote(name));
    Problem::field(ProblemKind::KindNotFound, "name", reason)
}

/// Declare a kind
///
/// For jobs that pull workers run, in any language. It can be enqueued here immediately, and at other processes within a second; a
/// change reaches them within five. Its jobs keep what they were accepted with.
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
pub(crate) async fn put_kind(
    allowed: Allowed<Admin>,
    state: web::Data<ControlState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let name = path_name(&request);
    let body: KindBody = json_body(&request, payload, &state.http).await?;
    let (jobs, by) = (state.jobs.clone(), allowed.by(&request));
    let (is_new, kind): (bool, Arc<DeclaredKind>) = state
        .http
        .on_runtime(async move {
            jobs.steer(&by)
                .put_kind(&name, body.into())
                .await
                .map_err(Refused)
        })
        .await?;
    state.http.responses.forget(&queues::CACHED).await;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    json(status, &KindView::declared(&kind, &state.jobs))
}

/// Show a kind
#[utoipa::path(get, path = "/v1/kinds/{name}", tag = "kinds", operation_id = "show_kind",
    params(("name" = String, Path, description = "The kind's name")),
    responses(
        (status = 200, body = KindView),
        (status = 404, description = "kind-not-found"),
    ))]
pub(crate) async fn show_kind(
    _: Allowed<Read>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let name = path_name(&request);
    let view = if let Some(kind) = state.jobs.registry().get(&name) {
        KindView::of(kind, &state.jobs)
    } else {
        let declared = declared(&state).await?;
        let kind = declared.kinds.get(&*name).ok_or_else(|| unknown_kind(&name))?;
        KindView::declared(kind, &state.jobs)
    };
    json(StatusCode::OK, &view)
}

/// What is declared, five seconds old at most.
pub(crate) async fn declared(
    state: &ControlState,
) -> Result<Arc<holdfast_jobs::declared::Snapshot>, Problem> {
    let jobs = state.jobs.clone();
    state
        .http
        .on_runtime(async move { jobs.declared().current().await })
        .await
}

/// Delete a kind
///
/// New jobs of it are refused. Those that were accepted stay and run, and its queue stays. What it marked as secret in their payloads
/// is no longer hidden.
#[utoipa::path(delete, path = "/v1/kinds/{name}", tag = "kinds", operation_id = "delete_kind",
    params(("name" = String, Path, description = "The kind's name")),
    responses(
        (status = 200, body = ForgottenName),
        (status = 404, description = "kind-not-found"),
        (status = 409, description = "kind-coded"),
    ))]
pub(crate) async fn delete_kind(
    allowed: Allowed<Admin>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let name = path_name(&request);
    let (jobs, by, kind) = (state.jobs.clone(), allowed.by(&request), name.clone());
    let deleted = state
        .http
        .on_runtime(async move { jobs.steer(&by).delete_kind(&kind).await.map_err(Refused) })
        .await?;
    if !deleted {
        return Err(unknown_kind(&name));
    }
    json(StatusCode::OK, &ForgottenName { name, deleted })
}

/// Declare a queue
///
/// For pull workers, with the durability `ledger`. Queues of Rust workers are in the configuration.
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
pub(crate) async fn put_queue(
    allowed: Allowed<Admin>,
    state: web::Data<ControlState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let name = path_name(&request);
    let body: QueueBody = json_body(&request, payload, &state.http).await?;
    if body.served_by.as_deref().is_some_and(|fleet| fleet != "pull") {
        let reason = format!(
            "must be \"pull\": queues of Rust workers are in the configuration, [queues.{name}] in holdfast.toml"
        );
        return Err(Problem::field(ProblemKind::InvalidField, "served_by", reason));
    }
    let (jobs, by, queue) = (state.jobs.clone(), allowed.by(&request), name.clone());
    let is_new = state
        .http
        .on_runtime(async move { jobs.steer(&by).put_queue(&queue).await.map_err(Refused) })
        .await?;
    state.http.responses.forget(&queues::CACHED).await;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    json(
        status,
        &DeclaredQueue {
            name,
            durability: "ledger".to_owned(),
            served_by: "pull".to_owned(),
        },
    )
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
pub(crate) async fn delete_queue(
    allowed: Allowed<Admin>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let name = path_name(&request);
    let (jobs, by, queue) = (state.jobs.clone(), allowed.by(&request), name.clone());
    let deleted = state
        .http
        .on_runtime(async move { jobs.steer(&by).delete_queue(&queue).await.map_err(Refused) })
        .await?;
    state.http.responses.forget(&queues::CACHED).await;
    if !deleted {
        let reason = format!("there is no declared queue {}", quote(&name));
        return Err(Problem::field(ProblemKind::QueueNotFound, "name", reason));
    }
    json(StatusCode::OK, &ForgottenName { name, deleted })
}
