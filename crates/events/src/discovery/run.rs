//! `events.discover`: one source, read once.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::clock;
use holdfast_core::telemetry::catalogue;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::{Backoff, Job, JobContext, JobError, RetryPolicy, id_schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use ulid::Ulid;

use super::Discoverer;
use super::dedupe::KnownEntries;
use super::fetch::{Body, Failure, Fetched, fetch, unpacked};
use super::horizon::KeptBody;
use super::missing::Inventory;
use super::parse::{
    Entry, Form, Found, Note, ParseFault, Reading, Sink, Stop, Survey, parse_page, parse_until,
};
use super::source::{Definition, SourceId, SourceKind, SourceRecord};
use super::store::{Outcome as Noted, SourceError};

/// Entries that are stored at once.
const BATCH: usize = 500;

/// Batches that wait to be stored while the reading goes on.
const AHEAD: usize = 2;

/// Notes that a report keeps.
const MAX_NOTES: usize = 20;

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

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// The server says that nothing has changed.
    Unchanged,
    Failed,
}

/// An event that is new or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub id: Ulid,
    pub title: String,
    /// `inserted`, `changed` or `cancelled`.
    pub outcome: String,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub took_ms: u64,
    /// Of the answers, unpacked.
    pub bytes: u64,
    /// That could be read.
    pub entries: u64,
    pub inserted: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// That another event says already.
    pub duplicates: u64,
    /// That are over.
    pub outside: u64,
    /// That could not be read.
    pub skipped: u64,
    /// How often a subscription matched something new or changed.
    pub notices: u64,
    /// Deliveries to webhooks that this made.
    pub webhooks: u64,
    /// Mails that this made.
    pub mails: u64,
    /// What was skipped or odd; the first ones.
    pub notes: Vec<Note>,
    /// The first ones.
    pub changes: Vec<Change>,
}

impl Report {
    fn new() -> Self {
        Self {
            status: Status::Ok,
            error: None,
            took_ms: 0,
            bytes: 0,
            entries: 0,
            inserted: 0,
            changed: 0,
            unchanged: 0,
            duplicates: 0,
            outside: 0,
            skipped: 0,
            notices: 0,
            webhooks: 0,
            mails: 0,
            notes: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// In the metrics.
    fn count(&self) {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Unchanged => "unchanged",
            Status::Failed => "failed",
        };
        catalogue::DISCOVERY_RUNS.with([status]).increment(1);
        for (outcome, count) in [
            ("inserted", self.inserted),
            ("changed", self.changed),
            ("unchanged", self.unchanged),
            ("duplicate", self.duplicates),
            ("outside", self.outside),
            ("skipped", self.skipped),
        ] {
            catalogue::DISCOVERY_EVENTS.with([outcome]).increment(count);
        }
    }

    pub(super) fn skip(&mut self, note: Note) {
        self.skipped += 1;
        self.note(note);
    }

    pub(super) fn note(&mut self, note: Note) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }
}

/// The job's result: the report without its lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Discovered {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub entries: u64,
    pub inserted: u64,
    pub changed: u64,
    pub skipped: u64,
}

impl Job for EventsDiscover {
    const KIND: &'static str = "events.discover";
    const QUEUE: &'static str = "events";
    type Output = Discovered;

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

    async fn run(self, context: JobContext) -> Result<Discovered, JobError> {
        let discoverer = context.resource::<Discoverer>()?;
        tokio::select! {
            done = discoverer.discover(self.source) => done,
            () = context.cancelled() => Err(JobError::Cancelled),
        }
    }
}

