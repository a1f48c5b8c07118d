//! What the database is asked.

use std::time::{Duration, Instant};

use holdfast_core::config::Settings;
use holdfast_core::redis::RedisGate;
use holdfast_core::sql::{Database, SqlError};
use holdfast_jobs::Jobs;

use super::timing::{Percentiles, shown};
use super::{Check, CheckResult, Finding, check, either};

const PATIENCE: Duration = Duration::from_secs(8);
const PINGS: usize = 100;
const SLOW_P99_MS: f64 = 50.0;

/// Beside the workers: an API and a beat.
const OTHER_PROCESSES: u64 = 2;

/// Of a whole system: the same and one worker.
pub(crate) const FEWEST_PROCESSES: u64 = OTHER_PROCESSES + 1;

/// Over this share of the server's connections too few are left for people and deployments.
pub(crate) const CROWDED: f64 = 0.8;

#[derive(Debug)]
pub(crate) struct DatabaseSubject {
    pub(crate) settings: Settings,
    pub(crate) database: Database,
    pub(crate) jobs: Jobs,
    pub(crate) gate: RedisGate,
    /// How many processes there are in all, if the operator says so.
    pub(crate) processes: Option<u64>,
}

pub(crate) const CHECKS: &[Check<DatabaseSubject>] = &[
    check!("connect", needs [], within 20, connect),
    check!("schema", needs ["connect"], within 20, schema),
    check!("latency", needs ["connect"], within 30, latency),
    check!("pools", needs ["schema"], within 20, pools),
];

async fn connect(subject: &DatabaseSubject) -> Finding {
    match subject.database.ping(PATIENCE).await {
        Ok(_) => Finding::pass(format!("{} answers", subject.database.kind())),
        Err(error) => away(&error),
    }
}

/// The text names host and port, and the setting that they come from; no user and no password.
fn away(error: &SqlError) -> Finding {
    let hint = match error {
        SqlError::Deadline { .. } => {
            "See whether the server runs and whether its network is reachable; Neon may be waking up: try again."
        }
        error if error.is_refused() => "Correct user, password or database name in DATABASE_URL.",
        error if error.is_transient() => "Start the server, or correct the host and port in DATABASE_URL.",
        _ => "Correct DATABASE_URL.",
    };
    Finding::fail(error.to_string(), hint)
}

async fn schema(subject: &DatabaseSubject) -> Finding {
    match subject.database.pending_migrations().await {
        Ok(pending) if pending.is_empty() => Finding::pass("the schema is up to date"),
        Ok(pending) => Finding::fail(
            format!("the schema is old: it lacks {}", pending.join(", ")),
            "Run `holdfast migrate`.",
        ),
        Err(error) => away(&error),
    }
}

async fn latency(subject: &DatabaseSubject) -> Finding {
    either(many_pings(subject).await)
}

async fn many_pings(subject: &DatabaseSubject) -> CheckResult<Finding> {
    let mut took = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let started = Instant::now();
        subject
            .database
            .ping(PATIENCE)
            .await
            .map_err(|error| away(&error))?;
        took.push(started.elapsed());
    }
    let Some(took) = Percentiles::of(took) else {
        return Ok(Finding::skipped("nothing was measured"));
    };
    let summary = format!(
        "{PINGS} statements: p50 {}, p99 {}",
        shown(took.p50_ms),
        shown(took.p99_ms)
    );
    let finding = if took.p99_ms > SLOW_P99_MS {
        Finding::warn(summary, "Bring the service and its database into one region.")
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("p50_ms", took.p50_ms).with("p99_ms", took.p99_ms))
}

async fn pools(subject: &DatabaseSubject) -> Finding {
    either(pools_fit(subject).await)
}

/// The pools of all processes together against what the server takes.
async fn pools_fit(subject: &DatabaseSubject) -> CheckResult<Finding> {
    let Database::Postgres(pool) = &subject.database else {
        return Ok(Finding::skipped("an embedded database has no limit"));
    };
    if subject.settings.database.direct_url.is_some() {
        return Ok(Finding::skipped(
            "a pooler is in front of the server (DATABASE_UNPOOLED_URL is set)",
        ));
    }
    let limit: i32 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int",
    )
    .fetch_one(pool)
    .await
    .map_err(|error| away(&SqlError::Driver(error)))?;
    let processes = subject.processes().await;
    let each = u64::from(subject.settings.database.max_connections);
    let (sum, limit) = (processes * each, u64::try_from(limit).unwrap_or(0));
    let summary =
        format!("{processes} processes × {each} connections = {sum}, of {limit} that the server takes");
    let hint = "Lower database.max_connections, raise the server's max_connections, or put a pooler between.";
    let finding = if sum > limit {
        Finding::fail(summary, hint)
    } else if sum as f64 > limit as f64 * CROWDED {
        Finding::warn(summary, hint)
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("sum", sum).with("limit", limit))
}

impl DatabaseSubject {
    /// As the operator says, else an API, a beat, and the workers that are alive, of which there should be one.
    pub(crate) async fn processes(&self) -> u64 {
        match self.processes {
            Some(processes) => processes,
            None => (OTHER_PROCESSES + self.live_workers().await).max(FEWEST_PROCESSES),
        }
    }

    async fn live_workers(&self) -> u64 {
        let lost_after = self.settings.worker.lost_after.as_secs_f64();
        let workers = self.jobs.workers().await.unwrap_or_default();
        workers
            .iter()
            .filter(|worker| worker.seen_seconds_ago < lost_after)
            .count() as u64
    }
}
