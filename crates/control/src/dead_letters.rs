//! Discarded jobs: searched, shown, put back, deleted.

use actix_web::web;
use holdfast_core::config::Durability;
use holdfast_http::body::fields::Moment;
use holdfast_http::problem::{Problem, ProblemKind, nothing_matched};
use holdfast_http::{Admin, Call, PageParams, Read, Reply, WithQuery, ok};
use holdfast_jobs::bulk::BulkProgress;
use holdfast_jobs::dead_letters::{DeadLetterFilter, MAX_RATE, MIN_RATE, Redrive};
use holdfast_jobs::failures::is_fingerprint;
use holdfast_jobs::ledger::{LedgerError, RetryReply};
use holdfast_jobs::{JobId, Jobs};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::bulk::{BulkAnswer, BulkPreview, BulkView, MAX_IDS, MAX_NAME, check_name};
use crate::fields::Attempts;
use crate::job_view::{JobView, page_of};
use crate::queue_filter::refuse_unknown;
use crate::state::ControlState;

/// Longest piece of an error that is searched for, in bytes.
const MAX_ERROR: usize = 500;

/// Why a text is no fingerprint.
pub(crate) const NO_FINGERPRINT: &str =
    "not a fingerprint: 16 hexadecimal digits, as `GET /v1/failures` has them";

/// Dead letters shown by a dry run.
const SAMPLE: usize = 10;

/// One page of dead letters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterPage {
    pub dead_letters: Vec<JobView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    #[schema(value_type = Option<String>)]
    pub next: Option<JobId>,
}

/// List dead letters
///
/// Discarded jobs of either durability with their payloads and all their errors, newest first. A page may be
/// shorter than `limit` if its jobs are large; `next` is set if there are more.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead letters", operation_id = "list_dead_letters",
    params(
        ("queue" = Option<String>, Query, description = "Only this queue"),
        ("kind" = Option<String>, Query, description = "Only this kind"),
        ("error" = Option<String>, Query, description = "Text that occurs in one of the errors; case-insensitive. Needs the scope `read:payload`"),
        ("from" = Option<String>, Query, description = "Discarded at or after this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Discarded before this time (RFC 3339)"),
        ("fingerprint" = Option<String>, Query, description = "Only this group of `GET /v1/failures`"),
        PageParams,
    ),
    responses(
        (status = 200, body = DeadLetterPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
        (status = 422, description = "unknown-queue"),
    ))]
pub(crate) async fn list(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&[
        "queue",
        "kind",
        "error",
        "from",
        "to",
        "fingerprint",
        "after",
        "limit",
    ]);
    let filter = DeadLetterFilter {
        queue: params.short_text("queue", MAX_NAME),
        kind: params.short_text("kind", MAX_NAME),
        error: params.short_text("error", MAX_ERROR),
        from: params.moment("from"),
        to: params.moment("to"),
        fingerprint: params.short_text("fingerprint", MAX_NAME),
        ids: None,
    };
    if !filter.fingerprint.as_deref().is_none_or(is_fingerprint) {
        params.fault("fingerprint", NO_FINGERPRINT.to_owned());
    }
    let page = params.page();
    params.finish()?;
    if filter.error.is_some() {
        // Else the texts of errors could be guessed piece by piece.
        call.allowed.needs_payloads("a search in the texts of errors")?;
    }
    let after = page.cursor()?;
    refuse_unknown(call.state(), "queue", filter.queue.as_deref()).await?;
    let page = call.run(move |state| async move {
        let read = |after, wanted| {
            let (letters, filter) = (state.jobs.dead_letters(), filter.clone());
            async move { letters.list(&filter, after, wanted).await }
        };
        page_of(page.limit, after, read).await
    });
    let (mut dead_letters, next) = page.await?;
    call.state().learn().await;
    for job in &mut dead_letters {
        job.redact_for(&call);
    }
    ok(&DeadLetterPage { dead_letters, next })
}

