//! Asking the broker: where a job stands, how deep a queue is.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::keys::worker;
use super::script::{self, Call};
use super::{Broker, BrokerError, MEMBER_ATTEMPTS, QueueKeys, millis};
use crate::envelope::Envelope;
use crate::id::{JobId, WorkerId};

/// Where a job stood when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It waited here. It is out now and will not run from here.
    Removed,
    /// It is here, held by a worker, or by one that has to register again. It must not run anywhere else.
    Running,
    /// It has ended here.
    Done,
    /// It is not here: it never came, or ended so long ago that nobody remembers.
    Unknown,
}

/// How many jobs stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Due and waiting.
    pub active: u64,
    /// Pushed by a stock producer (due now or later), or put back by the janitor; they become active with a fetch.
    pub scheduled: u64,
    /// Held by workers.
    pub inflight: u64,
    /// Since the job at the head of the queue was made; `None` if nothing waits.
    pub oldest_age: Option<Duration>,
}

/// A job on the broker, as its users see it.
#[derive(Debug, Clone)]
pub struct BrokerRecord {
    pub id: JobId,
    /// Unknown if a stock worker ended it, or if the envelope cannot be read.
    pub kind: Option<String>,
    pub place: Place,
    /// While the job waits or runs.
    pub envelope: Option<Envelope>,
    pub crashes: u32,
}

#[derive(Debug, Clone)]
pub enum Place {
    Waiting,
    Running {
        /// `None`: a stock worker, or one that has to register again.
        worker: Option<WorkerId>,
    },
    Ended {
        outcome: EndState,
        attempts: u32,
        result: Option<Box<RawValue>>,
        error: Option<String>,
        at: Option<DateTime<Utc>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    Completed,
    Cancelled,
    /// By a stock worker, after its last attempt.
    Discarded,
}

impl Broker {
    /// Where a job stands; if it waits, it is taken out of the queue. For a job whose push was never answered, so that
    /// it can run from the ledger instead, once.
    pub async fn resolve(&self, queue: &str, id: JobId) -> Result<Resolution, BrokerError> {
        self.take_out(queue, id, "resolve", "broker.resolve").await
    }

    /// Cancels a waiting job ([`Resolution::Removed`]; its outcome is remembered) and asks a running one to give way
    /// ([`Resolution::Running`]): its worker hears of it with the next heartbeat.
    pub async fn cancel(&self, queue: &str, id: JobId) -> Result<Resolution, BrokerError> {
        self.take_out(queue, id, "cancel", "broker.cancel").await
    }

    /// Whether [`Self::cancel`] was asked for this running job.
    pub async fn is_cancel_requested(&self, queue: &str, id: JobId) -> Result<bool, BrokerError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZSCORE")
            .arg(QueueKeys::new(queue).cancel())
            .arg(id.to_string());
        let (wish,): (Option<f64>,) = self
            .gate
            .run_freeing("broker.cancelled", |mut c| async move {
                pipe.query_async(&mut c).await
            })
            .await?;
        Ok(wish.is_some())
    }

    async fn take_out(
        &self,
        queue: &str,
        id: JobId,
        mode: &str,
        op: &'static str,
    ) -> Result<Resolution, BrokerError> {
        let keys = QueueKeys::new(queue);
        for _ in 0..MEMBER_ATTEMPTS {
            let members = self.members(&keys).await?;
            let mut call = Call::new(&script::RESOLVE, 8 + members.len())
                .key(keys.data())
                .key(keys.active())
                .key(keys.scheduled())
                .key(keys.crashes())
                .key(keys.meta(id))
                .key(keys.workers())
                .key(keys.lost())
                .key(keys.cancel());
            for member in &members {
                call.push_key(keys.inflight(member));
            }
            call = call
                .arg(id.to_string())
                .arg(mode)
                .arg(millis(self.settings.result_ttl));
            for member in &members {
                call.push_arg(member);
            }
            let answer: String = call.run_freeing(&self.gate, op).await?;
            return match answer.as_str() {
                "removed" => Ok(Resolution::Removed),
                "running" => Ok(Resolution::Running),
                "done" => Ok(Resolution::Done),
                "unknown" => Ok(Resolution::Unknown),
                "changed" => continue,
                _ => Err(BrokerError::Answer { op }),
            };
        }
        Err(BrokerError::Unsettled { op })
    }

    pub async fn depth(&self, queue: &str) -> Result<Depth, BrokerError> {
        let keys = QueueKeys::new(queue);
        let members = self.members(&keys).await?;
        let census = self.census(&keys, &members).await?;
        let now = self.gate.server_now_ms();
        let oldest_age = census.head.parse::<JobId>().ok().zip(now);
        Ok(Depth {
            active: census.active,
            scheduled: census.scheduled,
            inflight: census.inflight,
            oldest_age: oldest_age
                .map(|(id, now)| Duration::from_millis(now.saturating_sub(id.created_ms()))),
        })
    }

