//! From figures to faults, and what has to be remembered between looks for that.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::fault::age;
use super::figures::{HolderKey, QueueLook, ServerFigures, WorkerLook};
use super::postgres::HOLDER_AFTER;
use super::{
    ABANDONED_AFTER, Fault, FaultKind, Inner, LeaseFigures, OVER_AFTER, Readings, Report, UNREADABLE_AFTER,
};

/// With limits, no outcome for this many times as long may be right: a rate may be one job in an hour.
const LIMITED_FACTOR: u32 = 12;

/// Part of the server's connections from which on they are short.
const CONNECTIONS_SHORT: f64 = 0.9;

/// What earlier looks saw.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When the sum of a queue's outcomes changed last, and that sum.
    outcomes: BTreeMap<String, (u64, Instant)>,
    /// Since when a transaction is seen whose age is hidden.
    holders: BTreeMap<HolderKey, Instant>,
    /// Since when there are abandoned connections.
    abandoned_since: Option<Instant>,
    /// Since when looks are too slow.
    slow_since: Option<Instant>,
    /// Faults that were logged, and when they were seen last.
    active: BTreeMap<(FaultKind, Option<String>), Instant>,
}

impl Inner {
    pub(super) fn judge(&self, memory: &mut Memory, seen: Readings) -> Report {
        let mut faults = Vec::new();
        if let Some(leases) = &seen.leases {
            judge_leases(leases, &mut faults);
        }
        let stalled = seen.queues.as_ref().map(|(queues, workers)| {
            let stalled = self.stalled(memory, queues, workers);
            for (queue, oldest) in &stalled {
                let message = format!(
                    "jobs of the queue {queue} are due for {} and none has ended for {}, although a worker has free places",
                    age(*oldest),
                    age(self.thresholds.stalled.as_secs_f64())
                );
                faults.push(Fault::of_queue(queue, message));
            }
            stalled.into_iter().map(|(queue, _)| queue).collect()
        });
        if let Some(server) = &seen.server {
            self.judge_server(memory, server, &mut faults);
        }
        if let Some(file) = seen.file
            && file.log_bytes > self.thresholds.log_bytes
        {
            let message = format!("the write-ahead log has {} MiB", file.log_bytes >> 20);
            faults.push(Fault::new(FaultKind::LargeLog, message));
        }
        faults.extend(memory.abandoned(self.database.abandoned()));
        faults.extend(memory.unreadable(seen.is_slow));
        faults.sort_by_key(|fault| !fault.kind.is_failure());
        let is_partial =
            seen.leases.is_none() || stalled.is_none() || (seen.server.is_none() && seen.file.is_none());
        Report {
            faults,
            server: seen.server,
            file: seen.file,
            leases: seen.leases,
            stalled,
            is_partial,
        }
    }

    /// Queues with due jobs and a worker that could run them, without an outcome; with the age of the oldest due job.
    fn stalled(
        &self,
        memory: &mut Memory,
        queues: &[QueueLook],
        workers: &[WorkerLook],
    ) -> Vec<(String, f64)> {
        let now = Instant::now();
        let mut stalled = Vec::new();
        for queue in queues {
            let stats = || workers.iter().filter_map(|worker| worker.stats.get(&queue.name));
            let ended = stats().map(|stats| stats.completed + stats.failed).sum();
            let still_for = memory.still_for(&queue.name, ended, now);
            let running: u64 = stats().map(|stats| stats.running).sum();
            let is_limited = queue.is_limited || queue.has_rate;
            let patience = self.thresholds.stalled * if is_limited { LIMITED_FACTOR } else { 1 };
            let Some(oldest) = queue
                .oldest_seconds
                .filter(|oldest| *oldest >= patience.as_secs_f64())
            else {
                continue;
            };
            let may_run = workers
                .iter()
                .any(|worker| self.has_free_place(worker, &queue.name))
                && !(is_limited && running > 0);
            if may_run && !queue.is_paused && still_for >= patience {
                stalled.push((queue.name.clone(), oldest));
            }
        }
        stalled
    }

    fn has_free_place(&self, worker: &WorkerLook, queue: &str) -> bool {
        let running = |queue: &str| worker.stats.get(queue).map_or(0, |stats| stats.running);
        let of_all: u64 = worker.stats.values().map(|stats| stats.running).sum();
        worker.queues.iter().any(|served| served == queue)
            && self
                .places
                .get(queue)
                .is_some_and(|places| running(queue) < *places)
            && (self.places_of_all == 0 || of_all < self.places_of_all)
    }

