//! A job as answers show it. This is the wire format: the engine may change its types without changing it.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use holdfast_core::config::Durability;
use holdfast_http::Call;
use holdfast_jobs::declared::hidden;
use holdfast_jobs::ledger::{ErrorRecord, JobRecord, LedgerError, Priority};
use holdfast_jobs::link::Link;
use holdfast_jobs::marks::REDACTED;
use holdfast_jobs::{BatchId, JobId, State, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::enqueue::JobBody;
use crate::state::ControlState;

/// Rows read at once while a page is filled.
const CHUNK: usize = 100;

/// A page that holds so many bytes of payloads, results and errors ends early; the next one goes on.
pub(crate) const PAGE_BYTES: usize = 8 * 1024 * 1024;

pub(crate) const fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Ledger => "ledger",
        Durability::Redis => "redis",
    }
}

/// A job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    /// scheduled, available, running, retryable, completed, discarded or cancelled.
    #[schema(value_type = String, example = "completed")]
    pub state: State,
    #[schema(value_type = String, example = "normal")]
    pub priority: Priority,
    #[schema(value_type = String, example = "ledger")]
    pub durability: Cow<'static, str>,
    #[schema(value_type = Value)]
    pub payload: Box<RawValue>,
    /// Attempts with an outcome.
    pub attempt: u32,
    pub max_attempts: u32,
    /// Executions whose worker died.
    pub crashes: u32,
    pub timeout_seconds: f64,
    pub unique_key: Option<String>,
    pub limit_key: Option<String>,
    /// The earliest start.
    pub run_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// What the handler returned.
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// The progress that the running handler reported last.
    #[schema(value_type = Option<Value>)]
    pub progress: Option<Box<RawValue>>,
    /// One for each failed attempt and crash.
    pub errors: Vec<ErrorView>,
    /// The worker that runs it, or ran it last.
    #[schema(value_type = Option<String>)]
    pub worker: Option<WorkerId>,
    pub cancel_requested: bool,
    /// The batch that the job is part of.
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    /// The follow-up job that its completion enqueues or enqueued.
    #[schema(value_type = Option<JobBody>)]
    pub then: Option<Box<Link>>,
    /// The job that its completion enqueued.
    #[schema(value_type = Option<String>)]
    pub child: Option<JobId>,
    /// The job whose completion enqueued it.
    #[schema(value_type = Option<String>)]
    pub parent: Option<JobId>,
    /// The batch whose callback the job is.
    #[schema(value_type = Option<String>)]
    pub callback_of: Option<BatchId>,
    /// The job is cancelled if it has not begun by then.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Words by which the job is found.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Who enqueued it: `key/ID`, `user/ID`, `sql/ROLE`, `schedule/NAME`, `cli/LOGIN`, `bootstrap` or `local`. Null: the program itself,
    /// the end of another job, or a version before; and a job of a `redis` queue that was stored on the broker.
    #[serde(default)]
    pub enqueued_by: Option<String>,
}

impl JobView {
    pub(crate) fn new(record: JobRecord, durability: Durability) -> Self {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let JobRecord {
            id,
            kind,
            queue,
            state,
            priority,
            payload,
            attempt,
            max_attempts,
            crashes,
            timeout_seconds,
            unique_key,
            limit_key,
            run_at,
            created_at,
            started_at,
            finished_at,
            result,
            progress,
            errors,
            worker,
            cancel_requested,
            batch,
            then,
            child,
            parent,
            callback_of,
            expires_at,
            tags,
            enqueued_by,
        } = record;
        Self {
            id,
            kind,
            queue,
            state,
            priority,
            durability: durability_name(durability).into(),
            payload,
            attempt,
            max_attempts,
            crashes,
            timeout_seconds,
            unique_key,
            limit_key,
            run_at,
            created_at,
            started_at,
            finished_at,
            result,
            progress,
            errors: errors.into_iter().map(ErrorView::from).collect(),
            worker,
            cancel_requested,
            batch,
            then,
            child,
            parent,
            callback_of,
            expires_at,
            tags,
            enqueued_by,
        }
    }

