//! Series of statistics, read back.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::sql::dialect::{moment, on_either, rows};

use super::columns::{self, buckets_of};
use super::counters::Counts;
use super::outages::{Dependency, OutageSpan, StoredOutage, spans};
use super::store::Span;
use super::{FLUSH_PERIOD, Statistics};
use crate::LedgerTx;
use crate::ledger::LedgerError;

/// Points of a series at most.
pub const MAX_POINTS: i64 = 750;

/// Series of an answer at most: the busiest.
pub const MAX_SERIES: usize = 20;

/// Outages of an answer at most, before they are merged: the latest.
const MAX_OUTAGES: usize = 1_000;

/// An outage that was not reported for this long is over: its process died.
const SILENT_AFTER: Duration = FLUSH_PERIOD.saturating_mul(6);

/// What the series of an answer are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grouping {
    /// One series of everything.
    #[default]
    Total,
    Queue,
    Kind,
}

impl Grouping {
    const fn column(self) -> &'static str {
        match self {
            Self::Total => "''",
            Self::Queue => "queue",
            Self::Kind => "kind",
        }
    }
}

/// The text names no grouping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a grouping: expected queue or kind")]
pub struct UnknownGrouping;

impl FromStr for Grouping {
    type Err = UnknownGrouping;

    fn from_str(text: &str) -> Result<Self, UnknownGrouping> {
        match text {
            "queue" => Ok(Self::Queue),
            "kind" => Ok(Self::Kind),
            _ => Err(UnknownGrouping),
        }
    }
}

impl fmt::Display for Grouping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Total => "total",
            Self::Queue => "queue",
            Self::Kind => "kind",
        })
    }
}

/// A span of time in steps, in minutes since the epoch. Both ends are multiples of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub from: i64,
    pub to: i64,
    pub step: i64,
}

impl Range {
    /// The steps that hold some part of the time.
    pub fn covering(from: DateTime<Utc>, to: DateTime<Utc>, step: i64) -> Self {
        let minute = |at: DateTime<Utc>| at.timestamp().div_euclid(60);
        let from = minute(from).div_euclid(step) * step;
        // The last moment before `to`, which may lie in the first second of its minute.
        let last = minute(to - TimeDelta::nanoseconds(1)).div_euclid(step) * step;
        Self {
            from,
            to: last.max(from) + step,
            step,
        }
    }

    pub fn points(&self) -> i64 {
        (self.to - self.from) / self.step
    }

    /// The coarsest rows that show these steps.
    pub fn span(&self) -> Span {
        match self.step {
            step if step % Span::Day.minutes() == 0 => Span::Day,
            step if step % Span::Hour.minutes() == 0 => Span::Hour,
            _ => Span::Minute,
        }
    }

    pub fn from_time(&self) -> DateTime<Utc> {
        moment(self.from * 60_000)
    }

    pub fn to_time(&self) -> DateTime<Utc> {
        moment(self.to * 60_000)
    }
}

/// Which jobs are meant. `None`: any.
#[derive(Debug, Clone, Default)]
pub struct StatsFilter {
    pub queues: Option<Vec<String>>,
    pub kinds: Option<Vec<String>>,
}

/// The largest depth of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gauge {
    pub available: u64,
    pub running: u64,
    pub oldest_age: Duration,
}

/// One step of a series.
#[derive(Debug, Clone, Copy, Default)]
pub struct Point {
    pub counts: Counts,
    /// `None`: the depth was not looked at, or the series is not one of queues.
    pub gauge: Option<Gauge>,
}

#[derive(Debug)]
pub struct Series {
    /// Of the queue or the kind; empty for everything.
    pub name: String,
    pub total: Counts,
    /// One for each step of the range.
    pub points: Vec<Point>,
}

#[derive(Debug)]
pub struct StatsReport {
    /// The busiest first.
    pub series: Vec<Series>,
    /// There are more queues, or kinds, than series.
    pub has_more: bool,
    pub outages: Vec<OutageSpan>,
}

/// `$1` from, `$2` step, `$3` span, `$4` to, `$5` queues, `$6` kinds.
const FILTER: &str = "span = $3 and slot >= $1 and slot < $4
    and (cast($5 as text) is null or queue in (@names($5)))
    and (cast($6 as text) is null or kind in (@names($6)))";

/// A point, a name, and what [`columns::sums`] selects.
pub(super) type CountsRow = (i64, String, i64, i64, i64, i64, i64, String, String);

