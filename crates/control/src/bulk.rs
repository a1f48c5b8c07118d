//! Many jobs at once: cancelling by filter, purging a queue; and what every bulk operation answers.

use actix_web::web;
use holdfast_http::body::fields::Moment;
use holdfast_http::problem::{Problem, ProblemKind, nothing_matched, quote};
use holdfast_http::{Admin, Call, Reply, ok};
use holdfast_jobs::audit::AuditId;
use holdfast_jobs::bulk::BulkProgress;
use holdfast_jobs::{CancelFilter, JobId, State as JobState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job_view::JobView;
use crate::queue_filter::refuse_unknown;
use crate::queues::known_queue;
use crate::state::ControlState;

/// Longest name in a filter, in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// The progress of a bulk operation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BulkResult)]
pub struct BulkView {
    /// Its entry in the audit log.
    #[schema(value_type = Option<String>)]
    pub operation: Option<AuditId>,
    /// Number of changed jobs, by all calls with this `Idempotency-Key`.
    pub affected: u64,
    /// Number of matches that could not be changed, because another job has the dead letter's `unique_key`.
    pub skipped: u64,
    /// About how many are left, up to 100,000.
    pub remaining: u64,
    /// False: repeat the request with the same `Idempotency-Key` to continue.
    pub finished: bool,
    /// The operation had finished before; this request did nothing.
    pub duplicate: bool,
}

impl BulkView {
    pub(crate) fn new(done: &BulkProgress, remaining: u64) -> Self {
        Self {
            operation: done.operation,
            affected: done.affected,
            skipped: done.skipped,
            remaining,
            finished: done.finished,
            duplicate: done.duplicate,
        }
    }
}

/// What a bulk operation would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BulkPreview {
    /// Always true: nothing was changed.
    pub dry_run: bool,
    /// How many match, up to 100,000.
    pub matched: u64,
    /// Some of them.
    pub sample: Vec<JobView>,
}

/// The progress of a bulk operation, or with `dry_run` what it would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BulkAnswer {
    Done(BulkView),
    Preview(BulkPreview),
}

/// A name in a filter.
pub(crate) fn check_name(field: &str, name: Option<&String>) -> Result<(), Problem> {
    match name {
        Some(name) if name.is_empty() || name.len() > MAX_NAME => Err(Problem::field(
            ProblemKind::InvalidField,
            field,
            format!("must have 1 to {MAX_NAME} bytes; leave it out to match all"),
        )),
        _ => Ok(()),
    }
}

/// Most ids in one request.
pub(crate) const MAX_IDS: usize = 1_000;

/// Which jobs to cancel. Exactly one of `ids`, `filter` and `all`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CancelRequest, example = json!({"filter": {"queue": "default", "kind": "debug.sleep"}}))]
pub struct CancelBody {
    /// Up to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<JobId>>,
    pub filter: Option<CancelFilterBody>,
    /// True, instead of a filter: every job that is not final.
    #[serde(default)]
    pub all: bool,
    /// Only count the matches.
    #[serde(default)]
    pub dry_run: bool,
}

/// At least one of these.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CancelFilter)]
pub struct CancelFilterBody {
    pub queue: Option<String>,
    pub kind: Option<String>,
    /// scheduled, available, retryable or running; default: all of these.
    #[schema(value_type = Option<String>)]
    pub state: Option<JobState>,
    /// Accepted at or after.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Moment>,
    /// Accepted before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Moment>,
}

impl CancelBody {
    fn filter(self) -> Result<CancelFilter, Problem> {
        let needed = |reason: &str| Err(Problem::field(ProblemKind::InvalidField, "filter", reason));
        if let Some(ids) = self.ids {
            if self.all || self.filter.is_some() {
                return needed("give only one of `ids`, `filter` and `all`");
            }
            if !(1..=MAX_IDS).contains(&ids.len()) {
                let reason = format!("has {} ids; 1 to {MAX_IDS} are allowed", ids.len());
                return Err(Problem::field(ProblemKind::InvalidField, "ids", reason));
            }
            return Ok(CancelFilter {
                ids: Some(ids),
                ..CancelFilter::default()
            });
        }
        let Some(body) = self.filter else {
            return if self.all {
                Ok(CancelFilter::default())
            } else {
                needed("say which jobs: give `ids`, a filter, or `\"all\": true`")
            };
        };
        if self.all {
            return needed("give either a filter or `\"all\": true`, not both");
        }
        check_name("filter.queue", body.queue.as_ref())?;
        check_name("filter.kind", body.kind.as_ref())?;
        if body.state.is_some_and(JobState::is_final) {
            let reason =
                "only jobs that have not ended can be cancelled: scheduled, available, retryable or running";
            return Err(Problem::field(ProblemKind::InvalidField, "filter.state", reason));
        }
        let filter = CancelFilter {
            queue: body.queue,
            kind: body.kind,
            state: body.state,
            from: body.from.map(|moment| moment.0),
            to: body.to.map(|moment| moment.0),
            ids: None,
        };
        if filter == CancelFilter::default() {
            return needed(
                "an empty filter would mean every job: name a queue, a kind, a state or a time, or say `\"all\": true`",
            );
        }
        Ok(filter)
    }
}