    /// The ones among `ids` that no longer wait or run on this queue's broker: they have ended, or moved to the ledger.
    /// One round trip. A stock worker may leave the data of a job that it ended, so the recorded outcome counts too.
    pub async fn gone_among(&self, queue: &str, ids: &[JobId]) -> Result<Vec<JobId>, BrokerError> {
        let keys = QueueKeys::new(queue);
        let data = keys.data();
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HEXISTS").arg(&data).arg(id.to_string());
            pipe.cmd("HGET").arg(keys.meta(*id)).arg("status");
        }
        let replies: Vec<Option<String>> = self
            .gate
            .run_freeing("broker.gone_among", |mut c| async move {
                pipe.query_async(&mut c).await
            })
            .await?;
        let gone = |reply: &[Option<String>]| match reply {
            [present, status] => {
                present.as_deref() != Some("1") || matches!(status.as_deref(), Some("Done" | "Killed"))
            }
            _ => false,
        };
        let answered = ids.iter().zip(replies.chunks(2));
        Ok(answered
            .filter(|(_, reply)| gone(reply))
            .map(|(id, _)| *id)
            .collect())
    }

    /// The job as it stands on the broker; `None` if it is not here, or no longer remembered.
    pub async fn job(&self, queue: &str, id: JobId) -> Result<Option<BrokerRecord>, BrokerError> {
        let keys = QueueKeys::new(queue);
        let members = self.members(&keys).await?;
        let text = id.to_string();
        let mut pipe = redis::pipe();
        // One transaction: between two reads the job could move.
        pipe.atomic();
        pipe.cmd("HGET").arg(keys.data()).arg(&text);
        pipe.cmd("HGETALL").arg(keys.meta(id));
        pipe.cmd("HGET").arg(keys.crashes()).arg(&text);
        for member in &members {
            pipe.cmd("SISMEMBER").arg(keys.inflight(member)).arg(&text);
        }
        let mut replies: Vec<redis::Value> = self
            .gate
            .run_freeing(
                "broker.job",
                |mut c| async move { pipe.query_async(&mut c).await },
            )
            .await?;
        let holders = replies.split_off(3.min(replies.len()));
        let found: StoredParts = redis::from_redis_value(redis::Value::Array(replies))
            .map_err(|_| BrokerError::Answer { op: "broker.job" })?;
        let holder = members
            .iter()
            .zip(holders)
            .find(|(_, held)| *held == redis::Value::Int(1));
        Ok(found.record(id, holder.map(|(member, _)| member.as_str())))
    }
}

/// Envelope, meta and crashes, as read.
struct StoredParts {
    raw: Option<Vec<u8>>,
    meta: HashMap<String, String>,
    crashes: u32,
}

impl redis::FromRedisValue for StoredParts {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        type Parts = (Option<Vec<u8>>, HashMap<String, String>, Option<i64>);
        let (raw, meta, crashes) = Parts::from_redis_value(value)?;
        let crashes = u32::try_from(crashes.unwrap_or_default().unsigned_abs()).unwrap_or(u32::MAX);
        Ok(Self { raw, meta, crashes })
    }
}

impl StoredParts {
    /// `holder`: the member that holds the job, if one does.
    fn record(self, id: JobId, holder: Option<&str>) -> Option<BrokerRecord> {
        let Self { raw, meta, crashes } = self;
        let place = match (holder, ended(&meta)) {
            (Some(member), _) if raw.is_some() => Place::Running {
                worker: worker(member),
            },
            (_, Some(ended)) => ended,
            (None, None) if raw.is_some() => Place::Waiting,
            _ => return None,
        };
        let envelope: Option<Envelope> = raw.and_then(|raw| serde_json::from_slice(&raw).ok());
        let kind = envelope
            .as_ref()
            .map(|envelope| envelope.kind.clone())
            .or_else(|| meta.get("kind").cloned());
        Some(BrokerRecord {
            id,
            kind,
            place,
            envelope,
            crashes,
        })
    }
}

/// The outcome that a meta tells of, ours or a stock worker's.
fn ended(meta: &HashMap<String, String>) -> Option<Place> {
    let outcome = match (
        meta.get("status")?.as_str(),
        meta.get("outcome").map(String::as_str),
    ) {
        ("Done", _) => EndState::Completed,
        ("Killed", Some("cancelled")) => EndState::Cancelled,
        ("Killed", _) => EndState::Discarded,
        _ => return None,
    };
    let number = |name: &str| meta.get(name).and_then(|text| text.parse::<i64>().ok());
    let told: Option<Result<Box<RawValue>, String>> = meta
        .get("result")
        .and_then(|text| serde_json::from_str(text).ok());
    let (result, error) = match told {
        Some(Ok(value)) => ((value.get() != "null").then_some(value), None),
        Some(Err(error)) => (None, (outcome == EndState::Discarded).then_some(error)),
        None => (None, None),
    };
    Some(Place::Ended {
        outcome,
        attempts: number("attempts")
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        result,
        error,
        at: number("done_at").and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
    })
}