/// Show a dead letter
#[utoipa::path(get, path = "/v1/dead-letters/{id}", tag = "dead letters", operation_id = "show_dead_letter",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobView),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "job-not-found: no dead letter has this id"),
    ))]
pub(crate) async fn show(call: Call<Read, ControlState>) -> Reply {
    let id = call.id::<JobId>()?;
    let found = call.run(move |state| async move { state.jobs.dead_letters().get(id).await });
    let found = found.await?.ok_or_else(|| not_dead(id))?;
    let mut view = JobView::new(found, Durability::Ledger);
    call.state().learn().await;
    view.redact_for(&call);
    ok(&view)
}

fn not_dead(id: JobId) -> Problem {
    let reason =
        format!("no dead letter has the id {id}; `GET /v1/jobs/{id}` tells whether it is another job");
    Problem::field(ProblemKind::JobNotFound, "id", reason)
}

/// Which dead letters to redrive, and how. Exactly one of `id`, `ids`, `filter` and `all`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RedriveRequest, example = json!({"filter": {"kind": "http.request", "error": "503"}, "rate": 50}))]
pub struct RedriveBody {
    #[schema(value_type = Option<String>)]
    pub id: Option<JobId>,
    /// Up to 1,000.
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<JobId>>,
    pub filter: Option<DeadLetterFilterBody>,
    /// True: every dead letter.
    #[serde(default)]
    pub all: bool,
    /// Only count the matches, and show some.
    #[serde(default)]
    pub dry_run: bool,
    /// Jobs a second that become due. Default: all of them now.
    #[schema(minimum = 0.01, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// Further attempts of each job; default 4.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub attempts: Option<Attempts>,
    /// Another payload, which the kind must accept. Only with `id`.
    #[schema(value_type = Option<Value>)]
    pub payload: Option<Box<RawValue>>,
}

/// Which dead letters to delete. Exactly one of `id`, `ids`, `filter` and `all`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeleteRequest, example = json!({"filter": {"queue": "events", "to": "2030-01-01T00:00:00Z"}}))]
pub struct DeleteBody {
    #[schema(value_type = Option<String>)]
    pub id: Option<JobId>,
    /// Up to 1,000.
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<JobId>>,
    pub filter: Option<DeadLetterFilterBody>,
    /// True: every dead letter.
    #[serde(default)]
    pub all: bool,
    /// Only count the matches, and show some.
    #[serde(default)]
    pub dry_run: bool,
}

/// At least one of these.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterFilter)]
pub struct DeadLetterFilterBody {
    pub queue: Option<String>,
    pub kind: Option<String>,
    /// Text that occurs in one of the errors; case-insensitive.
    #[schema(max_length = 500)]
    pub error: Option<String>,
    /// Discarded at or after.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Moment>,
    /// Discarded before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Moment>,
    /// A group of `GET /v1/failures`.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub fingerprint: Option<String>,
}

/// Which dead letters a request means.
struct Selection {
    filter: DeadLetterFilter,
    /// It is about this one alone.
    one: Option<JobId>,
}

fn selection(
    id: Option<JobId>,
    ids: Option<Vec<JobId>>,
    filter: Option<DeadLetterFilterBody>,
    all: bool,
) -> Result<Selection, Problem> {
    let refused = |field: &str, reason: String| Err(Problem::field(ProblemKind::InvalidField, field, reason));
    let filter = match (id, ids, filter, all) {
        (Some(id), None, None, false) => DeadLetterFilter::of_ids([id]),
        (None, Some(ids), None, false) if (1..=MAX_IDS).contains(&ids.len()) => DeadLetterFilter::of_ids(ids),
        (None, Some(ids), None, false) => {
            return refused(
                "ids",
                format!("has {} ids; 1 to {MAX_IDS} are allowed", ids.len()),
            );
        }
        (None, None, Some(body), false) => body.filter()?,
        (None, None, None, true) => DeadLetterFilter::default(),
        (None, None, None, false) => {
            let reason = "say which dead letters: give `id`, `ids`, a `filter`, or `\"all\": true`";
            return refused("filter", reason.to_owned());
        }
        _ => {
            let reason = "give only one of `id`, `ids`, `filter` and `all`";
            return refused("filter", reason.to_owned());
        }
    };
    Ok(Selection { filter, one: id })
}

