//! Statistics over time: what [`holdfast_jobs::statistics`] has stored, as series for charts.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_cache::{Class, Namespace};
use holdfast_core::clock;
use holdfast_http::params::Params;
use holdfast_http::problem::Problem;
use holdfast_http::responses::{CachedRoute, Lifetime};
use holdfast_http::{Binding, Bound, Call, Read, Reply, WithQuery};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::statistics::{
    Buckets, Counts, Grouping, MAX_POINTS, MAX_SERIES, OutageSpan, Point, Range, Series, Span, StatsFilter,
    StatsReport, percentile,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::queue_filter::refuse_unknown_to;
use crate::state::ControlState;

/// The cached answers of `GET /v1/stats`.
const CACHED: CachedRoute = CachedRoute {
    namespace: Namespace::raw(Class::ApiResponse, "stats", 1),
    lifetime: Lifetime::List,
};

/// Longest name in a filter, in bytes.
const MAX_NAME: usize = 255;

/// What is shown if nothing is said.
const DEFAULT_RANGE: TimeDelta = TimeDelta::hours(1);

/// Steps that are chosen by themselves, in minutes: the shortest that makes at most [`DEFAULT_POINTS`].
const DEFAULT_STEPS: [i64; 7] = [1, 5, 15, 60, 360, 1_440, 10_080];
const DEFAULT_POINTS: i64 = 120;

/// Series of a span of time. Every list has one value for each step, the first of which begins at `from`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Stats)]
pub struct StatsView {
    /// A multiple of the step since 1970, at or before the requested time.
    pub from: DateTime<Utc>,
    /// At or after the requested time. The last step may go on.
    pub to: DateTime<Utc>,
    pub step_seconds: u64,
    /// One for each queue or kind, the busiest first; without `by` one.
    pub series: Vec<SeriesView>,
    /// There are more queues or kinds than the 20 that are shown.
    pub has_more: bool,
    /// When processes could not use Redis or the database.
    pub outages: Vec<OutageView>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = StatsSeries)]
pub struct SeriesView {
    /// The queue or the kind; null: everything that was asked for.
    pub name: Option<String>,
    /// Of the whole span.
    pub total: TotalView,
    pub enqueued: Vec<u64>,
    pub completed: Vec<u64>,
    /// Attempts that failed: those that are tried again, and those that discarded their job.
    pub failed: Vec<u64>,
    pub discarded: Vec<u64>,
    pub cancelled: Vec<u64>,
    /// From when jobs were due until they started.
    pub wait_seconds: PercentileSeries,
    /// Of all attempts.
    pub run_seconds: PercentileSeries,
    /// Due jobs that waited: the most of each step; null where it is not known, and in series by kind.
    pub available: Vec<Option<u64>>,
    /// Jobs that ran: the most of each step.
    pub running: Vec<Option<u64>>,
    /// Age of the oldest due job: the most of each step.
    pub oldest_age_seconds: Vec<Option<f64>>,
}

/// Sums over a span.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = StatsTotal)]
pub struct TotalView {
    pub enqueued: u64,
    pub completed: u64,
    pub failed: u64,
    pub discarded: u64,
    pub cancelled: u64,
    pub wait_seconds: PercentileView,
    pub run_seconds: PercentileView,
}

/// Estimated from 20 buckets, 1 ms to 6 h. Null where nothing was counted.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = StatsPercentileSeries)]
pub struct PercentileSeries {
    pub p50: Vec<Option<f64>>,
    pub p95: Vec<Option<f64>>,
    pub p99: Vec<Option<f64>>,
}

/// Estimated from 20 buckets, 1 ms to 6 h. Null where nothing was counted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = StatsPercentiles)]
pub struct PercentileView {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

/// A span in which at least one process could not use a dependency.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = StatsOutage)]
pub struct OutageView {
    /// `redis` or `database`.
    pub dependency: String,
    /// Of the first process, such as `refused` or `timed_out`.
    pub reason: String,
    pub from: DateTime<Utc>,
    /// Null: it goes on.
    pub to: Option<DateTime<Utc>>,
    /// How many processes had it.
    pub processes: usize,
}

impl PercentileView {
    fn new(buckets: &Buckets) -> Self {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| percentile(buckets, share).map(seconds));
        Self { p50, p95, p99 }
    }
}

impl PercentileSeries {
    fn new<'b>(buckets: impl Iterator<Item = &'b Buckets>) -> Self {
        let mut series = Self::default();
        for PercentileView { p50, p95, p99 } in buckets.map(PercentileView::new) {
            series.p50.push(p50);
            series.p95.push(p95);
            series.p99.push(p99);
        }
        series
    }
}

/// To four significant digits: it is an estimate.
fn seconds(time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    format!("{seconds:.3e}").parse().unwrap_or(seconds)
}

impl TotalView {
    fn new(counts: &Counts) -> Self {
        Self {
            enqueued: counts.enqueued,
            completed: counts.completed,
            failed: counts.failed(),
            discarded: counts.discarded,
            cancelled: counts.cancelled,
            wait_seconds: PercentileView::new(&counts.wait),
            run_seconds: PercentileView::new(&counts.run),
        }
    }
}

