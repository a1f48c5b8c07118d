//! Leasing jobs.

use std::fmt;

use redis::FromRedisValue;

use super::keys::member;
use super::script::{self, Call};
use super::{Broker, BrokerError, MAX_BATCH, MAX_BATCH_BYTES, QueueKeys};
use crate::envelope::Envelope;
use crate::id::{JobId, WorkerId};

const OP: &str = "broker.fetch";

/// What a worker gets when it asks for jobs.
#[derive(Debug)]
pub enum FetchAnswer {
    Batch(Batch),
    /// Nobody knows this worker: it must register under its id. What it runs stays its own.
    Unregistered,
    /// The worker was taken for lost and its jobs were taken away: it must take a new id.
    Lost,
}

/// Jobs that the worker holds now.
#[derive(Debug, Default)]
pub struct Batch {
    pub jobs: Vec<BrokerJob>,
    /// Held too, but no envelope can be made of them.
    pub unreadable: Vec<Unreadable>,
    /// Not held: their data was evicted, and there is nothing left of them but these ids.
    pub evicted: Vec<String>,
}

impl Batch {
    /// Nothing was due.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.unreadable.is_empty() && self.evicted.is_empty()
    }
}

#[derive(Debug)]
pub struct BrokerJob {
    pub id: JobId,
    /// How often a worker was lost while it ran. If it is not zero, see [`Broker::mark_started`].
    pub crashes: u32,
    pub envelope: Envelope,
}

/// A held job whose envelope cannot be read.
pub struct Unreadable {
    pub id: JobId,
    pub crashes: u32,
    pub raw: Vec<u8>,
    pub fault: String,
}

impl fmt::Debug for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes may hold secrets.
        f.debug_struct("Unreadable")
            .field("id", &self.id)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Leases up to `limit` due jobs ([`MAX_BATCH`] at most) to a registered worker, oldest first. Fewer may come than
    /// are due if their envelopes are large; none come only if none are due.
    ///
    /// # Errors
    /// If the error's certainty is `Unknown`, jobs may have been leased that nobody knows of: call
    /// [`Broker::reconcile`] before the next fetch.
    pub async fn fetch(
        &self,
        queue: &str,
        worker: WorkerId,
        limit: usize,
    ) -> Result<FetchAnswer, BrokerError> {
        if limit == 0 {
            return Ok(FetchAnswer::Batch(Batch::default()));
        }
        let keys = QueueKeys::new(queue);
        let member = member(worker);
        let call = Call::new(&script::FETCH, 8)
            .key(keys.workers())
            .key(keys.active())
            .key(keys.inflight(&member))
            .key(keys.data())
            .key(keys.signal())
            .key(keys.scheduled())
            .key(keys.crashes())
            .key(keys.lost())
            .arg(&member)
            .arg(limit.min(MAX_BATCH))
            .arg(self.deadline()?)
            .arg(MAX_BATCH_BYTES);
        match call.run_freeing::<Answer>(&self.gate, OP).await? {
            Answer::Late => Err(BrokerError::Late { op: OP }),
            Answer::Unknown => Ok(FetchAnswer::Unregistered),
            Answer::Lost => Ok(FetchAnswer::Lost),
            Answer::Leased(leased) => self.read(&keys, &member, leased).await.map(FetchAnswer::Batch),
        }
    }

    async fn read(&self, keys: &QueueKeys, member: &str, leased: LeaseAnswer) -> Result<Batch, BrokerError> {
        let mut batch = Batch {
            evicted: leased.evicted,
            ..Batch::default()
        };
        batch.jobs.reserve(leased.jobs.len());
        let mut foreign = Vec::new();
        for job in leased.jobs {
            match canonical(&job.id) {
                Some(id) => batch.take(id, job),
                None => foreign.push((JobId::generate(), job)),
            }
        }
        if !foreign.is_empty() {
            let adopted =
                self.adopt(keys, member, &foreign)
                    .await
                    .map_err(|source| BrokerError::HalfWay {
                        op: OP,
                        source: Box::new(source),
                    })?;
            for ((id, job), _held) in foreign.into_iter().zip(adopted).filter(|(_, held)| *held) {
                batch.take(id, job);
            }
        }
        Ok(batch)
    }

    /// Gives ids to jobs whose producer chose ids of another kind.
    async fn adopt(
        &self,
        keys: &QueueKeys,
        member: &str,
        jobs: &[(JobId, LeasedJob)],
    ) -> Result<Vec<bool>, BrokerError> {
        let mut adopted = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(MAX_BATCH / 2) {
            let mut call = Call::new(&script::ADOPT, 2 + 2 * jobs.len())
                .key(keys.inflight(member))
                .key(keys.data());
            for (id, job) in jobs {
                call.push_key(keys.meta(&job.id));
                call.push_key(keys.meta(id));
            }
            for (id, job) in jobs {
                call.push_arg(&job.id);
                call.push_arg(id.to_string());
            }
            adopted.extend(call.run_freeing::<Vec<bool>>(&self.gate, "broker.adopt").await?);
        }
        Ok(adopted)
    }
}