impl Statistics {
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn read(
        &self,
        range: Range,
        grouping: Grouping,
        filter: &StatsFilter,
    ) -> Result<StatsReport, LedgerError> {
        let sql = &self.0.sql;
        let read = sql.within("read statistics", async {
            let mut tx = sql.begin_read().await?;
            let mut filter = filter.clone();
            let mut has_more = false;
            if grouping != Grouping::Total {
                let mut names = busiest(tx.on(), sql.named(), range, grouping, &filter).await?;
                has_more = names.len() > MAX_SERIES;
                names.truncate(MAX_SERIES);
                match grouping {
                    Grouping::Queue => filter.queues = Some(names),
                    Grouping::Kind | Grouping::Total => filter.kinds = Some(names),
                }
            }
            let counts = counts(tx.on(), sql.named(), range, grouping, &filter).await?;
            // A depth is one of queues: it is unknown how much of it is of one kind.
            let gauges = if grouping == Grouping::Kind || filter.kinds.is_some() {
                Vec::new()
            } else {
                gauges(tx.on(), sql.named(), range, grouping, &filter).await?
            };
            let outages = outages(tx.on(), sql.named(), range).await?;
            tx.commit().await?;
            Ok(StatsReport {
                series: series(range, grouping, counts, gauges),
                has_more,
                outages: spans(outages),
            })
        });
        read.await
    }
}

/// Names as a statement takes them.
fn names(names: Option<&Vec<String>>) -> Option<String> {
    // Texts cannot fail to encode.
    names.map(|names| serde_json::to_string(names).unwrap_or_default())
}

async fn busiest(
    on: LedgerTx<'_>,
    named: bool,
    range: Range,
    grouping: Grouping,
    filter: &StatsFilter,
) -> Result<Vec<String>, sqlx::Error> {
    // A queue in which nothing moves has a depth. `$2` is there because a statement has no gaps in its parameters.
    let waiting = if grouping == Grouping::Queue && filter.kinds.is_none() {
        "union all select queue, sum(available) from holdfast_stat_gauges
         where span = $3 and slot >= $1 and slot < $4 and (cast($5 as text) is null or queue in (@names($5)))
         group by 1"
    } else {
        ""
    };
    let text = format!(
        "select name, cast(sum(jobs) as bigint) from (
             select {} as name, sum(enqueued + completed + retried + discarded + cancelled) as jobs
             from holdfast_stats where $2 > 0 and {FILTER} group by 1 {waiting}) as found
         group by 1 order by 2 desc, 1 limit $7",
        grouping.column()
    );
    let Range { from, to, step } = range;
    let (queues, kinds) = (names(filter.queues.as_ref()), names(filter.kinds.as_ref()));
    let (span, limit) = (range.span().minutes(), rows(MAX_SERIES + 1));
    let found = on_either!(
        on,
        named,
        query_as::<(String, i64)>(&text),
        [from, step, span, to, queues, kinds, limit],
        fetch_all
    )?;
    Ok(found.into_iter().map(|(name, _)| name).collect())
}

async fn counts(
    on: LedgerTx<'_>,
    named: bool,
    range: Range,
    grouping: Grouping,
    filter: &StatsFilter,
) -> Result<Vec<CountsRow>, sqlx::Error> {
    let text = format!(
        "select (slot - $1) / $2 as point, {} as name, {} from holdfast_stats where {FILTER} group by 1, 2",
        grouping.column(),
        columns::sums()
    );
    let Range { from, to, step } = range;
    let (queues, kinds) = (names(filter.queues.as_ref()), names(filter.kinds.as_ref()));
    let span = range.span().minutes();
    on_either!(
        on,
        named,
        query_as::<CountsRow>(&text),
        [from, step, span, to, queues, kinds],
        fetch_all
    )
}

type GaugeRow = (i64, String, i64, i64, i64);

async fn gauges(
    on: LedgerTx<'_>,
    named: bool,
    range: Range,
    grouping: Grouping,
    filter: &StatsFilter,
) -> Result<Vec<GaugeRow>, sqlx::Error> {
    let text = format!(
        "select (slot - $1) / $2 as point, name, max(available), max(running), max(oldest_age_ms) from (
             select slot, {} as name, cast(sum(available) as bigint) as available,
                 cast(sum(running) as bigint) as running, max(oldest_age_ms) as oldest_age_ms
             from holdfast_stat_gauges where span = $3 and slot >= $1 and slot < $4
                 and (cast($5 as text) is null or queue in (@names($5)))
             group by 1, 2) as depths
         group by 1, 2",
        grouping.column()
    );
    let Range { from, to, step } = range;
    let queues = names(filter.queues.as_ref());
    let span = range.span().minutes();
    on_either!(
        on,
        named,
        query_as::<GaugeRow>(&text),
        [from, step, span, to, queues],
        fetch_all
    )
}

