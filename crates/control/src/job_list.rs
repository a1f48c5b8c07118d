//! `GET /v1/jobs`: pages of jobs, and searches among them.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_core::config::Durability;
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Binding, Bound, Call, PageParams, Read, Reply, WithQuery, ok};
use holdfast_jobs::ledger::{LedgerError, Priority};
use holdfast_jobs::search::{
    Certainty, CountBy, CountedJobs, FoundJobs, JobQuery, JobSearch, JobSummary, SearchFrom, ShownPayload,
};
use holdfast_jobs::{BatchId, JobId, Jobs, State as JobState, WorkerId};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::bulk::MAX_NAME;
use crate::job_view::{ErrorView, JobView, PAGE_BYTES};
use crate::queue_filter::refuse_unknown_to;
use crate::state::ControlState;

/// Whole jobs that are read at once while a page is filled.
const CHUNK: usize = 100;

/// One page of jobs, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    pub jobs: Vec<JobView>,
    /// Pass it as `after` (or as `before`, if that was given) to continue. Null: there are no more.
    #[schema(value_type = Option<String>)]
    pub next: Option<JobId>,
    /// Jobs that this request has looked at. It ends after 150 ms or 20,000 of them, also if the page is not full.
    #[serde(default)]
    pub searched: u64,
    /// About how many jobs the whole search looks at; null: unknown.
    #[serde(default)]
    pub of: Option<u64>,
    /// The search has looked at everything: `next` is null.
    #[serde(default)]
    pub complete: bool,
}

/// One page of jobs without their payloads, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobSummaryPage {
    pub jobs: Vec<SummaryView>,
    /// Pass it as `after` (or as `before`, if that was given) to continue. Null: there are no more.
    #[schema(value_type = Option<String>)]
    pub next: Option<JobId>,
    /// Jobs that this request has looked at. It ends after 150 ms or 20,000 of them, also if the page is not full.
    #[serde(default)]
    pub searched: u64,
    /// About how many jobs the whole search looks at; null: unknown.
    #[serde(default)]
    pub of: Option<u64>,
    /// The search has looked at everything: `next` is null.
    #[serde(default)]
    pub complete: bool,
}

/// A page of jobs; with `view=summary` without their payloads.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum JobListing {
    Full(JobPage),
    Summary(JobSummaryPage),
}

/// Not the derived one, which says `oneOf`: an empty page is both.
impl PartialSchema for JobListing {
    fn schema() -> RefOr<Schema> {
        let either = AnyOfBuilder::new()
            .item(Ref::from_schema_name(JobPage::name()))
            .item(Ref::from_schema_name(JobSummaryPage::name()))
            .description(Some(
                "A page of jobs; with `view=summary` without their payloads.",
            ));
        Schema::AnyOf(either.build()).into()
    }
}

impl ToSchema for JobListing {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for (name, schema) in [
            (JobPage::name(), JobPage::schema()),
            (JobSummaryPage::name(), JobSummaryPage::schema()),
        ] {
            schemas.push((name.into_owned(), schema));
        }
        JobPage::schemas(schemas);
        JobSummaryPage::schemas(schemas);
    }
}

/// A job as a list shows it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = JobSummary)]
pub struct SummaryView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    /// scheduled, available, running, retryable, completed, discarded or cancelled.
    #[schema(value_type = String, example = "completed")]
    pub state: JobState,
    #[schema(value_type = String, example = "normal")]
    pub priority: Priority,
    /// Attempts with an outcome.
    pub attempt: u32,
    pub max_attempts: u32,
    /// Executions whose worker died.
    pub crashes: u32,
    pub limit_key: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    /// The earliest start.
    pub run_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// The worker that runs it, or ran it last.
    #[schema(value_type = Option<String>)]
    pub worker: Option<WorkerId>,
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    pub cancel_requested: bool,
    /// The last failed attempt or crash.
    pub last_error: Option<ErrorView>,
}

