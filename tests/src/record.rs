//! The producers' account: what was asked, what was answered, and how long that took.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A job that an API has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedJob {
    /// The id that the API gave it.
    pub job: String,
    pub queue: String,
    /// As the answer says: `ledger` or `redis`. `None` for the jobs of a batch, whose answer does not say.
    pub durability: Option<String>,
    pub at: Instant,
}

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 202, or 200 to a repetition.
    Accepted { jobs: usize },
    /// Any other status. `certain`: the answer says that nothing was accepted.
    Refused {
        status: u16,
        certain: bool,
        detail: String,
    },
    /// No answer: the connection was refused or broke, or the client's deadline passed.
    Failed { error: String },
}

/// One request.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    pub at: Instant,
    pub took: Duration,
    pub api: usize,
    pub queue: String,
    /// The first own id in it.
    pub id: String,
    pub answer: Answer,
}

/// Everything that producers know. Shared by all of them.
#[derive(Debug)]
pub struct Record {
    /// What its own ids begin with.
    prefix: String,
    next: AtomicU64,
    accepted: Mutex<BTreeMap<String, AcceptedJob>>,
    /// Own ids whose every request was answered with a certain refusal.
    refused: Mutex<BTreeSet<String>>,
    /// Own ids that some request may have got accepted, without an answer that says so.
    doubtful: Mutex<BTreeSet<String>>,
    asked: Mutex<Vec<RequestRecord>>,
}

impl Default for Record {
    fn default() -> Self {
        Self::named("j")
    }
}

impl Record {
    /// A record whose own ids begin with `prefix`, so that they are no other record's.
    pub(crate) fn named(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            next: AtomicU64::new(0),
            accepted: Mutex::default(),
            refused: Mutex::default(),
            doubtful: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// A fresh own id.
    pub fn next_id(&self) -> String {
        format!("{}{:07}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn asked(&self, asked: RequestRecord) {
        self.asked.lock().unwrap().push(asked);
    }

    pub(crate) fn accept(&self, id: &str, accepted: AcceptedJob) {
        self.refused.lock().unwrap().remove(id);
        self.accepted.lock().unwrap().insert(id.to_owned(), accepted);
    }

    /// A request was certainly refused; that says nothing of an earlier one for the same id.
    pub(crate) fn refuse(&self, id: &str) {
        if !self.doubtful.lock().unwrap().contains(id) {
            self.refused.lock().unwrap().insert(id.to_owned());
        }
    }

    /// A request left it open whether the job was accepted.
    pub(crate) fn doubt(&self, id: &str) {
        self.refused.lock().unwrap().remove(id);
        self.doubtful.lock().unwrap().insert(id.to_owned());
    }

    /// Own id → what was accepted.
    pub fn accepted(&self) -> BTreeMap<String, AcceptedJob> {
        self.accepted.lock().unwrap().clone()
    }

    pub fn accepted_ids(&self) -> Vec<String> {
        self.accepted.lock().unwrap().keys().cloned().collect()
    }

    pub fn accepted_count(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// Own ids that were certainly refused.
    pub fn refused_ids(&self) -> Vec<String> {
        self.refused.lock().unwrap().iter().cloned().collect()
    }

    /// All requests, in the order of their answers.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests that began in `from..to`.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<RequestRecord> {
        let asked = self.asked.lock().unwrap();
        let within = asked.iter().filter(|asked| (from..to).contains(&asked.at));
        within.cloned().collect()
    }

    /// The slowest request so far.
    pub fn longest(&self) -> Duration {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|asked| asked.took).max().unwrap_or_default()
    }

    /// How long `quantile` (0 to 1) of the accepting requests that began in `from..to` took at most; zero if there
    /// were none.
    pub fn latency(&self, quantile: f64, from: Instant, to: Instant) -> Duration {
        let accepting = self.between(from, to);
        let accepting = accepting
            .into_iter()
            .filter(|asked| matches!(asked.answer, Answer::Accepted { .. }));
        quantile_of(accepting.map(|asked| asked.took).collect(), quantile)
    }

    /// Jobs accepted in `from..to`, for each second of it.
    pub fn accepted_per_second(&self, from: Instant, to: Instant) -> f64 {
        let accepted = self.accepted.lock().unwrap();
        let count = accepted
            .values()
            .filter(|job| (from..to).contains(&job.at))
            .count();
        count as f64 / to.duration_since(from).as_secs_f64()
    }
}

/// The value below which `quantile` of them lie; zero of none.
pub(crate) fn quantile_of(mut all: Vec<Duration>, quantile: f64) -> Duration {
    all.sort();
    let last = all.len().saturating_sub(1);
    let index = (last as f64 * quantile).ceil() as usize;
    all.get(index.min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_below_which_that_share_lies() {
        let all: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile_of(all.clone(), 0.0), Duration::from_millis(1));
        assert_eq!(quantile_of(all.clone(), 0.99), Duration::from_millis(100));
        assert_eq!(quantile_of(all, 1.0), Duration::from_millis(100));
        assert_eq!(quantile_of(Vec::new(), 0.5), Duration::ZERO);
    }

    #[test]
    fn an_id_that_is_accepted_after_all_is_no_longer_refused() {
        let record = Record::default();
        let id = record.next_id();
        record.refuse(&id);
        assert_eq!(record.refused_ids(), std::slice::from_ref(&id));
        let accepted = AcceptedJob {
            job: "1".to_owned(),
            queue: "default".to_owned(),
            durability: None,
            at: Instant::now(),
        };
        record.accept(&id, accepted);
        assert!(record.refused_ids().is_empty());
        assert_eq!(record.accepted_ids(), [id]);
    }

    #[test]
    fn an_id_in_doubt_is_not_certainly_refused_by_a_later_answer() {
        let record = Record::default();
        let id = record.next_id();
        record.doubt(&id);
        record.refuse(&id);
        assert!(record.refused_ids().is_empty());
    }
}