async fn outages(on: LedgerTx<'_>, named: bool, range: Range) -> Result<Vec<StoredOutage>, sqlx::Error> {
    const TEXT: &str =
        "select process, dependency, reason, @ms(started_at), @ms(seen_at), @ms(ended_at), @ms(@now)
        from holdfast_stat_outages
        where started_at < @at($2) and coalesce(ended_at, seen_at) >= @at($1)
        order by started_at desc limit $3";
    type OutageRow = (String, String, String, i64, i64, Option<i64>, i64);
    let (from, to) = (range.from * 60_000, range.to * 60_000);
    let found = on_either!(
        on,
        named,
        query_as::<OutageRow>(TEXT),
        [from, to, rows(MAX_OUTAGES)],
        fetch_all
    )?;
    let outage = |(process, dependency, reason, started, seen, ended, now): OutageRow| {
        let is_silent = now - seen > SILENT_AFTER.as_millis() as i64;
        Some(StoredOutage {
            process,
            dependency: Dependency::of_word(&dependency)?,
            reason,
            started_at: moment(started),
            ended_at: ended.or(is_silent.then_some(seen)).map(moment),
        })
    };
    Ok(found.into_iter().filter_map(outage).collect())
}

pub(super) fn counts_of(
    (point, name, enqueued, completed, retried, discarded, cancelled, wait, run): CountsRow,
) -> (i64, String, Counts) {
    let counts = Counts {
        enqueued: count(enqueued),
        completed: count(completed),
        retried: count(retried),
        discarded: count(discarded),
        cancelled: count(cancelled),
        wait: buckets_of(&wait),
        run: buckets_of(&run),
    };
    (point, name, counts)
}

fn series(range: Range, grouping: Grouping, counts: Vec<CountsRow>, gauges: Vec<GaugeRow>) -> Vec<Series> {
    let points = usize::try_from(range.points()).unwrap_or(0);
    let empty = |name: &str| Series {
        name: name.to_owned(),
        total: Counts::default(),
        points: vec![Point::default(); points],
    };
    let mut series: BTreeMap<String, Series> = BTreeMap::new();
    if grouping == Grouping::Total {
        series.insert(String::new(), empty(""));
    }
    for row in counts {
        let (point, name, counts) = counts_of(row);
        let series = series.entry(name).or_insert_with_key(|name| empty(name));
        series.total.add(&counts);
        if let Some(point) = usize::try_from(point)
            .ok()
            .and_then(|at| series.points.get_mut(at))
        {
            point.counts.add(&counts);
        }
    }
    for (point, name, available, running, oldest_age_ms) in gauges {
        let series = series.entry(name).or_insert_with_key(|name| empty(name));
        if let Some(point) = usize::try_from(point)
            .ok()
            .and_then(|at| series.points.get_mut(at))
        {
            point.gauge = Some(Gauge {
                available: count(available),
                running: count(running),
                oldest_age: Duration::from_millis(count(oldest_age_ms)),
            });
        }
    }
    let mut series: Vec<Series> = series.into_values().collect();
    series.sort_by_key(|series| {
        let Counts {
            enqueued,
            completed,
            cancelled,
            ..
        } = series.total;
        std::cmp::Reverse(enqueued + completed + series.total.failed() + cancelled)
    });
    series
}

/// Counts are stored as signed numbers, and are never below zero.
pub(super) fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_covers_its_time_in_whole_steps_and_reads_the_coarsest_rows_that_show_them() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let (from, to) = (at("2026-11-30T10:07:30Z"), at("2026-11-30T11:00:00Z"));
        let range = Range::covering(from, to, 5);
        assert_eq!(range.from_time(), at("2026-11-30T10:05:00Z"));
        assert_eq!(
            (range.to_time(), range.points(), range.span()),
            (to, 11, Span::Minute)
        );
        let hours = Range::covering(from, at("2026-11-30T11:00:01Z"), 60);
        assert_eq!((hours.points(), hours.span()), (2, Span::Hour));
        // What happened in the first second of a minute is shown in that second.
        let begun = Range::covering(from, at("2026-11-30T11:00:00.001Z"), 5);
        assert_eq!(begun.to_time(), at("2026-11-30T11:05:00Z"));
        assert_eq!(Range::covering(from, from, 1_440).points(), 1);
        assert_eq!(Range::covering(from, to, 2_880).span(), Span::Day);
    }
}