impl From<JobSummary> for SummaryView {
    fn from(summary: JobSummary) -> Self {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let JobSummary {
            id,
            kind,
            queue,
            state,
            priority,
            attempt,
            max_attempts,
            crashes,
            limit_key,
            tags,
            run_at,
            created_at,
            started_at,
            finished_at,
            worker,
            batch,
            cancel_requested,
            last_error,
        } = summary;
        Self {
            id,
            kind,
            queue,
            state,
            priority,
            attempt,
            max_attempts,
            crashes,
            limit_key,
            tags,
            run_at,
            created_at,
            started_at,
            finished_at,
            worker,
            batch,
            cancel_requested,
            last_error: last_error.map(ErrorView::from),
        }
    }
}

/// What a page is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Full,
    Summary,
}

/// List and search jobs
///
/// In pages, newest first. `q` is a search: terms such as `kind:http.request state:discarded error:"timed out" payload.customer.id:42
/// queue:a,b age:>1h attempt:>=2 -state:completed`, of which all have to hold. A request looks at 20,000 jobs or
/// for 150 ms: a page may be shorter than `limit`, or empty, and `next` is set as long as there is more to look at. It is also shorter if
/// its jobs are large. A search in payloads or errors needs the scope `read:payload`, and never finds what the caller is not shown. A
/// bound key lists the jobs that it is bound to. Jobs that are stored on the broker are not listed.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs",
    params(
        ("q" = Option<String>, Query, description = "Only jobs for which every term holds"),
        ("queue" = Option<String>, Query, description = "Only this queue"),
        ("state" = Option<String>, Query,
            description = "scheduled, available, running, retryable, completed, discarded or cancelled"),
        ("kind" = Option<String>, Query, description = "Only this kind"),
        ("batch" = Option<String>, Query, description = "Only jobs of the batch with this id"),
        ("before" = Option<String>, Query, description = "Only jobs newer than this one, and of these the oldest. Not with `after`"),
        ("view" = Option<String>, Query, description = "`full` (default), or `summary`: without payloads, results and earlier errors"),
        PageParams,
    ),
    responses(
        (status = 200, body = JobListing, description = "A page"),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
        (status = 422, description = "unknown-queue"),
    ))]
pub(crate) async fn list(call: Call<Bound<Read>, ControlState, WithQuery>) -> Reply {
    call.state().learn().await;
    let (search, view) = request(&call).await?;
    let from = search.from;
    let listing = call.run(move |state| async move {
        let found = state.jobs.search(&search).await?;
        Ok::<_, LedgerError>(match view {
            View::Full => JobListing::Full(whole(&state.jobs, &found).await?),
            View::Summary => JobListing::Summary(summaries(&state.jobs, &found).await?),
        })
    });
    let mut listing = listing.await?;
    match &mut listing {
        JobListing::Full(page) => {
            put_newest_first(&mut page.jobs, from);
            page.jobs.iter_mut().for_each(|job| job.redact_for(&call));
        }
        JobListing::Summary(page) => {
            put_newest_first(&mut page.jobs, from);
            if !call.allowed.sees_payloads() {
                page.jobs
                    .iter_mut()
                    .filter_map(|job| job.last_error.as_mut())
                    .for_each(ErrorView::hide);
            }
        }
    }
    ok(&listing)
}

/// How many jobs match.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobCounts {
    /// `state`, `queue` or `kind`.
    #[schema(value_type = String)]
    pub by: Cow<'static, str>,
    /// The largest first, 200 at most.
    pub counts: Vec<JobCount>,
    /// There are more than 200.
    pub cut: bool,
    /// Jobs that this request has looked at.
    pub searched: u64,
    /// About how many there are to look at; null: unknown.
    pub of: Option<u64>,
    /// All of them were looked at: every count is exact.
    pub complete: bool,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobCount {
    pub value: String,
    pub count: u64,
    /// `exact`; `approximate`: raised from the jobs that were looked at to all of them; `at_least`: there may be more.
    #[schema(value_type = String)]
    pub certainty: Cow<'static, str>,
}

