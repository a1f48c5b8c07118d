//! The outcome of a scenario: one row of the table, and every broken promise.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a scenario promises beyond what always holds.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Redis' memory is lost in it: jobs that were accepted on Redis may be.
    pub redis_data_loss: bool,
    /// Leases are lost in it although no process was killed (a stopped process, a long outage): such jobs may run
    /// again.
    pub lease_loss: bool,
    /// No request may take longer: the API's own request timeout and a little.
    pub longest_request: Duration,
    /// Everything accepted has to be final this long after the load ended.
    pub settle: Duration,
    /// A probe job on each queue through each API has to be executed this fast at the end.
    pub probe: Duration,
    /// Kinds of jobs, besides the load's own, that may end otherwise than completed.
    pub may_be_discarded: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            redis_data_loss: false,
            lease_loss: false,
            longest_request: Duration::from_millis(10_500),
            settle: Duration::from_mins(1),
            probe: Duration::from_secs(5),
            may_be_discarded: false,
        }
    }
}

impl Expect {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn redis_data_loss(mut self) -> Self {
        self.redis_data_loss = true;
        self
    }

    pub fn lease_loss(mut self) -> Self {
        self.lease_loss = true;
        self
    }

    pub fn longest_request(mut self, limit: Duration) -> Self {
        self.longest_request = limit;
        self
    }

    pub fn settle(mut self, limit: Duration) -> Self {
        self.settle = limit;
        self
    }

    pub fn probe(mut self, limit: Duration) -> Self {
        self.probe = limit;
        self
    }

    pub fn may_be_discarded(mut self) -> Self {
        self.may_be_discarded = true;
        self
    }
}

/// What came of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub scenario: String,
    pub setup: &'static str,
    pub accepted: usize,
    /// Requests that were refused, and that got no answer.
    pub refused: usize,
    pub unanswered: usize,
    /// Accepted and never executed, on the ledger (own ids) …
    pub lost: Vec<String>,
    /// … and on Redis, where the scenario destroys Redis' memory.
    pub lost_with_redis: usize,
    /// Jobs executed more than once: held by a process when it was killed;
    pub twice_killed: usize,
    /// … whose lease was lost (the ledger has counted the crash, or the process was stopped);
    pub twice_lease: usize,
    /// … after a failed attempt, which is what retries are for;
    pub twice_retried: usize,
    /// … for no reason that anybody knows (own ids).
    pub twice_unexplained: Vec<String>,
    /// Certainly refused, and executed nevertheless.
    pub half_accepted: Vec<String>,
    /// Not the one row that an accepted ledger job should be, or not completed.
    pub wrong_rows: Vec<String>,
    pub states: BTreeMap<String, u64>,
    pub longest_request: Duration,
    pub p50: Duration,
    pub p99: Duration,
    /// Slowest process to notice a fault, and to be back after one.
    pub detection: Option<Duration>,
    pub back: Option<Duration>,
    /// The same of Redis' faults alone: from its return to normal mode.
    pub redis_back: Option<Duration>,
    /// From the end of the load until all was final.
    pub settled: Duration,
    /// Processes that ended without having been told to.
    pub dead: Vec<String>,
    /// Workers that took no job at the end although there was enough for all, by queue.
    pub deaf: Vec<String>,
    /// Keys in Redis that nobody needs and that never expire.
    pub leftovers: Vec<String>,
    /// Every broken promise, as a sentence.
    pub broken: Vec<String>,
    /// What the processes said at the levels warn and error, those of processes that have ended included, in the order
    /// of time.
    pub warnings: Vec<String>,
}

impl Report {
    /// The table's head, in Markdown.
    pub fn header() -> String {
        let names = [
            "scenario",
            "set-up",
            "accepted",
            "refused",
            "no answer",
            "lost",
            "lost with Redis",
            "twice: killed",
            "twice: lease lost",
            "twice: unexplained",
            "longest request",
            "p99",
            "detected",
            "back to normal",
            "settled",
            "verdict",
        ];
        format!("| {} |\n|{}", names.join(" | "), " --- |".repeat(names.len()))
    }

    /// One row of the table, in Markdown.
    pub fn row(&self) -> String {
        let verdict = match self.broken.len() {
            0 => "holds".to_owned(),
            count => format!("{count} broken"),
        };
        let cells = [
            self.scenario.clone(),
            self.setup.to_owned(),
            self.accepted.to_string(),
            self.refused.to_string(),
            self.unanswered.to_string(),
            self.lost.len().to_string(),
            self.lost_with_redis.to_string(),
            self.twice_killed.to_string(),
            self.twice_lease.to_string(),
            self.twice_unexplained.len().to_string(),
            millis(Some(self.longest_request)),
            millis(Some(self.p99)),
            millis(self.detection),
            millis(self.back),
            format!("{:.1} s", self.settled.as_secs_f64()),
            verdict,
        ];
        format!("| {} |", cells.join(" | "))
    }

    /// Prints the row; panics with every broken promise, if there is one.
    pub fn assert(&self) {
        println!("{}\n{}", Self::header(), self.row());
        if !self.broken.is_empty() {
            println!("{}", self.warnings.join("\n"));
        }
        assert!(
            self.broken.is_empty(),
            "{}: {} broken promises\n- {}\nfinal states: {:?}",
            self.scenario,
            self.broken.len(),
            self.broken.join("\n- "),
            self.states
        );
    }
}

fn millis(duration: Option<Duration>) -> String {
    duration.map_or_else(
        || "-".to_owned(),
        |duration| format!("{:.0} ms", duration.as_secs_f64() * 1_000.0),
    )
}