    fn judge_server(&self, memory: &mut Memory, server: &ServerFigures, faults: &mut Vec<Fault>) {
        let limits = &self.thresholds;
        for wait in server
            .waits
            .iter()
            .filter(|wait| wait.seconds >= limits.lock_wait.as_secs_f64())
        {
            let message = format!(
                "pid {} has waited {} for a lock of {}",
                wait.pid,
                age(wait.seconds),
                wait.blocked_by
            );
            faults.push(
                Fault::new(FaultKind::LockWait, message).with_statement(wait.blocker_statement.as_ref()),
            );
        }
        memory.remember(server);
        for holder in &server.holders {
            let seconds = holder
                .seconds
                .unwrap_or_else(|| memory.held_for(&holder.key).as_secs_f64());
            if seconds >= HOLDER_AFTER.as_secs_f64() {
                let message = format!(
                    "a transaction of pid {} ({}) has held locks on {} for {}",
                    holder.pid,
                    holder.who,
                    holder.tables,
                    age(seconds)
                );
                faults.push(
                    Fault::new(FaultKind::LockHolder, message).with_statement(holder.statement.as_ref()),
                );
            }
        }
        for old in &server.transactions {
            let is_long = old
                .seconds
                .is_some_and(|seconds| seconds >= limits.transaction.as_secs_f64());
            let is_far = old
                .xmin_age
                .is_some_and(|transactions| transactions >= limits.xmin_age);
            if is_long || is_far {
                let open = old
                    .seconds
                    .map_or_else(String::new, |seconds| format!(" for {}", age(seconds)));
                let snapshot = old
                    .xmin_age
                    .map_or_else(String::new, |began| format!(", across {began} transactions"));
                let message = format!("{} keeps dead rows{open}{snapshot}", old.what);
                faults.push(
                    Fault::new(FaultKind::OldTransaction, message).with_statement(old.statement.as_ref()),
                );
            }
        }
        for table in server
            .tables
            .iter()
            .filter(|table| table.dead >= limits.dead_rows.max(table.live))
        {
            let vacuumed = table
                .vacuumed_seconds_ago
                .map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", age(seconds)));
            let message = format!(
                "{} has {} dead rows beside {} live ones; vacuumed {vacuumed}",
                table.table, table.dead, table.live
            );
            faults.push(Fault::new(FaultKind::DeadRows, message));
        }
        for slow in &server.slow {
            let message = format!(
                "a statement of pid {} has run for {}",
                slow.pid,
                age(slow.seconds)
            );
            faults
                .push(Fault::new(FaultKind::SlowStatement, message).with_statement(slow.statement.as_ref()));
        }
        let connections = server.connections;
        if connections.used as f64 >= connections.max as f64 * CONNECTIONS_SHORT {
            let message = format!(
                "{} of {} connections are in use",
                connections.used, connections.max
            );
            faults.push(Fault::new(FaultKind::ConnectionsShort, message));
        }
    }
}

fn judge_leases(leases: &LeaseFigures, faults: &mut Vec<Fault>) {
    let lost = leases.lost;
    if lost.orphaned > 0 {
        let message = format!(
            "{} running jobs have no worker, the oldest for {}",
            lost.orphaned,
            age(lost.orphaned_oldest_seconds)
        );
        faults.push(Fault::new(FaultKind::OrphanedJobs, message));
    }
    if lost.silent > 0 {
        let message = format!(
            "{} running jobs belong to workers that have been silent for up to {}",
            lost.silent,
            age(lost.silent_oldest_seconds)
        );
        faults.push(Fault::new(FaultKind::SilentWorkers, message));
    }
    let overdue = &leases.overdue;
    if overdue.jobs > 0 {
        let example = overdue
            .example()
            .map_or_else(String::new, |id| format!(", {id} among them"));
        let message = format!(
            "{} running jobs are beyond their timeout, the oldest runs for {}{example}",
            overdue.jobs,
            age(overdue.oldest.unwrap_or_default())
        );
        faults.push(Fault::new(FaultKind::OverdueJobs, message));
    }
}

impl Memory {
    /// How long the sum of the queue's outcomes has been the same. Workers that come and go change it, too.
    fn still_for(&mut self, queue: &str, ended: u64, now: Instant) -> Duration {
        let (before, since) = self.outcomes.entry(queue.to_owned()).or_insert((ended, now));
        if *before != ended {
            (*before, *since) = (ended, now);
        }
        now.duration_since(*since)
    }

