//! The janitor: what nobody owns any more, after the server evicted or lost whole keys.
//!
//! - A job that stands in `data` and nowhere else becomes due again ([`Janitor::step`], this file).
//! - Inflight sets of members that nobody knows, metas and crash counts of jobs that are gone are deleted (`sweep.rs`).
//!
//! # How a lost job is found
//! 1. *Census*: more data than places to stand? One cheap script; on a sound queue that is all, however deep it is.
//! 2. *Inspection*: a round over `data` names ids that stand nowhere and are older than the head of the queue.
//! 3. *Patience*: a member that is alive but unknown, since its registration was evicted, registers again within
//!    `lost_after`, and names what it runs with each heartbeat. So a suspect waits that long, without an outage.
//! 4. *Decision*: one script looks once more and puts back what still stands nowhere. Nothing is ever put twice.
//!
//! # Limits
//! A job that is younger than the head of the queue is not missed before that head is fetched, when it would be its turn.
//! Ids without data that still stand somewhere hide as many lost jobs in the census, until they are fetched or ended. A
//! suspect that may wait in a list of more than some 20,000 is looked up alone, a few in each call: while a queue is that
//! deep, its lost jobs come back slowly. Jobs that stock workers ended stay in `data` until their owner vacuums it; they
//! cost a look now and then.
//!
//! One process at a time is the janitor of a server, by a lease that is an economy and not a lock: two at once do no harm.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::script::{self, Call};
use super::sweep::Sweep;
use super::{Broker, BrokerError, MAX_BATCH, MEMBER_ATTEMPTS, QueueKeys, millis};
use crate::id::WorkerId;

/// `{holdfast:janitor}`, a string: who is the janitor of this server.
const LEASE_KEY: &str = "{holdfast:janitor}";
/// A janitor that has not been heard of for this long has a successor.
const LEASE: Duration = Duration::from_mins(1);
/// Fields of `data` in one inspection, about. Their values pass through the script.
const PORTION: usize = 100;
/// Inspections of one queue in one step.
const PORTIONS_PER_STEP: usize = 50;
/// Decisions (of [`MAX_BATCH`] ids) of one queue in one step.
const DECISIONS_PER_STEP: usize = 20;
/// Suspects of one queue that are remembered.
const MAX_SUSPECTS: usize = 100_000;
/// Entries of `active` that one decision may compare: a few milliseconds.
const MAX_COMPARED: usize = 400_000;
/// Jobs that the janitor lets be due in `scheduled` at once: stock's fetch fails for ever above some 8,000.
const MAX_DUE: usize = 4_000;

/// What one step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Another process is the janitor now; nothing was done.
    pub standby: bool,
    /// Lost jobs that are due again.
    pub requeued: u64,
    /// Metas deleted.
    pub metas: u64,
    /// Inflight sets deleted.
    pub orphans: u64,
    /// Crash counts deleted.
    pub crashes: u64,
    /// It is worth while to step again at once.
    pub more: bool,
}

/// Keeps its place between steps. Every worker has one.
#[derive(Debug)]
pub struct Janitor {
    broker: Broker,
    wards: Vec<Ward>,
    sweep: Sweep,
    /// Names this janitor in the lease.
    token: String,
}

/// One queue, as the janitor remembers it.
#[derive(Debug)]
pub(super) struct Ward {
    pub(super) queue: String,
    pub(super) keys: QueueKeys,
    data_cursor: u64,
    pub(super) crashes_cursor: u64,
    suspects: Suspects,
}

impl Janitor {
    pub fn new(broker: Broker, queues: Vec<String>) -> Self {
        let wards = queues
            .into_iter()
            .map(|queue| Ward {
                keys: QueueKeys::new(&queue),
                queue,
                data_cursor: 0,
                crashes_cursor: 0,
                suspects: Suspects::default(),
            })
            .collect();
        Self {
            broker,
            wards,
            sweep: Sweep::default(),
            token: WorkerId::generate().to_string(),
        }
    }

    /// A bounded piece of work: cheap enough to be done every few seconds.
    pub async fn step(&mut self) -> Result<Swept, BrokerError> {
        let mut swept = Swept::default();
        if !self.take_lease().await? {
            swept.standby = true;
            return Ok(swept);
        }
        for ward in &mut self.wards {
            ward.step(&self.broker, &mut swept).await?;
        }
        self.sweep.step(&self.broker, &self.wards, &mut swept).await?;
        Ok(swept)
    }