impl JobCounts {
    fn new(by: CountBy, counted: CountedJobs) -> Self {
        let certainty = |certainty| match certainty {
            Certainty::Exact => "exact",
            Certainty::Approximate => "approximate",
            Certainty::AtLeast => "at_least",
        };
        let by = match by {
            CountBy::State => "state",
            CountBy::Queue => "queue",
            CountBy::Kind => "kind",
        };
        let counts = counted.groups.into_iter().map(|group| JobCount {
            value: group.value,
            count: group.count,
            certainty: certainty(group.certainty).into(),
        });
        Self {
            by: by.into(),
            counts: counts.collect(),
            cut: counted.is_cut,
            searched: counted.searched,
            of: counted.of,
            complete: counted.is_complete,
        }
    }
}

/// Count jobs
///
/// By state, queue or kind, with the same `q` as the list of jobs. A request looks at 20,000 jobs or for 150 ms. If those are all, the counts
/// are exact; else they are approximate, and say so. Without `q`, the counts of jobs that have not ended and of dead letters are always
/// exact. Jobs that are stored on the broker are not counted.
#[utoipa::path(get, path = "/v1/jobs/counts", tag = "jobs", operation_id = "count_jobs",
    params(
        ("q" = Option<String>, Query, description = "Only jobs for which every term holds"),
        ("by" = Option<String>, Query, description = "`state` (default), `queue` or `kind`"),
    ),
    responses(
        (status = 200, body = JobCounts),
        (status = 400, description = "invalid-parameter"),
        (status = 422, description = "unknown-queue"),
    ))]
pub(crate) async fn counts(call: Call<Bound<Read>, ControlState, WithQuery>) -> Reply {
    call.state().learn().await;
    let mut params = call.params(&["q", "by"]);
    let query = params.parsed::<JobQuery>("q").unwrap_or_default();
    let by = match params.text("by") {
        None | Some("state") => CountBy::State,
        Some("queue") => CountBy::Queue,
        Some("kind") => CountBy::Kind,
        Some(_) => {
            params.fault("by", "jobs are counted by state, queue or kind".to_owned());
            CountBy::State
        }
    };
    params.finish()?;
    let search = JobSearch {
        query: allowed(&call, query).await?,
        from: SearchFrom::Newest,
        limit: 0,
        shown: shown_to(&call),
    };
    let counted = call.run(move |state| async move { state.jobs.count_jobs(&search, by).await });
    ok(&JobCounts::new(by, counted.await?))
}

fn put_newest_first<T>(jobs: &mut [T], from: SearchFrom) {
    if matches!(from, SearchFrom::NewerThan(_)) {
        jobs.reverse();
    }
}

async fn summaries(jobs: &Jobs, found: &FoundJobs) -> Result<JobSummaryPage, LedgerError> {
    let summaries = jobs.summaries(&found.ids).await?;
    Ok(JobSummaryPage {
        jobs: summaries.into_iter().map(SummaryView::from).collect(),
        next: found.next,
        searched: found.searched,
        of: found.of,
        complete: found.next.is_none(),
    })
}

/// The jobs that were found, until the page is full of bytes.
async fn whole(jobs: &Jobs, found: &FoundJobs) -> Result<JobPage, LedgerError> {
    let mut page = JobPage {
        jobs: Vec::new(),
        next: found.next,
        searched: found.searched,
        of: found.of,
        complete: found.next.is_none(),
    };
    let mut bytes = 0;
    for chunk in found.ids.chunks(CHUNK) {
        for record in jobs.get_many(chunk).await? {
            if bytes > PAGE_BYTES {
                page.next = page.jobs.last().map(JobView::id);
                page.complete = false;
                return Ok(page);
            }
            let job = JobView::new(record, Durability::Ledger);
            bytes += job.weight();
            page.jobs.push(job);
        }
    }
    Ok(page)
}

