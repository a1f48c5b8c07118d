//! What keeps accepted jobs from ending, and the server's settings that decide whether they survive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_jobs::diagnosis::{Diagnosis, FaultKind, Report};
use tokio::sync::OnceCell;

use super::{Check, CheckResult, Finding, check, either};

/// How long a complete report is waited for: a busy server may answer the first look in part.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session that does nothing inside a transaction for this long, in seconds, should have been ended by the server.
const IDLE_SECONDS: f64 = 60.0;

#[derive(Debug)]
pub(crate) struct LedgerSubject {
    diagnosis: Diagnosis,
    report: OnceCell<Arc<Report>>,
    settings: OnceCell<Option<BTreeMap<String, String>>>,
}

pub(crate) const CHECKS: &[Check<LedgerSubject>] = &[
    check!("jobs", needs ["database.schema"], within 20, jobs),
    check!("locks", needs ["database.schema"], within 20, locks),
    check!("transactions", needs ["database.schema"], within 20, transactions),
    check!("load", needs ["database.schema"], within 20, load),
    check!("vacuum", needs ["database.schema"], within 20, vacuum),
    check!("durability", needs ["database.schema"], within 20, durability),
];

impl LedgerSubject {
    pub(crate) fn new(diagnosis: Diagnosis) -> Self {
        Self {
            diagnosis,
            report: OnceCell::new(),
            settings: OnceCell::new(),
        }
    }

