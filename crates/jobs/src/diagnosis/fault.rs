//! What can keep accepted jobs from ending, and what to do about it.

use std::fmt;

use serde::Serialize;

/// A kind of fault. Each has its metric label, its hint, and its section in `docs/runbook.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Running jobs whose worker has no row.
    OrphanedJobs,
    /// Running jobs whose worker has been silent for longer than a rescue takes.
    SilentWorkers,
    /// Running jobs that should have been ended by their timeout.
    OverdueJobs,
    /// A queue with due jobs and a worker with free places, and no outcome for minutes.
    StalledQueue,
    /// A statement waits for a lock.
    LockWait,
    /// An open transaction of some other program holds locks on the ledger's tables.
    LockHolder,
    /// A transaction, a prepared transaction, a slot or a standby that keeps vacuums from removing dead rows.
    OldTransaction,
    /// A table with more dead rows than vacuums keep up with.
    DeadRows,
    /// A statement of Holdfast that runs beyond its deadline.
    SlowStatement,
    /// Connections with a statement that was given up and that the server has not ended.
    AbandonedConnections,
    /// The server has few connections left.
    ConnectionsShort,
    /// The write-ahead log of the embedded database is not folded into the file.
    LargeLog,
    /// The look itself did not come to its end, again and again.
    Unreadable,
}

impl FaultKind {
    pub const ALL: [Self; 13] = [
        Self::OrphanedJobs,
        Self::SilentWorkers,
        Self::OverdueJobs,
        Self::StalledQueue,
        Self::LockWait,
        Self::LockHolder,
        Self::OldTransaction,
        Self::DeadRows,
        Self::SlowStatement,
        Self::AbandonedConnections,
        Self::ConnectionsShort,
        Self::LargeLog,
        Self::Unreadable,
    ];

    /// The label of `holdfast_faults`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrphanedJobs => "orphaned_jobs",
            Self::SilentWorkers => "silent_workers",
            Self::OverdueJobs => "overdue_jobs",
            Self::StalledQueue => "stalled_queue",
            Self::LockWait => "lock_wait",
            Self::LockHolder => "lock_holder",
            Self::OldTransaction => "old_transaction",
            Self::DeadRows => "dead_rows",
            Self::SlowStatement => "slow_statement",
            Self::AbandonedConnections => "abandoned_connections",
            Self::ConnectionsShort => "connections_short",
            Self::LargeLog => "large_log",
            Self::Unreadable => "unreadable",
        }
    }

    /// What to do next.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::OrphanedJobs => {
                "Start a worker: it returns the jobs of workers that are gone to their queues."
            }
            Self::SilentWorkers => {
                "Start another worker: it rescues the jobs; see why the silent one does not reach the database."
            }
            Self::OverdueJobs => {
                "See the logs of their workers: a handler blocks its thread, or outcomes cannot be stored."
            }
            Self::StalledQueue => "See the logs of the queue's workers, and the other faults of this report.",
            Self::LockWait => "End the session that holds the lock: select pg_terminate_backend(PID).",
            Self::LockHolder => "Commit or end that transaction; keep transactions that enqueue jobs short.",
            Self::OldTransaction => {
                "End the transaction, drop the slot, or turn hot_standby_feedback off: vacuums remove nothing until then."
            }
            Self::DeadRows => {
                "Run `vacuum holdfast_jobs`; see whether autovacuum is on and what keeps it from removing rows."
            }
            Self::SlowStatement => "See the server's disk and load, and what the statement waits for.",
            Self::AbandonedConnections => {
                "See why the server does not end what was cancelled: its disk, its load, a stopped process."
            }
            Self::ConnectionsShort => {
                "Lower database.max_connections of the processes, or raise the server's max_connections."
            }
            Self::LargeLog => {
                "See which process reads the file for so long: the log shrinks once no reader needs it."
            }
            Self::Unreadable => {
                "The statements that look for faults take too long: see the server's load, locks and old transactions."
            }
        }
    }

    /// The heading of its section in `docs/runbook.md`.
    pub const fn section(self) -> &'static str {
        match self {
            Self::OrphanedJobs | Self::SilentWorkers | Self::OverdueJobs => "Jobs that stay running",
            Self::StalledQueue => "A stalled queue",
            Self::LockWait | Self::LockHolder => "Locks in the database",
            Self::OldTransaction | Self::DeadRows => "An old transaction",
            Self::SlowStatement | Self::AbandonedConnections | Self::ConnectionsShort | Self::Unreadable => {
                "A slow database"
            }
            Self::LargeLog => "A large write-ahead log",
        }
    }

    /// Whether jobs do not end because of it, rather than may.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::OrphanedJobs | Self::SilentWorkers | Self::OverdueJobs | Self::StalledQueue
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One fault that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub kind: FaultKind,
    /// The queue that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// With counts and ages. It names no statement.
    pub message: String,
    /// For callers who may read: the statement at fault, cut and without its values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            queue: None,
            message: message.into(),
            statement: None,
        }
    }

    pub(super) fn of_queue(queue: &str, message: impl Into<String>) -> Self {
        Self {
            queue: Some(queue.to_owned()),
            ..Self::new(FaultKind::StalledQueue, message)
        }
    }

    pub(super) fn with_statement(self, statement: Option<&String>) -> Self {
        Self {
            statement: statement.cloned(),
            ..self
        }
    }
}

/// `40 s`, `12 min`, `3.5 h`.
pub(super) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}