    /// The look is bounded, so this is.
    fn remember(&mut self, server: &ServerFigures) {
        let now = Instant::now();
        let keys = server.holders.iter().filter(|holder| holder.seconds.is_none());
        let keep: BTreeMap<HolderKey, Instant> = keys
            .map(|holder| {
                let since = self.holders.get(&holder.key).copied().unwrap_or(now);
                (holder.key.clone(), since)
            })
            .collect();
        self.holders = keep;
    }

    fn held_for(&self, key: &HolderKey) -> Duration {
        self.holders.get(key).map(Instant::elapsed).unwrap_or_default()
    }

    fn abandoned(&mut self, connections: usize) -> Option<Fault> {
        if connections == 0 {
            self.abandoned_since = None;
            return None;
        }
        let since = *self.abandoned_since.get_or_insert_with(Instant::now);
        let message = format!(
            "{connections} connections have a statement that was given up {} ago and that the server has not ended",
            age(since.elapsed().as_secs_f64())
        );
        (since.elapsed() >= ABANDONED_AFTER).then(|| Fault::new(FaultKind::AbandonedConnections, message))
    }

    fn unreadable(&mut self, is_slow: bool) -> Option<Fault> {
        if !is_slow {
            self.slow_since = None;
            return None;
        }
        let since = *self.slow_since.get_or_insert_with(Instant::now);
        let message = format!(
            "what ails the ledger could not be read in time for {}",
            age(since.elapsed().as_secs_f64())
        );
        (since.elapsed() >= UNREADABLE_AFTER).then(|| Fault::new(FaultKind::Unreadable, message))
    }

    /// Once when a fault begins, once when it is over.
    pub(super) fn log(&mut self, report: &Report) {
        let now = Instant::now();
        for fault in &report.faults {
            let key = (fault.kind, fault.queue.clone());
            if self.active.insert(key, now).is_none() {
                tracing::warn!(
                    fault = fault.kind.as_str(),
                    queue = fault.queue,
                    statement = fault.statement,
                    hint = fault.kind.hint(),
                    "{}",
                    fault.message
                );
            }
        }
        if report.is_partial {
            return;
        }
        self.active.retain(|(kind, queue), seen| {
            let is_over = now.duration_since(*seen) >= OVER_AFTER;
            if is_over {
                tracing::info!(fault = kind.as_str(), queue, "the fault has ended");
            }
            !is_over
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// The fault begins after `patience`, names its age, and is gone with the next look that does not see it.
    async fn assert_begins_and_ends(
        kind: FaultKind,
        patience: Duration,
        mut look: impl FnMut(&mut Memory, bool) -> Option<Fault>,
    ) {
        let mut memory = Memory::default();
        assert_eq!(look(&mut memory, true), None, "it may pass");
        tokio::time::advance(patience.saturating_sub(TICK)).await;
        assert_eq!(look(&mut memory, true), None, "it may pass still");
        tokio::time::advance(TICK).await;
        let fault = look(&mut memory, true).unwrap();
        assert_eq!(fault.kind, kind);
        assert!(fault.message.contains(&age(patience.as_secs_f64())), "{fault:?}");
        assert_eq!(look(&mut memory, false), None);
        tokio::time::advance(patience).await;
        assert_eq!(look(&mut memory, true), None, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_connections_are_a_fault_until_the_server_ends_their_statements() {
        let look = |memory: &mut Memory, seen: bool| memory.abandoned(if seen { 3 } else { 0 });
        assert_begins_and_ends(FaultKind::AbandonedConnections, ABANDONED_AFTER, look).await;
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_are_too_slow_are_a_fault_until_one_is_in_time() {
        assert_begins_and_ends(FaultKind::Unreadable, UNREADABLE_AFTER, Memory::unreadable).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_active_until_it_was_absent_for_a_while_in_whole_reports() {
        let fault = Fault::new(FaultKind::LargeLog, "the log".to_owned());
        let with = Report {
            faults: vec![fault],
            ..Report::default()
        };
        let (without, partial) = (
            Report::default(),
            Report {
                is_partial: true,
                ..Report::default()
            },
        );
        let mut memory = Memory::default();
        memory.log(&with);
        tokio::time::advance(OVER_AFTER).await;
        memory.log(&partial);
        assert_eq!(memory.active.len(), 1, "a partial report may lack it");
        memory.log(&with);
        tokio::time::advance(OVER_AFTER.saturating_sub(TICK)).await;
        memory.log(&without);
        assert_eq!(memory.active.len(), 1, "it may come back");
        tokio::time::advance(TICK).await;
        memory.log(&without);
        assert!(memory.active.is_empty());
    }
}