impl DeadLetterFilterBody {
    fn filter(self) -> Result<DeadLetterFilter, Problem> {
        check_name("filter.queue", self.queue.as_ref())?;
        check_name("filter.kind", self.kind.as_ref())?;
        let error_is_sound = |text: &String| (1..=MAX_ERROR).contains(&text.len()) && !text.contains('\0');
        if !self.error.as_ref().is_none_or(error_is_sound) {
            let reason = format!("must have 1 to {MAX_ERROR} bytes, and no NUL; leave it out to match all");
            return Err(Problem::field(ProblemKind::InvalidField, "filter.error", reason));
        }
        if !self.fingerprint.as_deref().is_none_or(is_fingerprint) {
            let reason = NO_FINGERPRINT.to_owned();
            return Err(Problem::field(
                ProblemKind::InvalidField,
                "filter.fingerprint",
                reason,
            ));
        }
        let filter = DeadLetterFilter {
            queue: self.queue,
            kind: self.kind,
            error: self.error,
            from: self.from.map(|moment| moment.0),
            to: self.to.map(|moment| moment.0),
            fingerprint: self.fingerprint,
            ids: None,
        };
        if filter == DeadLetterFilter::default() {
            let reason = "an empty filter would mean all: name a queue, a kind, an error, a time or a fingerprint, or say `\"all\": true`";
            return Err(Problem::field(ProblemKind::InvalidField, "filter", reason));
        }
        Ok(filter)
    }
}

/// Redrive dead letters
///
/// Makes dead letters available again: one by `id`, some by `ids`, many by `filter`. Each keeps its id and its
/// errors, and gets further attempts. With a `rate` they become due one after another. Works in steps of 1,000
/// and ends a call after 20,000; `finished` is false if there may be more, and a repeat with the same
/// `Idempotency-Key` continues. A repeat after the end changes nothing. Only jobs that were discarded before
/// the operation began are changed, so a job that fails again immediately is not redriven twice.
#[utoipa::path(post, path = "/v1/dead-letters/redrive", tag = "dead letters", operation_id = "redrive_dead_letters",
    request_body = RedriveBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable ASCII characters")),
    responses(
        (status = 200, body = BulkAnswer, description = "The result, or with `dry_run` a preview"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 404, description = "job-not-found (with `id`), nothing-matched"),
        (status = 409, description = "illegal-transition: the job is not discarded, or another one has its unique_key (with `id`)"),
        (status = 422, description = "invalid-field, invalid-payload, payload-too-deep, unknown-kind, unknown-queue, idempotency-key-reused"),
    ))]
pub(crate) async fn redrive(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let key = call.job_key()?;
    let body: RedriveBody = call.json(payload).await?;
    let rate = checked_rate(body.rate)?;
    let selection = selection(body.id, body.ids, body.filter, body.all)?;
    if body.payload.is_some() && selection.one.is_none() {
        let reason = "a payload can be edited for one dead letter only: give its `id`";
        return Err(Problem::field(ProblemKind::InvalidField, "payload", reason));
    }
    refuse_unknown(call.state(), "filter.queue", selection.filter.queue.as_deref()).await?;
    if body.dry_run {
        return preview(&call, selection.filter).await;
    }
    let (edited, attempts) = (body.payload, body.attempts.map(|attempts| attempts.0));
    let by = call.actor();
    let view = call.run(move |state| async move {
        let jobs = &state.jobs;
        let steering = jobs.steer(&by);
        let payload = match (edited, selection.one) {
            (Some(payload), Some(id)) => {
                let record = jobs.get(id).await?.ok_or_else(|| not_dead(id))?;
                Some(steering.check_payload(&record.kind, payload).await?)
            }
            _ => None,
        };
        let redrive = Redrive {
            filter: selection.filter,
            attempts,
            rate,
            payload,
            key,
        };
        let done = steering.redrive(&redrive).await?;
        answer(jobs, &redrive.filter, selection.one, &done).await
    });
    ok(&BulkAnswer::Done(view.await?))
}