impl From<Series> for SeriesView {
    fn from(Series { name, total, points }: Series) -> Self {
        let counts = |of: fn(&Counts) -> u64| points.iter().map(|point| of(&point.counts)).collect();
        let gauge = |point: &Point| point.gauge;
        Self {
            name: (!name.is_empty()).then_some(name),
            total: TotalView::new(&total),
            enqueued: counts(|counts| counts.enqueued),
            completed: counts(|counts| counts.completed),
            failed: counts(Counts::failed),
            discarded: counts(|counts| counts.discarded),
            cancelled: counts(|counts| counts.cancelled),
            wait_seconds: PercentileSeries::new(points.iter().map(|point| &point.counts.wait)),
            run_seconds: PercentileSeries::new(points.iter().map(|point| &point.counts.run)),
            available: points.iter().map(|point| Some(gauge(point)?.available)).collect(),
            running: points.iter().map(|point| Some(gauge(point)?.running)).collect(),
            oldest_age_seconds: points
                .iter()
                .map(|point| Some(gauge(point)?.oldest_age.as_secs_f64()))
                .collect(),
        }
    }
}

impl From<OutageSpan> for OutageView {
    fn from(span: OutageSpan) -> Self {
        Self {
            dependency: span.dependency.as_str().to_owned(),
            reason: span.reason,
            from: span.from,
            to: span.to,
            processes: span.processes,
        }
    }
}

impl StatsView {
    fn new(range: Range, report: StatsReport) -> Self {
        Self {
            from: range.from_time(),
            to: range.to_time(),
            step_seconds: u64::try_from(range.step * 60).unwrap_or(0),
            series: report.series.into_iter().map(Into::into).collect(),
            has_more: report.has_more,
            outages: report.outages.into_iter().map(Into::into).collect(),
        }
    }
}

/// What a request asks for.
#[derive(Debug)]
struct StatsRequest {
    range: Range,
    grouping: Grouping,
    filter: StatsFilter,
}

/// Show statistics over time
///
/// Jobs enqueued and ended, percentiles of waiting and running times, depths of queues, and outages. Processes write their counts every
/// ten seconds, so the last ten seconds are incomplete. Steps of minutes are stored for 48 hours, of hours for 30 days, of days for two
/// years. Of a bound key, its queues and kinds. Not counted: jobs that are enqueued by SQL until they run, and jobs that are discarded
/// after crashes.
#[utoipa::path(get, path = "/v1/stats", tag = "stats", operation_id = "show_stats",
    params(
        ("from" = Option<String>, Query, description = "RFC 3339; default: an hour before `to`"),
        ("to" = Option<String>, Query, description = "RFC 3339; default: now"),
        ("step" = Option<u64>, Query, description = "Seconds, a multiple of 60; default: what makes 120 steps at most. 750 steps at most"),
        ("by" = Option<String>, Query, description = "`queue` or `kind`: a series for each of the 20 busiest"),
        ("queue" = Option<String>, Query, description = "Only this queue"),
        ("kind" = Option<String>, Query, description = "Only this kind"),
    ),
    responses(
        (status = 200, body = StatsView),
        (status = 400, description = "invalid-parameter"),
        (status = 422, description = "unknown-queue"),
    ))]
pub(crate) async fn show(call: Call<Bound<Read>, ControlState, WithQuery>) -> Reply {
    let asked = request(&call)?;
    refuse_unknown_to(&call, "queue", asked.filter.queues.iter().flatten()).await?;
    let read = |state: Arc<ControlState>| async move {
        let StatsRequest {
            range,
            grouping,
            filter,
        } = asked;
        let report = state.jobs.statistics().read(range, grouping, &filter).await?;
        Ok::<_, LedgerError>(StatsView::new(range, report))
    };
    call.cached(&CACHED, read).await
}

fn request(call: &Call<Bound<Read>, ControlState, WithQuery>) -> Result<StatsRequest, Problem> {
    let mut params = call.params(&["from", "to", "step", "by", "queue", "kind"]);
    let range = range(&mut params, clock::now());
    let grouping = params.parsed("by").unwrap_or_default();
    let queue = params.short_text("queue", MAX_NAME);
    let kind = params.short_text("kind", MAX_NAME);
    params.finish()?;
    let filter = filter(call.allowed.binding().map(|binding| &**binding), queue, kind)?;
    Ok(StatsRequest {
        range,
        grouping,
        filter,
    })
}

/// Only what was asked for, and of a bound key only what is its own.
fn filter(
    binding: Option<&Binding>,
    queue: Option<String>,
    kind: Option<String>,
) -> Result<StatsFilter, Problem> {
    let all = Binding::default();
    let binding = binding.unwrap_or(&all);
    if let Some(queue) = &queue {
        binding.permit_queue("queue", queue)?;
    }
    if let Some(kind) = &kind {
        binding.permit_kind("kind", kind)?;
    }
    let bound = |names: &std::collections::BTreeSet<String>| {
        (!names.is_empty()).then(|| names.iter().cloned().collect::<Vec<_>>())
    };
    Ok(StatsFilter {
        queues: queue.map(|queue| vec![queue]).or_else(|| bound(&binding.queues)),
        kinds: kind.map(|kind| vec![kind]).or_else(|| bound(&binding.kinds)),
    })
}

