//! `events.discover`: one source, read once.

mod reading;
mod report;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::clock;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::{Backoff, Job, JobContext, JobError, RetryPolicy, id_schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::reading::{PendingWork, StopOnDrop, read_body};
pub use self::report::{Change, DiscoverySummary, Report, Status};
use super::Discoverer;
use super::dedupe::KnownEntries;
use super::fetch::{Body, Failure, FetchAnswer, fetch, unpacked};
use super::missing::Inventory;
use super::parse::{Note, Reading};
use super::source::{SourceId, SourceKind, SourceRecord};
use super::store::{Outcome as Noted, SourceError};

/// Batches that wait to be stored while the reading goes on.
const AHEAD: usize = 2;

/// What storing may take beyond fetching.
const TIMEOUT: Duration = Duration::from_mins(10);

/// A failing source is looked at again after its interval, doubled each time, but not within less than this share of it.
const LEAST_REST: f64 = 0.5;

/// Discovers a source.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsDiscover {
    /// The id of the source.
    #[schemars(schema_with = "id_schema")]
    pub source: SourceId,
}

impl Job for EventsDiscover {
    const KIND: &'static str = "events.discover";
    const QUEUE: &'static str = "events";
    type Output = DiscoverySummary;

    fn example() -> Option<Self> {
        let source = "01JD3V0S7W8Q4M2XKZC5T9R6BH".parse().ok()?;
        Some(Self { source })
    }

    fn timeout() -> Option<Duration> {
        Some(TIMEOUT)
    }

    /// Of what is ours; the source's own failures are no failures of the job.
    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts: 5,
            backoff: Backoff::new(Duration::from_secs(5), Duration::from_mins(5)),
        })
    }

    async fn run(self, context: JobContext) -> Result<DiscoverySummary, JobError> {
        let discoverer = context.resource::<Discoverer>()?;
        tokio::select! {
            done = discoverer.discover(self.source) => done,
            () = context.cancelled() => Err(JobError::Cancelled),
        }
    }
}

/// Why a run came to no end.
enum ReadFailure {
    /// News of the source.
    Source(Failure),
    /// News of ours.
    Ours(LedgerError),
}

impl From<Failure> for ReadFailure {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

impl From<LedgerError> for ReadFailure {
    fn from(error: LedgerError) -> Self {
        Self::Ours(error)
    }
}

/// What to send along next time, of an answer that was read to its end.
type Validators = (Option<String>, Option<String>);

impl Discoverer {
    /// Reads a source once, and writes down what came of it.
    ///
    /// # Errors
    /// Transient: the database does not answer. Permanent: there is no such source.
    pub async fn discover(&self, id: SourceId) -> Result<DiscoverySummary, JobError> {
        let source = match self.0.sources.get(id).await {
            Ok(source) => source,
            Err(error @ SourceError::Unknown(_)) => return Err(JobError::permanent(error)),
            Err(error) => return Err(error.into()),
        };
        let began = Instant::now();
        let mut report = Report::new();
        let read = self.read(&source, &mut report).await;
        report.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match read {
            Ok(validators) => {
                let (etag, last_modified) = match &validators {
                    Some((etag, last_modified)) => (etag.as_deref(), last_modified.as_deref()),
                    None => (source.etag.as_deref(), source.last_modified.as_deref()),
                };
                let noted = Noted {
                    report: &report,
                    failures: 0,
                    validators: Some((etag, last_modified)),
                    rest: None,
                };
                self.0.sources.note(&source, &noted).await?;
            }
            Err(ReadFailure::Source(failure)) => self.note_failure(&source, failure, &mut report).await?,
            Err(ReadFailure::Ours(error)) => return Err(error.into()),
        }
        report.count();
        Ok(DiscoverySummary {
            status: report.status,
            error: report.error,
            entries: report.entries,
            inserted: report.inserted,
            changed: report.changed,
            skipped: report.skipped,
        })
    }

    async fn note_failure(
        &self,
        source: &SourceRecord,
        failure: Failure,
        report: &mut Report,
    ) -> Result<(), JobError> {
        let failures = source.failures.saturating_add(1);
        let rest = self.rest_after(source, failures, failure.rest);
        tracing::info!(
            source.id = %source.id,
            source.name,
            source.failures = failures,
            rest_seconds = rest.as_secs(),
            error = failure.reason,
            "a source cannot be read"
        );
        report.status = Status::Failed;
        report.error = Some(failure.reason);
        let noted = Noted {
            report,
            failures,
            validators: None,
            rest: Some(rest),
        };
        self.0.sources.note(source, &noted).await?;
        Ok(())
    }

    /// How long a source is left alone after so many failures in a row.
    fn rest_after(&self, source: &SourceRecord, failures: u32, asked: Option<Duration>) -> Duration {
        let interval = source.definition.interval();
        let doubled = interval.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
        let longest = self.0.sources.0.settings.max_backoff.max(interval);
        let rest = doubled.min(longest);
        let jittered = rest.mul_f64(LEAST_REST + (1.0 - LEAST_REST) * rand::random::<f64>());
        jittered.max(asked.unwrap_or_default())
    }

