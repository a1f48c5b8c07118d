//! Schedules: jobs that come by the clock.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::web;
use chrono::{DateTime, SecondsFormat, Utc};
use holdfast_core::clock;
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::Seconds;
use holdfast_http::{
    Admin, Call, PageParams, Problem, ProblemKind, Produce, Read, Reply, WithQuery, json_at, ok,
};
use holdfast_jobs::JobId;
use holdfast_jobs::State as JobState;
use holdfast_jobs::schedules::{
    BeatRecord, CatchUp, Definition, MAX_NAME, NEXT_TICKS, PutOutcome, Rhythm, Run, ScheduleError,
    ScheduleRecord, rhythm, timing,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::enqueue::AcceptedJob;
use crate::state::ControlState;

/// A schedule to be stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSchedule, example = json!({"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin",
    "kind": "http.request", "payload": {"url": "https://example.com/report"}}))]
pub struct ScheduleBody {
    /// 1 to 63 of a-z, 0-9, _, - and . (in a PUT the path says it).
    pub name: Option<String>,
    /// Five fields (minute, hour, day of month, month, day of week), or six with a second first.
    pub cron: Option<String>,
    /// In place of `cron`: a whole number of seconds, 1 or more.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub every_seconds: Option<Seconds>,
    /// An IANA name such as `Europe/Berlin`. Default: UTC.
    pub time_zone: Option<String>,
    /// The kind of each tick's job.
    pub kind: String,
    #[schema(value_type = Value)]
    pub payload: Box<RawValue>,
    /// Default: the kind's queue.
    pub queue: Option<String>,
    /// What happens to ticks that were missed while no beat ran: `skip`, `latest` (default) or `all`.
    #[schema(pattern = "^(skip|latest|all)$")]
    pub catch_up: Option<String>,
    /// With `all`: the largest number of missed ticks that become jobs. Default: 100.
    #[schema(minimum = 1, maximum = 1000)]
    pub catch_up_max: Option<u32>,
    /// The longest random delay of each tick's job, in seconds; less than the time between two ticks.
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub jitter_seconds: Option<Seconds>,
    /// Default: true.
    pub enabled: Option<bool>,
}

impl ScheduleBody {
    /// What it defines under this name.
    pub fn into_definition(self, name: String) -> Definition {
        Definition {
            name,
            cron: self.cron,
            every: self.every_seconds.map(|seconds| seconds.0),
            time_zone: self.time_zone,
            kind: self.kind,
            payload: self.payload,
            queue: self.queue,
            catch_up: self.catch_up,
            catch_up_max: self.catch_up_max,
            jitter: self.jitter_seconds.map(|seconds| seconds.0),
            enabled: self.enabled.unwrap_or(true),
        }
    }
}

/// A schedule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleView {
    pub name: String,
    /// `api`, or `config`: a schedule of `holdfast.toml`, which can be disabled, enabled and run here, and not changed.
    pub source: Cow<'static, str>,
    /// Whether it ticks.
    pub enabled: bool,
    /// Disabled by a request, though the configuration enables it. Absent: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    pub cron: Option<String>,
    pub every_seconds: Option<u32>,
    pub time_zone: Option<String>,
    pub kind: String,
    #[schema(value_type = Value)]
    pub payload: Box<RawValue>,
    pub queue: Option<String>,
    pub catch_up: Cow<'static, str>,
    pub catch_up_max: Option<u32>,
    pub jitter_seconds: f64,
    /// The next five ticks, in UTC; empty for a disabled schedule.
    pub next_ticks: Vec<DateTime<Utc>>,
    /// The newest tick that became a job.
    pub last_tick: Option<DateTime<Utc>>,
    /// When its last job was enqueued, by a tick or by a request.
    pub last_run_at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<String>)]
    pub last_job: Option<JobId>,
    /// Why the tick that is due cannot become a job.
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl ScheduleView {
    /// Without its payload, or what its kind marks as secret of it, where the caller may not see that.
    fn shown_to<Q>(mut self, call: &Call<Read, ControlState, Q>) -> Self {
        let stored = std::mem::replace(&mut self.payload, holdfast_jobs::declared::hidden());
        self.payload = call.state().jobs.readable(&self.kind, stored);
        if !call.allowed.sees_payloads() {
            self.payload = holdfast_jobs::declared::hidden();
        } else if !call.allowed.sees_secrets()
            && let Some(shown) = call.state().redactor.shown(&self.kind, &self.payload)
        {
            self.payload = shown;
        }
        self
    }
}

