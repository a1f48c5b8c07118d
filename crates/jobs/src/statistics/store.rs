//! The statements that write statistics. None of them touches a job.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::sql::Bounds;
use holdfast_core::sql::dialect::on_either;

use super::columns;
use super::outages::Outage;
use super::pending::Row;
use crate::ledger::{LedgerError, QueueStats};
use crate::sql::{Sql, now_ms};

/// Minutes that a row covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    Minute = 1,
    Hour = 60,
    Day = 1_440,
}

impl Span {
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// In minutes.
    pub const fn minutes(self) -> i64 {
        self as i64
    }

    /// How long its rows are kept, in minutes.
    pub const fn kept(self) -> i64 {
        const DAY: i64 = Span::Day.minutes();
        match self {
            Self::Minute => 2 * DAY,
            Self::Hour => 30 * DAY,
            Self::Day => 2 * 365 * DAY,
        }
    }
}

/// Longest that a write may take: it must not hold a connection that jobs need.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

static WRITE: LazyLock<String> = LazyLock::new(|| {
    let names = columns::names();
    let values = (3..3 + names.len()).map(|place| format!("cast(value ->> {place} as bigint)"));
    format!(
        "insert into holdfast_stats (span, slot, queue, kind, process, {})
         select 1, cast(value ->> 0 as bigint), value ->> 1, value ->> 2, $2, {}
         from @each($1) where true
         on conflict (span, slot, queue, kind, process) do update set {}",
        names.join(", "),
        values.collect::<Vec<_>>().join(", "),
        columns::replaced(&names)
    )
});

static ADD_UP: LazyLock<String> = LazyLock::new(|| {
    let names = columns::names();
    let sums = names.iter().map(|name| format!("cast(sum({name}) as bigint)"));
    format!(
        "insert into holdfast_stats (span, slot, queue, kind, process, {})
         select cast($1 as bigint), cast($2 as bigint), queue, kind, '', {}
         from holdfast_stats where span = $3 and slot >= $2 and slot < $2 + $1
         group by queue, kind
         on conflict (span, slot, queue, kind, process) do update set {}",
        names.join(", "),
        sums.collect::<Vec<_>>().join(", "),
        columns::replaced(&names)
    )
});

const GAUGES: [&str; 6] = [
    "available",
    "scheduled",
    "retryable",
    "running",
    "discarded",
    "oldest_age_ms",
];

static WRITE_GAUGES: LazyLock<String> = LazyLock::new(|| {
    let values = (1..=GAUGES.len()).map(|place| format!("cast(value ->> {place} as bigint)"));
    format!(
        "insert into holdfast_stat_gauges (span, slot, queue, {})
         select 1, cast($2 as bigint), value ->> 0, {} from @each($1) where true
         on conflict (span, slot, queue) do update set {}",
        GAUGES.join(", "),
        values.collect::<Vec<_>>().join(", "),
        columns::replaced(&GAUGES)
    )
});

static ADD_UP_GAUGES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "insert into holdfast_stat_gauges (span, slot, queue, {})
         select cast($1 as bigint), cast($2 as bigint), queue, {}
         from holdfast_stat_gauges where span = $3 and slot >= $2 and slot < $2 + $1
         group by queue
         on conflict (span, slot, queue) do update set {}",
        GAUGES.join(", "),
        GAUGES.map(|name| format!("max({name})")).join(", "),
        columns::replaced(&GAUGES)
    )
});

const WRITE_OUTAGE: &str =
    "insert into holdfast_stat_outages (id, process, dependency, reason, started_at, seen_at, ended_at)
     values ($1, $2, $3, $4, @at($5), @now, @at($6))
     on conflict (id) do update set reason = excluded.reason, seen_at = excluded.seen_at, ended_at = excluded.ended_at";

/// One process of all gets a slot, if the last one is more than $3 slots older. A clock that was set back by more than ten slots does not
/// end the duty.
const CLAIM: &str = "insert into holdfast_stat_duties (name, slot) values ($1, $2)
     on conflict (name) do update set slot = excluded.slot
     where holdfast_stat_duties.slot + $3 < excluded.slot or holdfast_stat_duties.slot > excluded.slot + 10";

/// Rows of at most $3 minutes, the oldest.
const PRUNE: [&str; 2] = [
    "delete from holdfast_stats where span = $1 and slot < $2
         and slot < (select min(slot) from holdfast_stats where span = $1) + $3",
    "delete from holdfast_stat_gauges where span = $1 and slot < $2
         and slot < (select min(slot) from holdfast_stat_gauges where span = $1) + $3",
];

const PRUNE_OUTAGES: &str = "delete from holdfast_stat_outages where started_at < @ago($1)
     and id in (select id from holdfast_stat_outages order by started_at limit 1000)";

/// Milliseconds since the epoch, by the database's clock.
pub(super) async fn now(sql: &Sql) -> Result<i64, LedgerError> {
    let read = sql.within_bounds("read the time for statistics", bounds(), async {
        let mut tx = sql.begin_read().await?;
        let now = now_ms(tx.on(), sql.named()).await?;
        tx.commit().await?;
        Ok(now)
    });
    read.await
}

fn bounds() -> Bounds {
    Bounds::SETTINGS.statement(WRITE_LIMIT)
}