/// Cancel many jobs
///
/// Cancels matching jobs of the ledger that wait, and asks the running ones to stop. Works in steps of 1,000
/// and ends a call after 20,000; `finished` is false if there may be more, and a repeat with the same
/// `Idempotency-Key` continues. Only jobs accepted before the operation began are changed. Jobs that wait on
/// the broker cannot be searched: purge their queue, or cancel them one by one.
#[utoipa::path(post, path = "/v1/jobs/cancel", tag = "jobs", operation_id = "cancel_jobs",
    request_body = CancelBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable ASCII characters")),
    responses(
        (status = 200, body = BulkAnswer, description = "The result, or with `dry_run` a preview"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 404, description = "nothing-matched"),
        (status = 422, description = "invalid-field, unknown-queue, idempotency-key-reused"),
    ))]
pub(crate) async fn cancel(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let (key, by) = (call.job_key()?, call.actor());
    let body: CancelBody = call.json(payload).await?;
    let dry_run = body.dry_run;
    let filter = body.filter()?;
    refuse_unknown(call.state(), "filter.queue", filter.queue.as_deref()).await?;
    if dry_run {
        let matched = call.run(|state| async move { state.jobs.steer(&by).count_cancellable(&filter).await });
        return ok(&BulkAnswer::Preview(BulkPreview {
            dry_run,
            matched: matched.await?,
            sample: Vec::new(),
        }));
    }
    let cancelled = call.run(|state| async move {
        let steering = state.jobs.steer(&by);
        let done = steering.cancel_many(&filter, key).await?;
        let remaining = if done.finished {
            0
        } else {
            steering.count_cancellable(&filter).await?
        };
        Ok::<_, Problem>((done, remaining))
    });
    let (done, remaining) = cancelled.await?;
    if done.operation.is_none() {
        return Err(nothing_matched("job"));
    }
    ok(&BulkAnswer::Done(BulkView::new(&done, remaining)))
}

/// A purge with its confirmation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PurgeRequest, example = json!({"confirm": "default"}))]
pub struct PurgeBody {
    /// The name of the queue, as a confirmation.
    pub confirm: String,
}

/// The result of a purge.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PurgedQueue)]
pub struct PurgedView {
    pub name: String,
    /// The entry in the audit log.
    #[schema(value_type = Option<String>)]
    pub operation: Option<AuditId>,
    /// Cancelled jobs of the ledger, by all calls with this `Idempotency-Key`.
    pub cancelled: u64,
    /// Jobs taken from the broker, by this call.
    pub cancelled_on_broker: u64,
    /// False: repeat the request with the same `Idempotency-Key` to continue.
    pub finished: bool,
}

/// Purge a queue
///
/// Cancels every waiting job of the queue, in the ledger and on the broker: due and delayed ones, and retries.
/// Running jobs continue; pause the queue first to stop new ones. Cancelled jobs of the ledger are stored for
/// `jobs.retain_completed_seconds`. The purge works in bounded steps; a repeat with the same `Idempotency-Key`
/// continues it.
#[utoipa::path(post, path = "/v1/queues/{name}/purge", tag = "queues", operation_id = "purge_queue",
    request_body = PurgeBody,
    params(
        ("name" = String, Path, description = "A configured or declared queue"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable ASCII characters"),
    ),
    responses(
        (status = 200, body = PurgedView),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 404, description = "queue-not-found"),
        (status = 422, description = "invalid-field: `confirm` does not name the queue; idempotency-key-reused"),
        (status = 503, description = "unavailable: the database, or for a `redis` queue Redis"),
    ))]
pub(crate) async fn purge(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let name = call.path("name");
    known_queue(call.state(), &name).await?;
    let (key, by) = (call.job_key()?, call.actor());
    let body: PurgeBody = call.json(payload).await?;
    if body.confirm != name {
        let reason = format!(
            "must repeat the name of the queue to be purged, {}; it is {}",
            quote(&name),
            quote(&body.confirm)
        );
        return Err(Problem::field(ProblemKind::InvalidField, "confirm", reason));
    }
    let queue = name.clone();
    let purged = call.run(|state| async move { state.jobs.steer(&by).purge(&queue, key).await });
    let purged = purged.await?;
    ok(&PurgedView {
        name,
        operation: purged.ledger.operation,
        cancelled: purged.ledger.affected,
        cancelled_on_broker: purged.broker,
        finished: purged.ledger.finished && purged.broker_finished,
    })
}