impl Batch {
    fn take(&mut self, id: JobId, job: LeasedJob) {
        let LeasedJob { raw, crashes, .. } = job;
        match serde_json::from_slice(&raw) {
            Ok(envelope) => self.jobs.push(BrokerJob {
                id,
                crashes,
                envelope,
            }),
            Err(error) => self.unreadable.push(Unreadable {
                id,
                crashes,
                raw,
                fault: error.to_string(),
            }),
        }
    }
}

/// Only the one spelling that we write ourselves: by any other an acknowledgement would not find the job.
fn canonical(text: &str) -> Option<JobId> {
    let id: JobId = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

enum Answer {
    Late,
    Unknown,
    Lost,
    Leased(LeaseAnswer),
}

struct LeaseAnswer {
    jobs: Vec<LeasedJob>,
    evicted: Vec<String>,
}

struct LeasedJob {
    id: String,
    raw: Vec<u8>,
    crashes: u32,
}

impl FromRedisValue for Answer {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        let redis::Value::Array(mut parts) = value else {
            return Err("expected an array".into());
        };
        if let [word] = &parts[..] {
            return match String::from_redis_value_ref(word)?.as_str() {
                "late" => Ok(Self::Late),
                "unknown" => Ok(Self::Unknown),
                "lost" => Ok(Self::Lost),
                _ => Err("unknown answer".into()),
            };
        }
        if parts.len() != 5 {
            return Err("expected five parts".into());
        }
        let mut lists = parts.drain(1..);
        let mut next = || lists.next().unwrap_or(redis::Value::Nil);
        let ids = Vec::<String>::from_redis_value(next())?;
        let envelopes = Vec::<Vec<u8>>::from_redis_value(next())?;
        // A count is negative while the job runs again.
        let crashes = Vec::<Option<i64>>::from_redis_value(next())?;
        let evicted = Vec::<String>::from_redis_value(next())?;
        if ids.len() != envelopes.len() {
            return Err("as many envelopes as ids were expected".into());
        }
        let crashes = crashes
            .into_iter()
            .map(Option::unwrap_or_default)
            .chain(std::iter::repeat(0));
        let jobs = ids
            .into_iter()
            .zip(envelopes)
            .zip(crashes)
            .map(|((id, raw), crashes)| LeasedJob {
                id,
                raw,
                crashes: u32::try_from(crashes.unsigned_abs()).unwrap_or(u32::MAX),
            })
            .collect();
        Ok(Self::Leased(LeaseAnswer { jobs, evicted }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_spelling_we_write_is_an_id() {
        let id = JobId::generate();
        assert_eq!(canonical(&id.to_string()), Some(id));
        assert_eq!(canonical(&id.to_string().to_lowercase()), None);
        assert_eq!(canonical("order-17"), None);
        assert_eq!(
            canonical("ZZZZZZZZZZZZZZZZZZZZZZZZZZ"),
            None,
            "more than 128 bits"
        );
    }
}