    /// One look for all checks.
    async fn report(&self) -> &Report {
        let looking = self.report.get_or_init(|| async {
            let began = Instant::now();
            loop {
                let report = self.diagnosis.look().await;
                if !report.is_partial || began.elapsed() > PATIENCE {
                    return report;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        looking.await
    }

    /// `None`: the database is embedded.
    async fn settings(&self) -> CheckResult<Option<&BTreeMap<String, String>>> {
        let reading = self.settings.get_or_try_init(|| async {
            let settings = self.diagnosis.server_settings().await;
            settings
                .map_err(|error| Finding::fail(error.to_string(), "See the checks of the database above."))
        });
        Ok(reading.await?.as_ref())
    }

    /// A finding of the faults of these kinds, if there is any: failed where jobs do not end, a warning otherwise.
    async fn faults(&self, kinds: &[FaultKind]) -> CheckResult<()> {
        let report = self.report().await;
        let found: Vec<_> = report
            .faults
            .iter()
            .filter(|fault| kinds.contains(&fault.kind))
            .collect();
        let Some(first) = found.first() else {
            return Ok(());
        };
        let texts = found.iter().map(|fault| match &fault.statement {
            Some(statement) => format!("{} ({statement})", fault.message),
            None => fault.message.clone(),
        });
        let summary = texts.collect::<Vec<_>>().join("; ");
        let hint = format!(
            "{} See docs/runbook.md: {}.",
            first.kind.hint(),
            first.kind.section()
        );
        Err(if found.iter().any(|fault| fault.kind.is_failure()) {
            Finding::fail(summary, hint)
        } else {
            Finding::warn(summary, hint)
        })
    }
}

fn unread(what: &str) -> Finding {
    Finding::warn(
        format!("{what} could not be read in time"),
        FaultKind::Unreadable.hint(),
    )
}

async fn jobs(subject: &LedgerSubject) -> Finding {
    either(find_stuck_jobs(subject).await)
}

async fn find_stuck_jobs(subject: &LedgerSubject) -> CheckResult<Finding> {
    use FaultKind::{OrphanedJobs, OverdueJobs, SilentWorkers, StalledQueue};
    subject
        .faults(&[OrphanedJobs, SilentWorkers, OverdueJobs, StalledQueue])
        .await?;
    if subject.report().await.leases.is_none() {
        return Err(unread("the running jobs"));
    }
    Ok(Finding::pass("every running job has a living worker"))
}

async fn locks(subject: &LedgerSubject) -> Finding {
    either(find_locks(subject).await)
}

async fn find_locks(subject: &LedgerSubject) -> CheckResult<Finding> {
    subject
        .faults(&[FaultKind::LockWait, FaultKind::LockHolder])
        .await?;
    let report = subject.report().await;
    if report.file.is_some() {
        return Ok(Finding::skipped("an embedded database shows no locks"));
    }
    if report.server.is_none() {
        return Err(unread("the server's sessions"));
    }
    Ok(Finding::pass(
        "no session holds locks on the ledger's tables for long",
    ))
}

async fn transactions(subject: &LedgerSubject) -> Finding {
    either(find_old_transactions(subject).await)
}

async fn find_old_transactions(subject: &LedgerSubject) -> CheckResult<Finding> {
    subject.faults(&[FaultKind::OldTransaction]).await?;
    let Some(settings) = subject.settings().await? else {
        return Ok(Finding::skipped("an embedded database shows no transactions"));
    };
    let Some(server) = &subject.report().await.server else {
        return Err(unread("the server's sessions"));
    };
    let is_off = settings
        .get("idle_in_transaction_session_timeout")
        .is_some_and(|value| value == "0");
    let idle = server.transactions.iter().find(|old| {
        old.what.contains("idle in transaction") && old.seconds.is_some_and(|seconds| seconds > IDLE_SECONDS)
    });
    if let Some(idle) = idle.filter(|_| is_off) {
        return Err(Finding::warn(
            format!(
                "{} does nothing inside a transaction, and the server lets it",
                idle.what
            ),
            "Set idle_in_transaction_session_timeout for the roles of people and programs.",
        ));
    }
    let oldest = server
        .transactions
        .iter()
        .filter_map(|old| old.seconds)
        .fold(0.0, f64::max);
    let hidden = server.connections.hidden;
    let mut summary = format!("the oldest transaction is {oldest:.0} s old");
    if is_off {
        summary.push_str("; idle_in_transaction_session_timeout is off for others than Holdfast");
    }
    let hides = if hidden > 0 {
        format!("; no permission to see {hidden} sessions of other roles (grant pg_read_all_stats)")
    } else {
        String::new()
    };
    summary.push_str(&hides);
    Ok(Finding::pass(summary)
        .with("oldest_seconds", oldest)
        .with("hidden", hidden))
}

async fn load(subject: &LedgerSubject) -> Finding {
    either(find_load(subject).await)
}

async fn find_load(subject: &LedgerSubject) -> CheckResult<Finding> {
    use FaultKind::{AbandonedConnections, ConnectionsShort, LargeLog, SlowStatement, Unreadable};
    subject
        .faults(&[
            SlowStatement,
            AbandonedConnections,
            ConnectionsShort,
            LargeLog,
            Unreadable,
        ])
        .await?;
    let report = subject.report().await;
    if let Some(file) = report.file {
        return Ok(Finding::pass(format!(
            "the write-ahead log has {} KiB",
            file.log_bytes >> 10
        )));
    }
    let Some(server) = &report.server else {
        return Err(unread("the server's sessions"));
    };
    let connections = server.connections;
    let summary = format!(
        "no statement of Holdfast is late; {} of {} connections are in use",
        connections.used, connections.max
    );
    Ok(Finding::pass(summary)
        .with("used", connections.used)
        .with("max", connections.max))
}

async fn vacuum(subject: &LedgerSubject) -> Finding {
    either(find_vacuum(subject).await)
}

async fn find_vacuum(subject: &LedgerSubject) -> CheckResult<Finding> {
    let Some(settings) = subject.settings().await? else {
        return Ok(Finding::skipped("an embedded database needs none"));
    };
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|found| found == value);
    let options = settings.get("table_options").map_or("", String::as_str);
    if is("autovacuum", "off") || is("track_counts", "off") || options.contains("autovacuum_enabled=false") {
        return Err(Finding::fail(
            "autovacuum is off: claims become slower with every job that has run",
            "Set autovacuum and track_counts to on, and reset autovacuum_enabled of holdfast_jobs.",
        ));
    }
    subject.faults(&[FaultKind::DeadRows]).await?;
    let Some(server) = &subject.report().await.server else {
        return Err(unread("the tables"));
    };
    let Some(jobs) = server.tables.iter().find(|table| table.table == "holdfast_jobs") else {
        return Err(unread("holdfast_jobs"));
    };
    let vacuumed = jobs
        .vacuumed_seconds_ago
        .map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0} s ago"));
    if !options.contains("autovacuum_vacuum_scale_factor") {
        return Err(Finding::warn(
            format!("holdfast_jobs has lost its settings for autovacuum ({options})"),
            "alter table holdfast_jobs set (autovacuum_vacuum_scale_factor = 0.02)",
        ));
    }
    let summary = format!("holdfast_jobs has {} dead rows; vacuumed {vacuumed}", jobs.dead);
    Ok(Finding::pass(summary).with("dead", jobs.dead))
}

async fn durability(subject: &LedgerSubject) -> Finding {
    either(find_durability(subject).await)
}

async fn find_durability(subject: &LedgerSubject) -> CheckResult<Finding> {
    let Some(settings) = subject.settings().await? else {
        return Ok(Finding::pass("a job is on disk before it is accepted"));
    };
    let value = |name: &str| settings.get(name).map_or("", String::as_str);
    let count = |name: &str| value(name).parse::<u64>().unwrap_or(0);
    if value("fsync") == "off" || value("full_page_writes") == "off" {
        return Err(Finding::fail(
            "fsync or full_page_writes is off: a power cut may destroy the database",
            "Set both to on.",
        ));
    }
    if value("synchronous_commit") == "off" {
        return Err(Finding::warn(
            "synchronous_commit is off: a crash of the server loses jobs that were accepted just before",
            "Set synchronous_commit to on, at least for the role of Holdfast.",
        ));
    }
    let named = !value("synchronous_standby_names").is_empty();
    let (standbys, in_sync, hidden) = (
        count("standbys"),
        count("standbys_sync"),
        count("standbys_hidden"),
    );
    if named && in_sync == 0 && hidden == 0 && value("synchronous_commit") != "local" {
        return Err(Finding::fail(
            "synchronous_standby_names names standbys and none is connected: commits wait for one",
            "Start the standby, or take it out of synchronous_standby_names.",
        ));
    }
    if standbys > 0 && !named {
        return Err(Finding::warn(
            format!(
                "{standbys} standbys replicate asynchronously: a failover loses what was accepted just before"
            ),
            "Name one in synchronous_standby_names, or accept the loss: docs/reliability.md.",
        )
        .with("standbys", standbys));
    }
    let summary = format!(
        "synchronous_commit is {}; {standbys} standbys",
        value("synchronous_commit")
    );
    Ok(Finding::pass(summary).with("standbys", standbys))
}

#[cfg(test)]
mod tests;