impl From<ScheduleRecord> for ScheduleView {
    fn from(record: ScheduleRecord) -> Self {
        let next_ticks = record.next_ticks(NEXT_TICKS);
        let schedule = record.schedule;
        let enabled = schedule.ticks();
        let (cron, time_zone, every_seconds) = match schedule.rhythm {
            Rhythm::Cron {
                expression,
                time_zone,
            } => (Some(expression), Some(time_zone), None),
            Rhythm::Every { seconds } => (None, None, Some(seconds)),
        };
        Self {
            name: schedule.name,
            source: record.source.name().into(),
            enabled,
            paused: schedule.paused,
            cron,
            every_seconds,
            time_zone,
            kind: schedule.kind,
            payload: (*schedule.payload).to_owned(),
            queue: schedule.queue,
            catch_up: schedule.catch_up.name().into(),
            catch_up_max: match schedule.catch_up {
                CatchUp::All { max } => Some(max),
                CatchUp::Skip | CatchUp::Latest => None,
            },
            jitter_seconds: schedule.jitter.as_secs_f64(),
            next_ticks,
            last_tick: record.last_tick,
            last_run_at: record.last_run_at,
            last_job: record.last_job,
            last_error: record.last_error,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

/// A page of schedules, by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleList {
    pub schedules: Vec<ScheduleView>,
    /// Pass it as `after` to get the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A deleted schedule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeletedSchedule {
    pub name: String,
    pub deleted: bool,
}

/// When a schedule would tick. Either `cron` or `every_seconds`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"cron": "30 2 * * 1-5", "time_zone": "Europe/Berlin"}))]
pub struct SchedulePreviewRequest {
    /// Five fields (minute, hour, day of month, month, day of week), or six with a second first.
    pub cron: Option<String>,
    /// A whole number of seconds, 1 or more.
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub every_seconds: Option<Seconds>,
    /// An IANA name such as `Europe/Berlin`. Default: UTC.
    pub time_zone: Option<String>,
}

/// When a schedule would tick.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SchedulePreview {
    /// In English; of a cron expression as the clock of its zone shows it.
    #[schema(example = "At 02:30, on Monday through Friday.")]
    pub words: String,
    pub time_zone: String,
    /// The next five.
    pub ticks: Vec<PreviewedTick>,
}

/// A tick in both zones.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PreviewedTick {
    pub utc: DateTime<Utc>,
    /// With the offset of the schedule's zone.
    #[schema(example = "2030-01-31T02:30:00+01:00")]
    pub local: String,
}

/// Preview a schedule
///
/// What a cron expression or an interval means in words, and its next five ticks. Nothing is stored.
#[utoipa::path(post, path = "/v1/schedules/preview", tag = "schedules", operation_id = "preview_schedule",
    request_body = SchedulePreviewRequest,
    responses(
        (status = 200, body = SchedulePreview),
        (status = 400, description = "malformed-json"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn preview(call: Call<Read, ControlState>, payload: web::Payload) -> Reply {
    let body: SchedulePreviewRequest = call.json(payload).await?;
    let every = body.every_seconds.map(|seconds| seconds.0);
    let invalid = |fault| Problem::from(ScheduleError::Invalid(vec![fault]));
    let rhythm = rhythm(body.cron.as_deref(), every, body.time_zone.as_deref()).map_err(invalid)?;
    let zone_name = match &rhythm {
        Rhythm::Cron { time_zone, .. } => time_zone.clone(),
        Rhythm::Every { .. } => "UTC".to_owned(),
    };
    // They were checked a moment ago.
    let zone = timing::zone(&zone_name).map_err(Problem::internal)?;
    let ticks = rhythm.timing().map_err(Problem::internal)?;
    let ticks = ticks.next_ticks(clock::now(), NEXT_TICKS).into_iter();
    ok(&SchedulePreview {
        words: rhythm.in_words().map_err(Problem::internal)?,
        time_zone: zone_name,
        ticks: ticks
            .map(|utc| PreviewedTick {
                utc,
                local: utc
                    .with_timezone(&zone)
                    .to_rfc3339_opts(SecondsFormat::Secs, false),
            })
            .collect(),
    })
}

/// The last ticks of a schedule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRuns {
    /// The newest first, 20 at most.
    pub runs: Vec<ScheduleRun>,
}

/// A tick, and its job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRun {
    pub tick: DateTime<Utc>,
    /// Null: the tick was missed or skipped, its job is no longer stored, or the schedule ticked at other times then.
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    #[schema(value_type = Option<String>, example = "completed")]
    pub state: Option<JobState>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl From<Run> for ScheduleRun {
    fn from(Run { tick, job }: Run) -> Self {
        Self {
            tick,
            job: job.map(|job| job.id),
            state: job.map(|job| job.state),
            started_at: job.and_then(|job| job.started_at),
            finished_at: job.and_then(|job| job.finished_at),
        }
    }
}

/// List the runs of a schedule
///
/// The last 20 ticks of the schedule as it is now, with what became of their jobs.
#[utoipa::path(get, path = "/v1/schedules/{name}/runs", tag = "schedules", operation_id = "list_schedule_runs",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 200, body = ScheduleRuns),
        (status = 404, description = "schedule-not-found"),
    ))]
