//! How many workers the queues need, for autoscalers: [`holdfast_jobs::scaling`] over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_http::{Bound, Call, Read, Reply, WithQuery, ok};
use holdfast_jobs::scaling::{ScalingNeed, ScalingReport};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::queue_filter::refuse_unknown_to;
use crate::state::ControlState;

/// Longest name in a filter, in bytes.
const MAX_NAME: usize = 255;

/// In how many seconds a backlog is to be gone, if the request does not say.
const DEFAULT_DRAIN_SECONDS: f64 = 60.0;
const MIN_DRAIN_SECONDS: f64 = 1.0;
const MAX_DRAIN_SECONDS: f64 = 86_400.0;

/// How many places and replicas the queues need.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Scaling)]
pub struct ScalingView {
    /// The minute in which the depths were counted; null: there are none of the last hour.
    pub as_of: Option<DateTime<Utc>>,
    /// Age of the depths. They are counted once a minute.
    pub age_seconds: Option<f64>,
    /// Whether the figures can be trusted. If not, `desired_places` and `desired_replicas` are never less than what is alive.
    pub trusted: bool,
    /// Why the figures are not trusted: `no-depths`, `old-depths` (older than 150 s), `redis-unavailable`, `database-unavailable`.
    pub reasons: Vec<String>,
    /// Rates are means over this time.
    pub window_seconds: f64,
    /// A backlog is to be gone after this time.
    pub drain_seconds: f64,
    /// By name.
    pub queues: BTreeMap<String, ScalingFigures>,
    pub fleets: FleetScaling,
}

/// The sums over the queues that are shown.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FleetScaling {
    /// Queues and workers of Rust.
    pub rust: ScalingFigures,
    /// Queues and workers that pull over HTTP.
    pub pull: ScalingFigures,
}

/// The figures of a queue or a fleet.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ScalingFigures {
    /// Due jobs that wait, those in the buffers of workers included.
    pub waiting: u64,
    /// How long the oldest due job has waited.
    pub oldest_age_seconds: f64,
    /// Jobs that occupy a place.
    pub running: u64,
    /// Whether a due job was found when the request was answered, after the depths were counted. Not looked for in queues with limits.
    pub has_due_job: bool,
    /// No jobs are taken. Of a fleet: false.
    pub paused: bool,
    /// Jobs enqueued and attempts that are tried again.
    pub arrivals_per_second: f64,
    /// Attempts that ended.
    pub completions_per_second: f64,
    /// Mean of an attempt, estimated from 20 buckets; null: none ended in the window.
    pub run_seconds: Option<f64>,
    /// Living workers that do not drain.
    pub workers: u64,
    /// Jobs that these workers may run concurrently.
    pub places: u64,
    /// Places that keep up with the arrivals and work off the backlog: arrivals × run time + backlog × run time ÷ drain time.
    pub desired_places: u64,
    /// Workers with so many places. Of a fleet: enough for its neediest queue, and for all of its queues together.
    pub desired_replicas: u64,
}

impl From<&ScalingNeed> for ScalingFigures {
    fn from(scaling: &ScalingNeed) -> Self {
        let ScalingNeed {
            demand,
            capacity,
            desired_places,
            desired_replicas,
        } = scaling;
        Self {
            waiting: demand.waiting,
            oldest_age_seconds: rounded(demand.oldest_age_seconds),
            running: demand.running,
            has_due_job: demand.has_due_job,
            paused: demand.paused,
            arrivals_per_second: rounded(demand.arrivals_per_second),
            completions_per_second: rounded(demand.completions_per_second),
            run_seconds: demand.run_seconds.map(rounded),
            workers: capacity.workers,
            places: capacity.places,
            desired_places: *desired_places,
            desired_replicas: *desired_replicas,
        }
    }
}

impl ScalingView {
    fn new(report: &ScalingReport, drain: Duration) -> Self {
        let fleet = |name: &str| {
            report
                .fleets
                .get(name)
                .map(ScalingFigures::from)
                .unwrap_or_default()
        };
        Self {
            as_of: report.as_of,
            age_seconds: report.age.map(|age| rounded(age.as_secs_f64())),
            trusted: report.distrust.is_empty(),
            reasons: report
                .distrust
                .iter()
                .map(|reason| reason.as_str().to_owned())
                .collect(),
            window_seconds: rounded(report.window.as_secs_f64()),
            drain_seconds: drain.as_secs_f64(),
            queues: report
                .queues
                .iter()
                .map(|(name, scaling)| (name.clone(), scaling.into()))
                .collect(),
            fleets: FleetScaling {
                rust: fleet("rust"),
                pull: fleet("pull"),
            },
        }
    }
}

/// To four significant digits: rates and run times are estimates.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}

/// Show how many places and replicas the queues need
///
/// For autoscalers: KEDA's `metrics-api` reads a number such as `queues.NAME.desired_replicas` or `fleets.rust.desired_replicas`. The
/// answer comes from statistics by the minute and the rows of workers, and costs the same however many jobs there are. Figures that cannot
/// be trusted say so, and never advise less than what is alive. Of a bound key, its queues; fleets are sums over the queues that are shown.
#[utoipa::path(get, path = "/v1/scaling", tag = "stats", operation_id = "show_scaling",
    params(
        ("queue" = Option<String>, Query, description = "Only this queue"),
        ("drain_seconds" = Option<f64>, Query, description = "In how many seconds a backlog is to be gone, 1 to 86400. Default: 60"),
    ),
    responses(
        (status = 200, body = ScalingView),
        (status = 400, description = "invalid-parameter"),
        (status = 422, description = "unknown-queue"),
    ))]
pub(crate) async fn show(call: Call<Bound<Read>, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["queue", "drain_seconds"]);
    let queue = params.short_text("queue", MAX_NAME);
    let drain = params.number("drain_seconds", MIN_DRAIN_SECONDS, MAX_DRAIN_SECONDS);
    params.finish()?;
    let drain = Duration::from_secs_f64(drain.unwrap_or(DEFAULT_DRAIN_SECONDS));
    let binding = call.allowed.binding().cloned();
    if let (Some(queue), Some(binding)) = (&queue, &binding) {
        binding.permit_queue("queue", queue)?;
    }
    refuse_unknown_to(&call, "queue", &queue).await?;
    let is_shown = move |name: &str| {
        queue.as_ref().is_none_or(|queue| queue == name)
            && binding.as_ref().is_none_or(|binding| binding.allows_queue(name))
    };
    let read =
        call.run(move |state| async move { state.jobs.scaling(drain, state.lost_after, is_shown).await });
    ok(&ScalingView::new(&read.await?, drain))
}