    /// Hides what the caller may not see: payloads, results and the texts of errors from one without `read:payload`; what the kind
    /// marks as secret from one who is no admin; and payloads of follow-ups that a bound key is not for.
    pub(crate) fn redact_for<N, Q>(&mut self, call: &Call<N, ControlState, Q>) {
        if call.allowed.sees_secrets() {
            return;
        }
        if !call.allowed.sees_payloads() {
            return self.hide_contents();
        }
        if let Some(binding) = call.allowed.caller().binding() {
            let is_foreign = |link: &Link| !binding.allows(&link.kind, &link.queue);
            hide_links(self.then.as_deref_mut(), is_foreign);
        }
        let redactor = &call.state().redactor;
        if let Some(shown) = redactor.shown(&self.kind, &self.payload) {
            self.payload = shown;
        }
        let mut next = self.then.as_deref_mut();
        while let Some(link) = next {
            if let Some(shown) = redactor.shown(&link.kind, &link.payload) {
                link.payload = shown;
            }
            next = link.then.as_deref_mut();
        }
    }

    fn hide_contents(&mut self) {
        self.payload = hidden();
        for content in [&mut self.result, &mut self.progress] {
            *content = content.take().map(|_| hidden());
        }
        self.errors.iter_mut().for_each(ErrorView::hide);
        hide_links(self.then.as_deref_mut(), |_| true);
    }

    /// About how many bytes it takes: what it holds of its producer's and its handler's own.
    pub(crate) fn weight(&self) -> usize {
        let raw = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |value| value.get().len());
        let errors: usize = self.errors.iter().map(|error| error.message.len()).sum();
        let then = self.then.as_ref().map_or(0, |then| then.payload_bytes());
        self.payload.get().len() + then + raw(&self.result) + raw(&self.progress) + errors
    }

    pub(crate) fn id(&self) -> JobId {
        self.id
    }
}

/// Hides the payloads of these follow-ups.
fn hide_links(first: Option<&mut Link>, is_hidden: impl Fn(&Link) -> bool) {
    let mut next = first;
    while let Some(link) = next {
        if is_hidden(link) {
            link.payload = hidden();
        }
        next = link.then.as_deref_mut();
    }
}

/// One failed attempt, or crash.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = JobFailure)]
pub struct ErrorView {
    pub at: DateTime<Utc>,
    pub attempt: u32,
    /// transient, permanent, timeout, panic, crash, …
    #[schema(value_type = String)]
    pub class: Cow<'static, str>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

impl ErrorView {
    /// Hides its text.
    pub(crate) fn hide(&mut self) {
        REDACTED.clone_into(&mut self.message);
    }
}

impl From<ErrorRecord> for ErrorView {
    fn from(record: ErrorRecord) -> Self {
        let ErrorRecord {
            at,
            attempt,
            class,
            message,
            worker,
            fingerprint: _,
            started_at: _,
        } = record;
        Self {
            at,
            attempt,
            class,
            message,
            worker,
        }
    }
}

/// Reads chunks until a page is full of jobs, or of bytes: the jobs, and the cursor of the next page.
pub(crate) async fn page_of<F>(
    limit: usize,
    mut after: Option<JobId>,
    read: impl Fn(Option<JobId>, usize) -> F,
) -> Result<(Vec<JobView>, Option<JobId>), LedgerError>
where
    F: Future<Output = Result<Vec<JobRecord>, LedgerError>>,
{
    let mut found: Vec<JobView> = Vec::new();
    let mut bytes = 0;
    loop {
        // One more than fits tells whether there is a next page.
        let wanted = CHUNK.min(limit + 1 - found.len());
        let chunk = read(after, wanted).await?;
        let is_last = chunk.len() < wanted;
        for record in chunk {
            if found.len() == limit || (bytes > PAGE_BYTES && !found.is_empty()) {
                let next = found.last().map(JobView::id);
                return Ok((found, next));
            }
            let job = JobView::new(record, Durability::Ledger);
            bytes += job.weight();
            after = Some(job.id());
            found.push(job);
        }
        if is_last {
            return Ok((found, None));
        }
    }
}
