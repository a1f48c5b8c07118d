//! The kinds that this server knows, those of its code and the declared ones, with the retry policy that counts for each.

use std::borrow::Cow;
use std::collections::BTreeMap;

use holdfast_http::{Bound, Call, Read, Reply, ok};
use holdfast_jobs::declared::DeclaredKind;
use holdfast_jobs::{Jitter, Jobs, Kind, RetryPolicy};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::state::ControlState;

/// How often a job is tried, and the delays in between.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = RetryPolicy)]
pub struct PolicyView {
    /// Largest number of attempts, the first included.
    pub max_attempts: u32,
    /// Longest delay after the first failure, in seconds, doubled after each further one.
    pub base_seconds: f64,
    /// Longest delay, in seconds.
    pub cap_seconds: f64,
    /// Whether each delay is random.
    pub jitter: bool,
    /// The shortest delay, as a share of the longest after the same failure: 0 (full jitter), 0.5 (equal jitter) or 1 (none).
    pub shortest_share: f64,
}

impl From<RetryPolicy> for PolicyView {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            base_seconds: policy.backoff.base.as_secs_f64(),
            cap_seconds: policy.backoff.cap.as_secs_f64(),
            jitter: policy.backoff.jitter != Jitter::Off,
            shortest_share: match policy.backoff.jitter {
                Jitter::Off => 1.0,
                Jitter::Full => 0.0,
                Jitter::Equal => 0.5,
            },
        }
    }
}

/// A kind of job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Kind)]
pub struct KindView {
    pub kind: Cow<'static, str>,
    /// The queue of its jobs, unless a job sets another.
    pub queue: Cow<'static, str>,
    /// Longest duration of one attempt, unless a job sets another.
    pub timeout_seconds: f64,
    /// The policy of its jobs on the kind's queue, unless a job sets another.
    pub retry: PolicyView,
    /// The policies on queues that have their own.
    pub retry_on: BTreeMap<String, PolicyView>,
    /// Declared with `PUT /v1/kinds/{name}`, and run by pull workers. Otherwise it is part of the program.
    #[serde(default)]
    pub declared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema (2020-12) of its payloads, with `examples` where there are some. Only a declared kind may have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub payload_schema: Option<Box<RawValue>>,
    /// JSON Schema of its results, if it has results and they have a schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result_schema: Option<Box<RawValue>>,
    /// Paths of secret fields of its payloads: only admins see these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
}

impl KindView {
    pub(crate) fn of(kind: &Kind, jobs: &Jobs) -> Self {
        let policy = |queue: &str| PolicyView::from(jobs.retries().of(kind.name, kind.retry, queue));
        Self {
            kind: kind.name.into(),
            queue: kind.queue.into(),
            timeout_seconds: kind.timeout.unwrap_or(jobs.default_timeout()).as_secs_f64(),
            retry: policy(kind.queue),
            retry_on: on_other_queues(jobs, kind.queue, policy),
            declared: false,
            description: None,
            payload_schema: Some(kind.schemas().payload.clone()),
            result_schema: kind.schemas().result.clone(),
            redact: Vec::new(),
        }
    }

    pub(crate) fn declared(kind: &DeclaredKind, jobs: &Jobs) -> Self {
        let definition = &kind.definition;
        let policy = |queue: &str| PolicyView::from(jobs.retries().of_declared(kind, queue));
        Self {
            kind: kind.name.to_string().into(),
            queue: definition.queue.clone().into(),
            timeout_seconds: kind.timeout().unwrap_or(jobs.default_timeout()).as_secs_f64(),
            retry: policy(&definition.queue),
            retry_on: on_other_queues(jobs, &definition.queue, policy),
            declared: true,
            description: definition.description.clone(),
            payload_schema: definition.payload_schema.clone(),
            result_schema: definition.result_schema.clone(),
            redact: definition.redact.clone(),
        }
    }
}

/// The policies on queues that have their own, beside the kind's queue.
fn on_other_queues(
    jobs: &Jobs,
    own: &str,
    policy: impl Fn(&str) -> PolicyView,
) -> BTreeMap<String, PolicyView> {
    let overruling = jobs
        .queues()
        .keys()
        .filter(|queue| jobs.retries().is_overruled_on(queue) && *queue != own);
    overruling.map(|queue| (queue.clone(), policy(queue))).collect()
}

/// Every kind.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct KindList {
    pub kinds: Vec<KindView>,
}

/// List kinds
///
/// The kinds that this server can enqueue, with the retry policy in force. Each part of it comes from the
/// kind's configuration, the queue's, the kind's own definition, or the default. Of a bound key, its kinds.
#[utoipa::path(get, path = "/v1/kinds", tag = "kinds", operation_id = "list_kinds",
    responses(
        (status = 200, body = KindList),
        (status = 503, description = "unavailable: the database does not answer"),
    ))]
pub(crate) async fn list(call: Call<Bound<Read>, ControlState>) -> Reply {
    let jobs = &call.state().jobs;
    let coded = jobs.registry().kinds().map(|kind| KindView::of(kind, jobs));
    let declared = call.state().declared().await?;
    let declared = declared.kinds.values().map(|kind| KindView::declared(kind, jobs));
    let binding = call.allowed.binding();
    let is_shown = |kind: &KindView| binding.is_none_or(|binding| binding.allows_kind(&kind.kind));
    ok(&KindList {
        kinds: coded.chain(declared).filter(is_shown).collect(),
    })
}