pub(crate) async fn runs(call: Call<Read, ControlState>) -> Reply {
    let name = call.path("name");
    let runs = call.run(|state| async move { state.schedules.runs(&name).await });
    let runs = runs.await?.into_iter().map(Into::into).collect();
    ok(&ScheduleRuns { runs })
}

/// A process that ticks schedules.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Beat)]
pub struct BeatView {
    /// A readable name: host, process and boot.
    pub name: String,
    /// Whether a recent heartbeat is stored.
    pub alive: bool,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub seen_seconds_ago: f64,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BeatList {
    pub beats: Vec<BeatView>,
}

/// List beats
///
/// The processes that tick schedules. A silent one stays listed for a while.
#[utoipa::path(get, path = "/v1/beats", tag = "schedules", operation_id = "list_beats",
    responses(
        (status = 200, body = BeatList),
    ))]
pub(crate) async fn beats(call: Call<Read, ControlState>) -> Reply {
    let beats = call.run(|state| async move { state.schedules.beats().await });
    let lost_after = call.state().beat_lost_after.as_secs_f64();
    let view = |beat: BeatRecord| BeatView {
        name: beat.name,
        alive: beat.seen_seconds_ago < lost_after,
        started_at: beat.started_at,
        seen_at: beat.seen_at,
        seen_seconds_ago: beat.seen_seconds_ago,
    };
    let beats = beats.await?.into_iter().map(view).collect();
    ok(&BeatList { beats })
}

/// List schedules
///
/// In pages, by name, including those of the configuration.
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", operation_id = "list_schedules",
    params(
        PageParams,
    ),
    responses(
        (status = 200, body = ScheduleList),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["after", "limit"]);
    let page = params.page();
    if page.after.as_ref().is_some_and(|after| after.len() > MAX_NAME) {
        params.fault("after", "longer than any schedule's name".to_owned());
    }
    params.finish()?;
    let (after, wanted) = (page.after.clone(), page.wanted());
    let found = call.run(move |state| async move { state.schedules.list(after.as_deref(), wanted).await });
    call.state().learn().await;
    let view = |record| ScheduleView::from(record).shown_to(&call);
    let (schedules, next) = page.cut(found.await?, view, |record| record.schedule.name.clone());
    ok(&ScheduleList { schedules, next })
}

/// Create a schedule
///
/// All errors in the definition are reported together. The first tick is the next one from now on.
#[utoipa::path(post, path = "/v1/schedules", tag = "schedules", operation_id = "create_schedule",
    request_body = ScheduleBody,
    responses(
        (status = 201, body = ScheduleView, description = "Created",
            headers(("Location" = String, description = "The schedule's address"))),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "schedule-exists, too-many-schedules"),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 422, description = "invalid-field, unknown-kind, unknown-queue, invalid-payload, payload-too-deep"),
    ))]
pub(crate) async fn create(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let mut body: ScheduleBody = call.json_of(payload, BodySize::Bulk).await?;
    let name = body.name.take().ok_or_else(|| {
        let reason = "missing: give the schedule a name";
        Problem::field(ProblemKind::InvalidField, "name", reason)
    })?;
    let (by, definition) = (call.actor(), body.into_definition(name));
    let record = call.run(|state| async move { state.schedules.create(&by, definition).await });
    created(record.await?)
}

fn created(record: ScheduleRecord) -> Reply {
    let location = format!("/v1/schedules/{}", record.schedule.name);
    json_at(StatusCode::CREATED, &location, &ScheduleView::from(record))
}

/// Show a schedule
///
/// With its next five ticks, its last run and that run's job.
#[utoipa::path(get, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "show_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 200, body = ScheduleView),
        (status = 404, description = "schedule-not-found"),
    ))]