fn checked_rate(rate: Option<f64>) -> Result<Option<f64>, Problem> {
    match rate {
        Some(rate) if !(MIN_RATE..=MAX_RATE).contains(&rate) => Err(Problem::field(
            ProblemKind::InvalidField,
            "rate",
            format!(
                "{rate} is not between {MIN_RATE} and {MAX_RATE} jobs a second; leave it out for all at once"
            ),
        )),
        rate => Ok(rate),
    }
}

/// Delete dead letters
///
/// Deletes permanently, in bounded steps like a redrive.
#[utoipa::path(post, path = "/v1/dead-letters/delete", tag = "dead letters", operation_id = "delete_dead_letters",
    request_body = DeleteBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable ASCII characters")),
    responses(
        (status = 200, body = BulkAnswer, description = "The result, or with `dry_run` a preview"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 404, description = "job-not-found (with `id`), nothing-matched"),
        (status = 409, description = "illegal-transition: the job is not discarded (with `id`)"),
        (status = 422, description = "invalid-field, unknown-queue, idempotency-key-reused"),
    ))]
pub(crate) async fn delete(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let key = call.job_key()?;
    let body: DeleteBody = call.json(payload).await?;
    let Selection { filter, one } = selection(body.id, body.ids, body.filter, body.all)?;
    refuse_unknown(call.state(), "filter.queue", filter.queue.as_deref()).await?;
    if body.dry_run {
        return preview(&call, filter).await;
    }
    let by = call.actor();
    let view = call.run(move |state| async move {
        let done = state.jobs.steer(&by).delete_dead_letters(&filter, key).await?;
        answer(&state.jobs, &filter, one, &done).await
    });
    ok(&BulkAnswer::Done(view.await?))
}

async fn preview(call: &Call<Admin, ControlState>, filter: DeadLetterFilter) -> Reply {
    let found = call.run(|state| async move {
        let letters = state.jobs.dead_letters();
        tokio::try_join!(letters.count(&filter), letters.list(&filter, None, SAMPLE))
    });
    let (matched, sample) = found.await?;
    let view = |record| JobView::new(record, Durability::Ledger);
    ok(&BulkAnswer::Preview(BulkPreview {
        dry_run: true,
        matched,
        sample: sample.into_iter().map(view).collect(),
    }))
}

/// What was done, or why nothing was.
async fn answer(
    jobs: &Jobs,
    filter: &DeadLetterFilter,
    one: Option<JobId>,
    done: &BulkProgress,
) -> Result<BulkView, Problem> {
    match one {
        Some(id) if done.affected == 0 => return Err(why_not(jobs, id).await?),
        None if done.affected == 0 && done.skipped == 0 => return Err(nothing_matched("dead letter")),
        _ => {}
    }
    let remaining = if done.finished {
        0
    } else {
        jobs.dead_letters().count(filter).await?
    };
    Ok(BulkView::new(done, remaining))
}

async fn why_not(jobs: &Jobs, id: JobId) -> Result<Problem, LedgerError> {
    let Some(record) = jobs.get(id).await? else {
        return Ok(not_dead(id));
    };
    let detail = if record.state == holdfast_jobs::State::Discarded {
        RetryReply::UNIQUE_KEY_TAKEN.to_owned()
    } else {
        format!(
            "the job is {}; only a discarded job is a dead letter",
            record.state
        )
    };
    Ok(Problem::new(ProblemKind::IllegalTransition, detail).about(id))
}