/// Writes totals of one process. May be repeated.
pub(super) async fn write(sql: &Sql, process: &str, rows: &[Row]) -> Result<(), LedgerError> {
    let document: Vec<Vec<serde_json::Value>> = rows
        .iter()
        .map(|row| {
            let key = [row.minute.into(), (*row.queue).into(), (*row.kind).into()];
            key.into_iter()
                .chain(columns::values(&row.counts).map(Into::into))
                .collect()
        })
        .collect();
    let document = encoded(&document);
    let write = sql.within_bounds("write statistics", bounds(), async {
        let mut tx = sql.begin().await?;
        on_either!(tx.on(), sql.named(), query(&WRITE), [&document, process], execute)?;
        tx.commit().await
    });
    write.await
}

/// Writes outages of one process, whose clock differs from the database's by `offset`. May be repeated.
pub(super) async fn write_outages(
    sql: &Sql,
    process: &str,
    outages: &[Outage],
    offset: TimeDelta,
) -> Result<(), LedgerError> {
    let millis = |at: DateTime<Utc>| (at + offset).timestamp_millis();
    let write = sql.within_bounds("write outages", bounds(), async {
        let mut tx = sql.begin().await?;
        for outage in outages {
            let (dependency, reason) = (outage.dependency.as_str(), outage.reason.as_str());
            let (started, ended) = (millis(outage.started_at), outage.ended_at.map(millis));
            on_either!(
                tx.on(),
                sql.named(),
                query(WRITE_OUTAGE),
                [&outage.id, process, dependency, reason, started, ended],
                execute
            )?;
        }
        tx.commit().await
    });
    write.await
}

/// Whether this process does what is done once for each slot. It does if nothing did it in the last slots that `left_out` counts.
pub(super) async fn claim(sql: &Sql, duty: &str, slot: i64, left_out: i64) -> Result<bool, LedgerError> {
    let claim = sql.within_bounds("claim a duty of statistics", bounds(), async {
        let mut tx = sql.begin().await?;
        let claimed: u64 = on_either!(
            tx.on(),
            sql.named(),
            query(CLAIM),
            [duty, slot, left_out],
            execute
        )?;
        tx.commit().await?;
        Ok(claimed > 0)
    });
    claim.await
}

/// Writes the depths of the queues at a minute.
pub(super) async fn write_gauges(sql: &Sql, minute: i64, queues: &[QueueStats]) -> Result<(), LedgerError> {
    let document: Vec<_> = queues
        .iter()
        .map(|queue| {
            let age = (queue.oldest_age_seconds.max(0.0) * 1_000.0) as u64;
            (
                &queue.queue,
                queue.available,
                queue.scheduled,
                queue.retryable,
                queue.running,
                queue.discarded,
                age,
            )
        })
        .collect();
    let document = encoded(&document);
    let write = sql.within_bounds("write depths of queues", bounds(), async {
        let mut tx = sql.begin().await?;
        on_either!(
            tx.on(),
            sql.named(),
            query(&WRITE_GAUGES),
            [&document, minute],
            execute
        )?;
        tx.commit().await
    });
    write.await
}

/// The last hour that has a sum, or else the first minute that has a row. `None`: there are no rows.
pub(super) async fn first_to_add_up(sql: &Sql) -> Result<Option<i64>, LedgerError> {
    const FIRST: &str = "select coalesce((select max(slot) from holdfast_stats where span = 60),
        (select min(slot) from holdfast_stats where span = 1),
        (select min(slot) from holdfast_stat_gauges where span = 1))";
    let read = sql.within_bounds("look for statistics to add up", bounds(), async {
        let mut tx = sql.begin_read().await?;
        let first = on_either!(
            tx.on(),
            sql.named(),
            query_as::<(Option<i64>,)>(FIRST),
            [],
            fetch_optional
        )?;
        tx.commit().await?;
        Ok(first.and_then(|(slot,)| slot))
    });
    read.await
}

/// Writes the sums of one slot of `span` from the rows of a shorter one. May be repeated.
pub(super) async fn add_up(sql: &Sql, span: Span, slot: i64, from: Span) -> Result<(), LedgerError> {
    let write = sql.within("add up statistics", async {
        let mut tx = sql.begin().await?;
        for text in [&*ADD_UP, &*ADD_UP_GAUGES] {
            let (span, from) = (span.minutes(), from.minutes());
            on_either!(tx.on(), sql.named(), query(text), [span, slot, from], execute)?;
        }
        tx.commit().await
    });
    write.await
}

/// Deletes rows past their retention, one step of each table and span; how many.
pub(super) async fn prune(sql: &Sql, minute: i64) -> Result<u64, LedgerError> {
    let delete = sql.within("prune statistics", async {
        let mut deleted = 0;
        for span in Span::ALL {
            for text in PRUNE {
                let mut tx = sql.begin().await?;
                let (oldest, step) = (minute - span.kept(), 60 * span.minutes());
                let rows: u64 = on_either!(
                    tx.on(),
                    sql.named(),
                    query(text),
                    [span.minutes(), oldest, step],
                    execute
                )?;
                tx.commit().await?;
                deleted += rows;
            }
        }
        let mut tx = sql.begin().await?;
        let kept = Span::Day.kept() * 60_000;
        let rows: u64 = on_either!(tx.on(), sql.named(), query(PRUNE_OUTAGES), [kept], execute)?;
        tx.commit().await?;
        Ok(deleted + rows)
    });
    delete.await
}

fn encoded(document: &impl serde::Serialize) -> String {
    // Numbers and texts: nothing in them can fail to encode.
    serde_json::to_string(document).unwrap_or_else(|_| "[]".to_owned())
}