/// Why a run came to no end.
enum Broken {
    /// News of the source.
    Source(Failure),
    /// News of ours.
    Ours(LedgerError),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

impl From<LedgerError> for Broken {
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
    pub async fn discover(&self, id: SourceId) -> Result<Discovered, JobError> {
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
            Err(Broken::Source(failure)) => self.note_failure(&source, failure, &mut report).await?,
            Err(Broken::Ours(error)) => return Err(error.into()),
        }
        report.count();
        Ok(Discovered {
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
    async fn read(&self, source: &SourceRecord, report: &mut Report) -> Result<Option<Validators>, Broken> {
        let mut seen = KnownEntries::default();
        if source.definition.kind == SourceKind::Reddit {
            self.read_reddit(source, report, &mut seen).await?;
            return Ok(None);
        }
        match self.fetched(source).await? {
            Fetched::NotModified => self.read_again(source, report, &mut seen).await,
            Fetched::Body(body) => self.read_new(source, body, report, &mut seen).await.map(Some),
        }
    }

    async fn fetched(&self, source: &SourceRecord) -> Result<Fetched, Failure> {
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
    ) -> Result<Validators, Broken> {
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
    ) -> Result<Option<Validators>, Broken> {
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
                Err(Broken::Source(failure)) => {
                    let reason = format!("cannot be read again, and is fetched again: {failure}");
                    report.note(Note::new("the body that was kept", reason));
                }
                Err(ours @ Broken::Ours(_)) => return Err(ours),
            }
        }
        let unconditional = SourceRecord {
            etag: None,
            last_modified: None,
            ..source.clone()
        };
        match self.fetched(&unconditional).await? {
            Fetched::Body(body) => {
                report.status = Status::Ok;
                self.read_new(source, body, report, seen).await.map(Some)
            }
            Fetched::NotModified => {
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
    ) -> Result<(), Broken> {
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
    ) -> Result<PendingWork, Broken> {
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

/// What a body leaves to do.
#[derive(Default)]
struct PendingWork {
    /// Names the next page, if there is one.
    after: Option<String>,
    kept: Option<KeptBody>,
}

/// How reading a body ended.
struct ReadOutcome {
    taken: PendingWork,
    /// Of a calendar.
    survey: Option<Survey>,
}

/// Ends a parse whose run is dropped: by its timeout, a cancellation, or a failure to store.
#[derive(Default)]
struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
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

/// What was found besides entries.
#[derive(Debug, Default)]
struct Tally {
    skipped: u64,
    outside: u64,
    notes: Vec<Note>,
    /// Of the entries.
    names: HashSet<String>,
}

impl Tally {
    fn note(&mut self, note: Note) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }
}

/// Reads a body and sends its entries off in batches, each name once; at most `room` of them.
fn read_body(
    definition: &Definition,
    body: &Body,
    reading: &Reading<'_>,
    room: usize,
    stop: &Stop,
    sender: &mpsc::Sender<Vec<Entry>>,
) -> (Tally, Result<ReadOutcome, ParseFault>) {
    let (mut tally, mut batch, mut cut) = (Tally::default(), Vec::with_capacity(BATCH), false);
    // Waiting for the database is not reading. If nobody receives any more, the run was given up.
    let send = |batch| {
        let began = std::time::Instant::now();
        let sent = sender.blocking_send(batch);
        stop.excuse(began.elapsed());
        if sent.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    let mut sink = |found: Found| {
        match found {
            Found::Entry(entry) => {
                if tally.names.len() == room {
                    let reason =
                        format!("more than {room} entries (discovery.max_entries); the rest was not read");
                    tally.note(Note::new("the end", reason));
                    cut = true;
                    return ControlFlow::Break(());
                }
                if !tally.names.insert(entry.uid.clone()) {
                    tally.skipped += 1;
                    tally.note(Note::new(&entry.title, "has the name of an entry before it"));
                    return ControlFlow::Continue(());
                }
                batch.push(*entry);
                if batch.len() == BATCH {
                    return send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
                }
            }
            Found::Skipped(note) => {
                tally.skipped += 1;
                tally.note(note);
            }
            Found::Noted(note) => tally.note(note),
            Found::Outside => tally.outside += 1,
        }
        ControlFlow::Continue(())
    };
    let ended = read_form(definition, body, reading, stop, &mut sink);
    if !batch.is_empty() {
        let _ = send(batch);
    }
    let ended = ended.map(|ended| ReadOutcome {
        survey: ended.survey.filter(|_| !cut),
        ..ended
    });
    (tally, ended)
}

fn read_form(
    definition: &Definition,
    body: &Body,
    reading: &Reading<'_>,
    stop: &Stop,
    sink: &mut Sink<'_>,
) -> Result<ReadOutcome, ParseFault> {
    let form = match (definition.kind, &definition.mapping) {
        (SourceKind::Json, Some(mapping)) => Form::Json(mapping),
        (SourceKind::Ical, _) => Form::Calendar,
        (SourceKind::Reddit, _) => {
            let page = parse_page(&body.bytes, reading, sink)?;
            let taken = PendingWork {
                after: page.after,
                ..PendingWork::default()
            };
            return Ok(ReadOutcome { taken, survey: None });
        }
        (SourceKind::Rss | SourceKind::Json, _) => Form::Feed,
    };
    let survey = parse_until(form, &body.bytes, reading, stop, sink)?;
    let asked_for_again = body.etag.is_some() || body.last_modified.is_some();
    let keep = survey.repeats && asked_for_again;
    Ok(ReadOutcome {
        taken: PendingWork {
            after: None,
            kept: keep.then(|| KeptBody::of(body, reading.until)),
        },
        survey: matches!(form, Form::Calendar).then_some(survey),
    })
}