    /// Fetches, reads and stores. What a server says of its answer's age, if there was a whole one.
    async fn read(
        &self,
        source: &SourceRecord,
        report: &mut Report,
    ) -> Result<Option<Validators>, ReadFailure> {
        let mut seen = KnownEntries::default();
        if source.definition.kind == SourceKind::Reddit {
            self.read_reddit(source, report, &mut seen).await?;
            return Ok(None);
        }
        match self.fetched(source).await? {
            FetchAnswer::NotModified => self.read_again(source, report, &mut seen).await,
            FetchAnswer::Body(body) => self.read_new(source, body, report, &mut seen).await.map(Some),
        }
    }

    async fn fetched(&self, source: &SourceRecord) -> Result<FetchAnswer, Failure> {
        let settings = &self.0.sources.0.settings;
        fetch(&self.0.outbound, source, settings.timeout, settings.max_bytes).await
    }

    /// Reads an answer, and keeps it if it may be asked for again.
    async fn read_new(
        &self,
        source: &SourceRecord,
        body: Body,
        report: &mut Report,
        seen: &mut KnownEntries,
    ) -> Result<Validators, ReadFailure> {
        let validators = (body.etag.clone(), body.last_modified.clone());
        let taken = self.take(source, body, report, seen).await?;
        if source.definition.kind == SourceKind::Ical {
            match &taken.kept {
                Some(kept) => self.0.sources.keep_body(source, kept).await?,
                None => self.0.sources.drop_body(source).await?,
            }
        }
        Ok(validators)
    }

    /// The server says that nothing has changed. What repeats is read again nevertheless when there is more of it to see.
    async fn read_again(
        &self,
        source: &SourceRecord,
        report: &mut Report,
        seen: &mut KnownEntries,
    ) -> Result<Option<Validators>, ReadFailure> {
        report.status = Status::Unchanged;
        if source.definition.kind != SourceKind::Ical {
            return Ok(None);
        }
        let Some(kept) = self.0.sources.kept_body(source).await? else {
            return Ok(None);
        };
        let settings = &self.0.sources.0.settings;
        let until = ahead(clock::now(), settings.ahead);
        if !kept.is_behind(until) {
            return Ok(None);
        }
        if let Some(body) = kept.into_body(settings.max_bytes) {
            match self.take(source, body, report, seen).await {
                Ok(_) => {
                    self.0.sources.move_horizon(source, until).await?;
                    return Ok(None);
                }
                Err(ReadFailure::Source(failure)) => {
                    let reason = format!("cannot be read again, and is fetched again: {failure}");
                    report.note(Note::new("the body that was kept", reason));
                }
                Err(ours @ ReadFailure::Ours(_)) => return Err(ours),
            }
        }
        let unconditional = SourceRecord {
            etag: None,
            last_modified: None,
            ..source.clone()
        };
        match self.fetched(&unconditional).await? {
            FetchAnswer::Body(body) => {
                report.status = Status::Ok;
                self.read_new(source, body, report, seen).await.map(Some)
            }
            FetchAnswer::NotModified => {
                let reason =
                    "says 304 to a request without conditions: what repeats is not written out any further";
                report.note(Note::new("the server", reason));
                Ok(None)
            }
        }
    }

    async fn read_reddit(
        &self,
        source: &SourceRecord,
        report: &mut Report,
        seen: &mut KnownEntries,
    ) -> Result<(), ReadFailure> {
        let settings = &self.0.sources.0.settings;
        let mut after: Option<String> = None;
        for _ in 0..source.definition.pages.unwrap_or(1) {
            let page = self
                .0
                .reddit
                .page(&source.definition, after.as_deref(), settings.timeout);
            let body = unpacked(&page.await?, settings.max_bytes)?;
            after = self.take(source, body, report, seen).await?.after;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Reads a body while it stores what was read; then cancels what a calendar does not name any more.
    async fn take(
        &self,
        source: &SourceRecord,
        body: Body,
        report: &mut Report,
        seen: &mut KnownEntries,
    ) -> Result<PendingWork, ReadFailure> {
        report.bytes += body.bytes.len() as u64;
        let settings = &self.0.sources.0.settings;
        let now = clock::now();
        let (from, until) = (ago(now, settings.past), ahead(now, settings.ahead));
        let room = settings
            .max_entries
            .saturating_sub(usize::try_from(report.entries).unwrap_or(usize::MAX));
        let (sender, mut batches) = mpsc::channel(AHEAD);
        let definition = source.definition.clone();
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        let reading = tokio::task::spawn_blocking(move || {
            let reading = Reading {
                zone: definition.zone(),
                from,
                until,
                content_type: body.content_type.as_deref(),
                url: &body.url,
            };
            read_body(&definition, &body, &reading, room, &stopped, &sender)
        });
        while let Some(batch) = batches.recv().await {
            self.keep(source, batch, report, seen).await?;
        }
        let (tally, ended) = reading
            .await
            .map_err(|_| Failure::new("the answer brings its reader down; please report it"))?;
        report.skipped += tally.skipped;
        report.outside += tally.outside;
        for note in tally.notes {
            report.note(note);
        }
        let ended = ended.map_err(|fault| Failure::new(fault.to_string()))?;
        if let Some(survey) = ended.survey {
            let inventory = Inventory {
                names: tally.names,
                survey,
                until,
            };
            self.cancel_missing(source, &inventory, seen, report).await?;
        }
        Ok(ended.taken)
    }
}

fn ago(now: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
    let span = TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX);
    now.checked_sub_signed(span).unwrap_or(DateTime::UNIX_EPOCH)
}

fn ahead(now: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
    let span = TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(span).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