    async fn take_lease(&self) -> Result<bool, BrokerError> {
        let (token, lease) = (self.token.as_str(), millis(LEASE));
        let taken = self
            .broker
            .gate
            .run_freeing("broker.janitor", |mut c| async move {
                let mut set = redis::cmd("SET");
                set.arg(LEASE_KEY).arg(token).arg("NX").arg("PX").arg(lease);
                if set.query_async::<Option<String>>(&mut c).await?.is_some() {
                    return Ok(true);
                }
                let holder: Option<String> = redis::cmd("GET").arg(LEASE_KEY).query_async(&mut c).await?;
                if holder.as_deref() != Some(token) {
                    return Ok(false);
                }
                redis::cmd("PEXPIRE")
                    .arg(LEASE_KEY)
                    .arg(lease)
                    .query_async(&mut c)
                    .await
            });
        Ok(taken.await?)
    }
}

impl Ward {
    async fn step(&mut self, broker: &Broker, swept: &mut Swept) -> Result<(), BrokerError> {
        let members = broker.members(&self.keys).await?;
        let census = broker.census(&self.keys, &members).await?;
        if census.data > census.active + census.scheduled + census.inflight {
            self.inspect(broker, &members, swept).await?;
        }
        self.decide(broker, swept).await?;
        if census.crashes > 0 {
            swept.crashes += super::sweep::forget_crashes(broker, self).await?;
        }
        Ok(())
    }

    /// Goes on with the round over `data`.
    async fn inspect(
        &mut self,
        broker: &Broker,
        members: &[String],
        swept: &mut Swept,
    ) -> Result<(), BrokerError> {
        let now = Instant::now();
        for _ in 0..PORTIONS_PER_STEP {
            if self.suspects.is_full() {
                return Ok(());
            }
            let mut call = Call::new(&script::INSPECT, 3 + members.len())
                .key(self.keys.data())
                .key(self.keys.active())
                .key(self.keys.scheduled());
            for member in members {
                call.push_key(self.keys.inflight(member));
            }
            call = call.arg(self.data_cursor).arg(PORTION);
            let (next, ids): (u64, Vec<String>) = call.run_freeing(&broker.gate, "broker.inspect").await?;
            self.data_cursor = next;
            let fresh = ids.into_iter().filter(|id| self.suspects.add(id, now)).count();
            if next == 0 {
                return Ok(());
            }
            // A round that finds something is worth finishing at once.
            swept.more |= fresh > 0;
        }
        Ok(())
    }

    /// Decides on the suspects that have waited long enough.
    async fn decide(&mut self, broker: &Broker, swept: &mut Swept) -> Result<(), BrokerError> {
        if !broker.contact.unbroken_for(broker.settings.contact) {
            return Ok(());
        }
        let patience = Duration::from_secs(super::seconds(broker.settings.lost_after));
        for _ in 0..DECISIONS_PER_STEP {
            let ripe = self.suspects.ripe(patience);
            if ripe.is_empty() {
                return Ok(());
            }
            let verdicts = self.requeue(broker, &ripe).await?;
            let mut stuck = false;
            for (id, verdict) in ripe.iter().zip(verdicts) {
                swept.requeued += u64::from(verdict == Verdict::Requeued);
                stuck |= verdict == Verdict::Undecided;
                self.suspects.settle(id, verdict);
            }
            if stuck {
                return Ok(());
            }
        }
        swept.more = true;
        Ok(())
    }

    async fn requeue(&self, broker: &Broker, ids: &[Arc<str>]) -> Result<Vec<Verdict>, BrokerError> {
        const OP: &str = "broker.requeue";
        for _ in 0..MEMBER_ATTEMPTS {
            let members = broker.members(&self.keys).await?;
            let mut call = Call::new(&script::REQUEUE, 6 + members.len() + ids.len())
                .key(self.keys.data())
                .key(self.keys.active())
                .key(self.keys.scheduled())
                .key(self.keys.workers())
                .key(self.keys.lost())
                .key(self.keys.signal());
            for member in &members {
                call.push_key(self.keys.inflight(member));
            }
            for id in ids {
                call.push_key(self.keys.meta(id));
            }
            call = call.arg(members.len()).arg(MAX_COMPARED).arg(MAX_DUE);
            for member in &members {
                call.push_arg(member);
            }
            for id in ids {
                call.push_arg(&**id);
            }
            let answer: redis::Value = call.run_freeing(&broker.gate, OP).await?;
            let redis::Value::Array(mut parts) = answer else {
                return Err(BrokerError::Answer { op: OP });
            };
            // One word: the members have changed.
            if parts.len() == 2
                && let Some(words) = parts.pop()
            {
                let words: Vec<String> =
                    redis::from_redis_value(words).map_err(|_| BrokerError::Answer { op: OP })?;
                return words
                    .iter()
                    .map(|word| Verdict::parse(word).ok_or(BrokerError::Answer { op: OP }))
                    .collect();
            }
        }
        Err(BrokerError::Unsettled { op: OP })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Requeued,
    Held,
    Gone,
    Finished,
    Undecided,
}

impl Verdict {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "requeued" => Some(Self::Requeued),
            "held" => Some(Self::Held),
            "gone" => Some(Self::Gone),
            "finished" => Some(Self::Finished),
            "undecided" => Some(Self::Undecided),
            _ => None,
        }
    }
}