async fn request(call: &Call<Bound<Read>, ControlState, WithQuery>) -> Result<(JobSearch, View), Problem> {
    let mut params = call.params(&[
        "q", "queue", "state", "kind", "batch", "before", "after", "limit", "view",
    ]);
    let query = params.parsed::<JobQuery>("q").unwrap_or_default();
    let state = params.parsed::<JobState>("state");
    let page = params.page();
    let before = params.parsed::<JobId>("before");
    let queue = params.short_text("queue", MAX_NAME);
    let kind = params.short_text("kind", MAX_NAME);
    let batch = params.parsed::<BatchId>("batch");
    if before.is_some() && page.after.is_some() {
        params.fault("before", "give either `before` or `after`".to_owned());
    }
    let view = match params.text("view") {
        None | Some("full") => View::Full,
        Some("summary") => View::Summary,
        Some(_) => {
            params.fault("view", "the views are full and summary".to_owned());
            View::Full
        }
    };
    params.finish()?;
    if let Some(binding) = call.allowed.binding() {
        permit(binding, "queue", queue.as_deref(), None)?;
        permit(binding, "kind", None, kind.as_deref())?;
    }
    let mut query = allowed(call, query).await?;
    refuse_unknown_to(call, "queue", queue.as_deref()).await?;
    if let Some(queue) = queue {
        query.only_queues([queue]);
    }
    if let Some(kind) = kind {
        query.only_kinds([kind]);
    }
    if let Some(state) = state {
        query.only_state(state);
    }
    if let Some(batch) = batch {
        query.only_batch(batch);
    }
    let from = match (page.cursor()?, before) {
        (Some(id), _) => SearchFrom::OlderThan(id),
        (None, Some(id)) => SearchFrom::NewerThan(id),
        (None, None) => SearchFrom::Newest,
    };
    let search = JobSearch {
        query,
        from,
        limit: page.limit,
        shown: shown_to(call),
    };
    Ok((search, view))
}

/// The query as the caller may ask it: of the jobs that its key is bound to, and not in what it may not see.
async fn allowed(
    call: &Call<Bound<Read>, ControlState, WithQuery>,
    mut query: JobQuery,
) -> Result<JobQuery, Problem> {
    check_contents(call, &query)?;
    refuse_unknown_to(call, "q", query.named_queues()).await?;
    if let Some(binding) = call.allowed.binding() {
        permit(binding, "q", query.queues(), query.kinds())?;
        if !binding.queues.is_empty() {
            query.only_queues(binding.queues.iter().cloned());
        }
        if !binding.kinds.is_empty() {
            query.only_kinds(binding.kinds.iter().cloned());
        }
    }
    Ok(query)
}

/// What the caller is shown of payloads.
fn shown_to(call: &Call<Bound<Read>, ControlState, WithQuery>) -> Option<ShownPayload> {
    if call.allowed.sees_secrets() {
        return None;
    }
    let redactor = call.state().redactor.clone();
    Some(Arc::new(move |kind, payload| redactor.shown(kind, payload)))
}

/// Refuses a search in what the caller may not see: its answer would tell.
fn check_contents(
    call: &Call<Bound<Read>, ControlState, WithQuery>,
    query: &JobQuery,
) -> Result<(), Problem> {
    if !query.is_about_contents() {
        return Ok(());
    }
    call.allowed.needs_payloads("a search in payloads or errors")?;
    if call.allowed.sees_secrets() {
        return Ok(());
    }
    let redactor = &call.state().redactor;
    for path in query.payload_paths() {
        if let Some(kind) = query.kinds().find(|kind| redactor.hides(kind, path)) {
            let reason = format!(
                "the kind {kind} marks payload.{path} as secret: a search in it needs the scope `admin`"
            );
            return Err(Problem::field(ProblemKind::MissingScope, "q", reason));
        }
    }
    Ok(())
}

fn permit<'n>(
    binding: &Binding,
    field: &str,
    queues: impl IntoIterator<Item = &'n str>,
    kinds: impl IntoIterator<Item = &'n str>,
) -> Result<(), Problem> {
    for queue in queues {
        binding.permit_queue(field, queue)?;
    }
    for kind in kinds {
        binding.permit_kind(field, kind)?;
    }
    Ok(())
}