pub(crate) async fn show(call: Call<Read, ControlState>) -> Reply {
    let name = call.path("name");
    let record = call.run(|state| async move { state.schedules.get(&name).await });
    let record = record.await?;
    call.state().learn().await;
    ok(&ScheduleView::from(record).shown_to(&call))
}

/// Create or replace a schedule
///
/// A due tick is not lost, unless the cron expression or the interval changes: then the next tick is the first
/// one from now on.
#[utoipa::path(put, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "put_schedule",
    request_body = ScheduleBody,
    params(("name" = String, Path, description = "The schedule's name; one in the body must be the same")),
    responses(
        (status = 200, body = ScheduleView, description = "It was replaced"),
        (status = 201, body = ScheduleView, description = "It is new"),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "schedule-configured, too-many-schedules"),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 422, description = "invalid-field, unknown-kind, unknown-queue, invalid-payload, payload-too-deep"),
    ))]
pub(crate) async fn put(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let (name, by) = (call.path("name"), call.actor());
    let mut body: ScheduleBody = call.json_of(payload, BodySize::Bulk).await?;
    if body.name.take().is_some_and(|said| said != name) {
        let reason = "is not the name in the path; a schedule cannot be renamed, make a new one";
        return Err(Problem::field(ProblemKind::InvalidField, "name", reason));
    }
    let definition = body.into_definition(name);
    let stored = call.run(|state| async move { state.schedules.put(&by, definition).await });
    match stored.await? {
        PutOutcome::New(record) => created(record),
        PutOutcome::Replaced(record) => ok(&ScheduleView::from(record)),
    }
}

/// Delete a schedule
///
/// Jobs of its ticks continue.
#[utoipa::path(delete, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "delete_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 200, body = DeletedSchedule),
        (status = 404, description = "schedule-not-found"),
        (status = 409, description = "schedule-configured"),
    ))]
pub(crate) async fn delete(call: Call<Admin, ControlState>) -> Reply {
    let (name, by) = (call.path("name"), call.actor());
    let gone = name.clone();
    call.run(|state| async move { state.schedules.delete(&by, &gone).await })
        .await?;
    ok(&DeletedSchedule { name, deleted: true })
}

/// Run a schedule now
///
/// Enqueues the schedule's job now, in addition to its ticks, whether or not it is enabled.
#[utoipa::path(post, path = "/v1/schedules/{name}/run", tag = "schedules", operation_id = "run_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 202, body = AcceptedJob, description = "The job",
            headers(("Location" = String, description = "The job's address"))),
        (status = 404, description = "schedule-not-found"),
        (status = 422, description = "unknown-kind, unknown-queue, invalid-payload: the configuration has changed since"),
    ))]
pub(crate) async fn run(call: Call<Produce, ControlState>) -> Reply {
    let (name, by) = (call.path("name"), call.actor());
    let job = call.run(|state| async move { state.schedules.run(&by, &name).await });
    AcceptedJob::from(job.await?).reply(StatusCode::ACCEPTED)
}

/// Enable a schedule
///
/// The next tick is the first one from now on: ticks that were missed while the schedule was disabled are not
/// caught up.
#[utoipa::path(post, path = "/v1/schedules/{name}/enable", tag = "schedules", operation_id = "enable_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 200, body = ScheduleView),
        (status = 404, description = "schedule-not-found"),
        (status = 409, description = "schedule-configured"),
    ))]
pub(crate) async fn enable(call: Call<Admin, ControlState>) -> Reply {
    set_enabled(&call, true).await
}

/// Disable a schedule
///
/// The schedule does not tick until it is enabled again. Jobs of earlier ticks continue. A schedule of the configuration stays
/// disabled however often services restart.
#[utoipa::path(post, path = "/v1/schedules/{name}/disable", tag = "schedules", operation_id = "disable_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    responses(
        (status = 200, body = ScheduleView),
        (status = 404, description = "schedule-not-found"),
        (status = 409, description = "schedule-configured"),
    ))]
pub(crate) async fn disable(call: Call<Admin, ControlState>) -> Reply {
    set_enabled(&call, false).await
}

async fn set_enabled(call: &Call<Admin, ControlState>, enabled: bool) -> Reply {
    let (name, by) = (call.path("name"), call.actor());
    let record = call.run(move |state| async move { state.schedules.set_enabled(&by, &name, enabled).await });
    ok(&ScheduleView::from(record.await?))
}
