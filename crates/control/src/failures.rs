//! Dead letters, grouped by what they failed of.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_cache::{Class, Namespace};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::responses::{CachedRoute, Lifetime};
use holdfast_http::{Call, Read, Reply, WithQuery, ok};
use holdfast_jobs::JobId;
use holdfast_jobs::failures::{FailureGroup, FailureList, is_fingerprint};
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dead_letters::NO_FINGERPRINT;
use crate::state::ControlState;

/// The cached answers of `GET /v1/failures`.
const CACHED: CachedRoute = CachedRoute {
    namespace: Namespace::raw(Class::ApiResponse, "failures", 1),
    lifetime: Lifetime::List,
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

/// Dead letters of one kind whose last errors have one class, and messages that differ in numbers, ids and quoted texts only.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Failure)]
pub struct FailureView {
    /// Redrives and deletions take it as a filter.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub fingerprint: String,
    pub kind: String,
    /// Of the newest one.
    pub queue: String,
    /// permanent, transient, timeout, panic, crash, …
    pub class: String,
    /// `#` stands for numbers and ids, `'…'` for quoted texts. Null without the scope `read:payload`.
    #[schema(example = "no user '…' in shard #")]
    pub message: Option<String>,
    /// How many dead letters there are; with `is_capped` more than these.
    pub count: u64,
    pub is_capped: bool,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// How many were discarded in each of the last 24 hours, the oldest first.
    pub recent: Vec<u64>,
    /// Some of the jobs, the newest first, 20 at most.
    #[schema(value_type = Vec<String>)]
    pub samples: Vec<JobId>,
}

impl FailureView {
    fn new(group: FailureGroup, with_message: bool) -> Self {
        let FailureGroup {
            fingerprint,
            kind,
            queue,
            class,
            message,
            count,
            is_capped,
            first_at,
            last_at,
            recent,
            samples,
        } = group;
        Self {
            fingerprint,
            kind,
            queue,
            class,
            message: with_message.then_some(message),
            count,
            is_capped,
            first_at,
            last_at,
            recent: recent.to_vec(),
            samples,
        }
    }
}

/// Groups of dead letters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FailurePage {
    /// Those that failed last first.
    pub failures: Vec<FailureView>,
    /// There are more than were asked for.
    pub has_more: bool,
}

/// List failures
///
/// Dead letters in groups: by kind, class of the last error, and its message without numbers, ids and quoted texts. A group is counted up
/// to 10,000. `POST /v1/dead-letters/redrive` and `…/delete` take a group by the filter `fingerprint`. Jobs that were discarded after
/// crashes join their group within a minute while a worker runs.
#[utoipa::path(get, path = "/v1/failures", tag = "dead letters", operation_id = "list_failures",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 100; default 50"),
    ),
    responses(
        (status = 200, body = FailurePage),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    params.finish()?;
    let with_message = call.allowed.sees_payloads();
    let read = |state: Arc<ControlState>| async move {
        let FailureList { groups, has_more } = state.jobs.failures(limit).await?;
        let failures = groups
            .into_iter()
            .map(|group| FailureView::new(group, with_message));
        Ok::<_, LedgerError>(FailurePage {
            failures: failures.collect(),
            has_more,
        })
    };
    call.cached(&CACHED, read).await
}

/// Show a failure
///
/// One group of dead letters.
#[utoipa::path(get, path = "/v1/failures/{fingerprint}", tag = "dead letters", operation_id = "show_failure",
    params(("fingerprint" = String, Path, description = "16 hexadecimal digits")),
    responses(
        (status = 200, body = FailureView),
        (status = 404, description = "failure-not-found: no dead letter has it, or no more"),
    ))]
pub(crate) async fn show(call: Call<Read, ControlState>) -> Reply {
    let fingerprint = call.path("fingerprint");
    let not_found = |reason: String| Problem::field(ProblemKind::FailureNotFound, "fingerprint", reason);
    if !is_fingerprint(&fingerprint) {
        return Err(not_found(format!("{} is {NO_FINGERPRINT}", quote(&fingerprint))));
    }
    let wanted = fingerprint.clone();
    let found = call.run(move |state| async move { state.jobs.failure(&wanted).await });
    let group = found.await?.ok_or_else(|| {
        not_found(format!(
            "no dead letter has the fingerprint {fingerprint}: its jobs were redriven or deleted"
        ))
    })?;
    ok(&FailureView::new(group, call.allowed.sees_payloads()))
}