/// The steps that a request names. Of faults `params` knows.
fn range(params: &mut Params, now: DateTime<Utc>) -> Range {
    let to = params.moment("to").unwrap_or(now);
    let from = params.moment("from").unwrap_or(to - DEFAULT_RANGE);
    if from >= to {
        params.fault("from", "not before `to`".to_owned());
    }
    let oldest = |step: i64| {
        let kept = Range::covering(now, now, step).span().kept();
        now - TimeDelta::minutes(kept)
    };
    let asked = params.text("step").map(|text| text.parse::<i64>().unwrap_or(0));
    let Some(step) = asked else {
        let fits =
            |step: &i64| Range::covering(from, to, *step).points() <= DEFAULT_POINTS && from >= oldest(*step);
        let step = DEFAULT_STEPS.into_iter().find(fits).unwrap_or(10_080);
        let range = Range::covering(from, to, step);
        bound_points(params, "from", &range);
        return range;
    };
    if asked.is_some_and(|seconds| seconds < 60 || seconds % 60 != 0 || seconds > 366 * 86_400) {
        params.fault(
            "step",
            "not a multiple of 60 seconds, of a year at most".to_owned(),
        );
        return Range::covering(now, now, 1);
    }
    let range = Range::covering(from, to, step / 60);
    bound_points(params, "step", &range);
    if from < oldest(range.step) && range.span() != Span::Day {
        let (kept, longer) = match range.span() {
            Span::Minute => ("48 hours", 3_600),
            Span::Hour | Span::Day => ("30 days", 86_400),
        };
        let reason = format!("such steps are stored for {kept}: ask for a multiple of {longer}");
        params.fault("step", reason);
    }
    range
}

fn bound_points(params: &mut Params, name: &str, range: &Range) {
    if range.points() > MAX_POINTS {
        let reason = format!("this makes more than {MAX_POINTS} steps: ask for longer ones, or less time");
        params.fault(name, reason);
    }
}

// The description of `by` names it.
const _: () = assert!(MAX_SERIES == 20);

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn asked(query: &str) -> Result<Range, Problem> {
        let request = TestRequest::with_uri(&format!("/?{query}")).to_http_request();
        let mut params = Params::of(&request, &["from", "to", "step"]);
        let now = DateTime::parse_from_rfc3339("2026-11-30T12:00:30Z").unwrap();
        let range = range(&mut params, now.to_utc());
        params.finish().map(|()| range)
    }

    #[test]
    fn steps_are_chosen_so_that_the_answer_is_short_and_the_rows_are_there() {
        let told = |query: &str| {
            let range = asked(query).unwrap();
            (range.step, range.points())
        };
        assert_eq!(told(""), (1, 61));
        assert_eq!(told("from=2026-11-30T00:00:00Z"), (15, 49));
        assert_eq!(told("from=2026-11-29T12:00:00Z"), (15, 97));
        assert_eq!(told("from=2026-11-20T00:00:00Z"), (360, 43));
        // Minutes of that hour are stored no more.
        assert_eq!(told("from=2026-11-20T00:00:00Z&to=2026-11-20T01:00:00Z"), (60, 1));
        assert_eq!(told("from=2025-11-30T00:00:00Z"), (10_080, 53));
        assert_eq!(told("from=2026-11-30T11:00:00Z&step=300"), (5, 13));
    }

    #[test]
    fn what_cannot_be_shown_is_refused_with_the_reason() {
        for (query, reason) in [
            ("from=2026-11-30T13:00:00Z", "not before `to`"),
            ("step=90", "not a multiple of 60 seconds"),
            ("step=-60", "not a multiple of 60 seconds"),
            (
                "from=2026-11-20T00:00:00Z&to=2026-11-20T01:00:00Z&step=60",
                "a multiple of 3600",
            ),
            (
                "from=2026-09-20T00:00:00Z&to=2026-09-20T10:00:00Z&step=3600",
                "a multiple of 86400",
            ),
            ("from=2026-11-29T12:00:00Z&step=60", "more than 750 steps"),
            ("from=1970-01-01T00:00:00Z", "more than 750 steps"),
        ] {
            let problem = asked(query).unwrap_err();
            let text = format!("{problem:?}");
            assert!(text.contains(reason), "{query}: {text}");
        }
    }

    #[test]
    fn a_bound_key_asks_for_what_is_its_own() {
        let binding = Binding {
            queues: ["a".to_owned(), "b".to_owned()].into(),
            ..Binding::default()
        };
        let told = filter(Some(&binding), None, None).unwrap();
        assert_eq!(
            (told.queues, told.kinds),
            (Some(vec!["a".to_owned(), "b".to_owned()]), None)
        );
        assert!(filter(Some(&binding), Some("c".to_owned()), None).is_err());
    }
}
