//! Who works: registration, heartbeat, farewell.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::FromRedisValue;

use super::keys::member;
use super::script::{self, Call};
use super::{Broker, BrokerError, MAX_BATCH, QueueKeys};
use crate::id::{JobId, WorkerId};

const OP: &str = "broker.heartbeat";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    Registered,
    /// The worker was taken for lost: it must take a new id.
    Lost,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    Renewed {
        /// Jobs of the worker that its inflight set had lost.
        reasserted: u64,
        /// Jobs leased to the worker that it did not name: those of a fetch under way, or of one whose answer was lost.
        strays: u64,
        /// Jobs among those named that somebody wants cancelled.
        cancel: Vec<JobId>,
    },
    /// Nobody knows the worker: it must register under its id. What it runs stays its own.
    Unregistered,
    /// The worker was taken for lost and its jobs were taken away: it must take a new id.
    Lost,
}

impl Broker {
    /// Makes a worker known to a queue. Safe to repeat.
    pub async fn register(&self, queue: &str, worker: WorkerId) -> Result<Registration, BrokerError> {
        let keys = QueueKeys::new(queue);
        let call = Call::new(&script::REGISTER, 2)
            .key(keys.workers())
            .key(keys.lost())
            .arg(member(worker));
        let registered: bool = call.run_freeing(&self.gate, "broker.register").await?;
        Ok(if registered {
            Registration::Registered
        } else {
            Registration::Lost
        })
    }

    /// Renews a worker. `held` is everything it has fetched and not yet acknowledged; from it an inflight set is rebuilt
    /// that the server has evicted. What is missing there is put back with the second heartbeat that finds it missing.
    pub async fn heartbeat(
        &self,
        queue: &str,
        worker: WorkerId,
        held: &[JobId],
    ) -> Result<Beat, BrokerError> {
        let keys = QueueKeys::new(queue);
        let member = member(worker);
        let before = self.missing.take(queue, worker);
        let mut missing = HashSet::new();
        let (mut reasserted, mut cancel) = (0, Vec::new());
        // A worker that holds nothing beats too.
        let mut rest = held;
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_BATCH));
            let renewed = match self.beat(&keys, &member, now, &before).await? {
                Answer::Late => return Err(BrokerError::Late { op: OP }),
                Answer::Unknown => return Ok(Beat::Unregistered),
                Answer::Lost => return Ok(Beat::Lost),
                Answer::Renewed(renewed) => renewed,
            };
            reasserted += renewed.reasserted;
            missing.extend(ids(&renewed.missing));
            cancel.extend(ids(&renewed.cancel));
            rest = later;
            if rest.is_empty() {
                self.missing.remember(queue, worker, missing);
                let strays = renewed.inflight.saturating_sub(held.len() as u64);
                return Ok(Beat::Renewed {
                    reasserted,
                    strays,
                    cancel,
                });
            }
        }
    }

    async fn beat(
        &self,
        keys: &QueueKeys,
        member: &str,
        held: &[JobId],
        missing: &HashSet<JobId>,
    ) -> Result<Answer, BrokerError> {
        let (again, others): (Vec<&JobId>, Vec<&JobId>) = held.iter().partition(|id| missing.contains(id));
        let mut call = Call::new(&script::HEARTBEAT, 5)
            .key(keys.workers())
            .key(keys.lost())
            .key(keys.inflight(member))
            .key(keys.data())
            .key(keys.cancel())
            .arg(member)
            .arg(self.deadline()?)
            .arg(again.len());
        for id in again.into_iter().chain(others) {
            call.push_arg(id.to_string());
        }
        Ok(call.run_freeing(&self.gate, OP).await?)
    }

    /// A stopping worker's last word. False: it still holds jobs, and stays until they are ended, handed back, or
    /// rescued.
    pub async fn deregister(&self, queue: &str, worker: WorkerId) -> Result<bool, BrokerError> {
        let keys = QueueKeys::new(queue);
        let member = member(worker);
        let call = Call::new(&script::DEREGISTER, 2)
            .key(keys.workers())
            .key(keys.inflight(&member))
            .arg(&member);
        Ok(call.run_freeing(&self.gate, "broker.deregister").await?)
    }
}

fn ids(texts: &[String]) -> impl Iterator<Item = JobId> {
    texts.iter().filter_map(|id| id.parse().ok())
}

/// What the heartbeats of this process found missing from inflight sets, by queue.
#[derive(Debug, Default)]
pub(super) struct MissingJobs(Mutex<ByQueue>);

type ByQueue = HashMap<Box<str>, (WorkerId, HashSet<JobId>)>;

impl MissingJobs {
    fn take(&self, queue: &str, worker: WorkerId) -> HashSet<JobId> {
        match self.lock().remove(queue) {
            Some((of, ids)) if of == worker => ids,
            _ => HashSet::new(),
        }
    }

    fn remember(&self, queue: &str, worker: WorkerId, ids: HashSet<JobId>) {
        if !ids.is_empty() {
            self.lock().insert(queue.into(), (worker, ids));
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Answer {
    Late,
    Unknown,
    Lost,
    Renewed(RenewalAnswer),
}

struct RenewalAnswer {
    inflight: u64,
    reasserted: u64,
    missing: Vec<String>,
    cancel: Vec<String>,
}

impl FromRedisValue for Answer {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        if let redis::Value::Array(parts) = &value
            && let [word] = &parts[..]
        {
            return match String::from_redis_value_ref(word)?.as_str() {
                "late" => Ok(Self::Late),
                "unknown" => Ok(Self::Unknown),
                "lost" => Ok(Self::Lost),
                _ => Err("unknown answer".into()),
            };
        }
        let (_ok, inflight, reasserted, missing, cancel): (String, u64, u64, Vec<String>, Vec<String>) =
            FromRedisValue::from_redis_value(value)?;
        Ok(Self::Renewed(RenewalAnswer {
            inflight,
            reasserted,
            missing,
            cancel,
        }))
    }
}