/// Ids that stood nowhere when they were seen, in the order of sighting.
#[derive(Debug, Default)]
struct Suspects {
    waiting: VecDeque<(Arc<str>, Instant)>,
    /// Those waiting, and jobs that stock workers have ended: no need to look at them again.
    known: HashSet<Arc<str>>,
}

impl Suspects {
    fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_SUSPECTS
    }

    /// Whether it is news.
    fn add(&mut self, id: &str, now: Instant) -> bool {
        if self.known.contains(id) {
            return false;
        }
        let id: Arc<str> = id.into();
        self.known.insert(id.clone());
        self.waiting.push_back((id, now));
        true
    }

    /// Up to a batch of those seen at least `patience` ago.
    fn ripe(&self, patience: Duration) -> Vec<Arc<str>> {
        let ripe = self
            .waiting
            .iter()
            .take_while(|(_, seen)| seen.elapsed() >= patience);
        ripe.take(MAX_BATCH).map(|(id, _)| id.clone()).collect()
    }

    /// Records the verdict on the one at the front.
    fn settle(&mut self, id: &Arc<str>, verdict: Verdict) {
        let Some((front, seen)) = self.waiting.pop_front() else {
            return;
        };
        debug_assert_eq!(front, *id, "verdicts come in the order of sighting");
        match verdict {
            // To the end of the line, with its age: others may be easier to decide.
            Verdict::Undecided => self.waiting.push_back((front, seen)),
            Verdict::Finished if self.known.len() < 2 * MAX_SUSPECTS => {}
            Verdict::Requeued | Verdict::Held | Verdict::Gone | Verdict::Finished => {
                self.known.remove(id);
            }
        }
    }
}

/// A queue, counted at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) data: u64,
    pub(super) active: u64,
    pub(super) scheduled: u64,
    pub(super) inflight: u64,
    pub(super) crashes: u64,
    /// Id at the head of `active`; empty if there is none.
    pub(super) head: String,
}

impl Broker {
    pub(super) async fn census(&self, keys: &QueueKeys, members: &[String]) -> Result<Census, BrokerError> {
        let mut call = Call::new(&script::CENSUS, 4 + members.len())
            .key(keys.data())
            .key(keys.active())
            .key(keys.scheduled())
            .key(keys.crashes());
        for member in members {
            call.push_key(keys.inflight(member));
        }
        let (data, active, scheduled, inflight, crashes, head) =
            call.run_freeing(&self.gate, "broker.census").await?;
        Ok(Census {
            data,
            active,
            scheduled,
            inflight,
            crashes,
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_suspect_is_decided_on_after_the_patience_and_not_before() {
        let mut suspects = Suspects::default();
        assert!(suspects.add("a", Instant::now()));
        assert!(!suspects.add("a", Instant::now()), "no news");
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(suspects.add("b", Instant::now()));
        assert!(suspects.ripe(Duration::from_secs(15)).is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(suspects.ripe(Duration::from_secs(15)), [Arc::<str>::from("a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_undecided_suspect_keeps_its_age_and_a_finished_one_is_not_news_again() {
        let mut suspects = Suspects::default();
        for id in ["a", "b", "c"] {
            suspects.add(id, Instant::now());
        }
        suspects.settle(&"a".into(), Verdict::Undecided);
        suspects.settle(&"b".into(), Verdict::Finished);
        suspects.settle(&"c".into(), Verdict::Held);
        assert_eq!(suspects.ripe(Duration::ZERO), [Arc::<str>::from("a")]);
        let now = Instant::now();
        assert_eq!(
            ["a", "b", "c"].map(|id| suspects.add(id, now)),
            [false, false, true]
        );
    }
}
