//! Where commands about jobs go: to an API, or straight to the database. The database's answers have fewer fields
//! (`jobs show --json` lacks `durability`, `queues list --json` lacks limits and rates).

use std::time::Duration;

use holdfast_core::config::Durability;
use holdfast_core::redis::RedisGate;
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::enqueue::{Enqueued, JobRequest};
use holdfast_jobs::ledger::{CancelReply, JobFilter, JobRecord, RetryReply};
use holdfast_jobs::{JobId, Jobs, State};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use url::Url;

use crate::client::Api;
use crate::failure::Failure;
use crate::local::{self, Local};

/// One long poll of an API; longer waits are several. Below the idle limit of common proxies.
pub const LONGEST_POLL: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub enum Target {
    Api(Api),
    Database { jobs: Jobs, gate: RedisGate },
}

/// An accepted job.
#[derive(Debug)]
pub struct Accepted {
    pub id: JobId,
    /// As the API words it.
    pub document: Value,
}

/// What became of a request to cancel or retry, as the API words it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Steered {
    pub id: JobId,
    /// The job's current state. `running` after a cancellation: it was asked to stop.
    pub state: State,
}

impl Target {
    /// The API at `url`, or without one the database that the configuration names.
    pub async fn open(url: Option<&Url>, key: Option<&SecretString>) -> Result<Self, Failure> {
        if let Some(url) = url {
            return Ok(Self::Api(Api::new(url.clone(), key)?));
        }
        let (jobs, gate) = Local::open().await?.jobs().await?;
        Ok(Self::Database { jobs, gate })
    }

    pub async fn enqueue(&self, request: JobRequest) -> Result<Accepted, Failure> {
        let document = match self {
            Self::Api(api) => {
                let key = request.idempotency_key.clone();
                api.post_json(&["v1", "jobs"], &body_of(&request), key.as_deref())
                    .await?
            }
            Self::Database { jobs, gate } => {
                let accepted = jobs.enqueue_request(request).await?;
                local::let_the_bell_ring(gate).await;
                accepted_document(&accepted)
            }
        };
        Accepted::of(document)
    }

    /// The job; after a wait, once it is final or the limit has passed.
    pub async fn show(&self, id: JobId, wait: Option<Duration>) -> Result<Option<Value>, Failure> {
        match self {
            Self::Api(api) => poll(api, id, wait.unwrap_or_default()).await,
            Self::Database { jobs, .. } => {
                let record = match wait {
                    Some(limit) => jobs.wait(id, limit).await?,
                    None => jobs.get(id).await?,
                };
                record.as_ref().map(document_of).transpose()
            }
        }
    }

    pub async fn list(&self, filter: &JobFilter) -> Result<Vec<Value>, Failure> {
        match self {
            Self::Api(api) => {
                let page = api
                    .get(&["v1", "jobs"], &query_of(filter), Duration::ZERO)
                    .await?;
                match page.and_then(|mut page| page.get_mut("jobs").map(Value::take)) {
                    Some(Value::Array(jobs)) => Ok(jobs),
                    _ => Err(Failure::no("the answer is not a page of jobs")),
                }
            }
            Self::Database { jobs, .. } => jobs.list(filter).await?.iter().map(document_of).collect(),
        }
    }

    /// `None`: there is no such job.
    pub async fn cancel(&self, id: JobId) -> Result<Option<Steered>, Failure> {
        let state = match self {
            Self::Api(api) => return steer(api, id, "cancel").await,
            Self::Database { jobs, .. } => match jobs.steer(&By::new(Actor::cli())).cancel(id).await? {
                None => return Ok(None),
                Some(CancelReply::Cancelled | CancelReply::AlreadyFinal(State::Cancelled)) => {
                    State::Cancelled
                }
                Some(CancelReply::Requested) => State::Running,
                Some(CancelReply::AlreadyFinal(state)) => {
                    let reason =
                        format!("the job is {state}; only a job that has not ended can be cancelled");
                    return Err(Failure::no(reason));
                }
            },
        };
        Ok(Some(Steered { id, state }))
    }

    /// `None`: there is no such job.
    pub async fn retry(&self, id: JobId) -> Result<Option<Steered>, Failure> {
        match self {
            Self::Api(api) => steer(api, id, "retry").await,
            Self::Database { jobs, gate } => match jobs.steer(&By::new(Actor::cli())).retry(id).await? {
                None => Ok(None),
                Some(RetryReply::Available { .. }) => {
                    local::let_the_bell_ring(gate).await;
                    Ok(Some(Steered {
                        id,
                        state: State::Available,
                    }))
                }
                Some(RetryReply::Refused(state)) => {
                    let reason =
                        format!("the job is {state}; only a job that waits or is discarded can be retried");
                    Err(Failure::no(reason))
                }
                Some(RetryReply::UniqueKeyTaken) => Err(Failure::no(RetryReply::UNIQUE_KEY_TAKEN)),
            },
        }
    }
}

impl Accepted {
    pub fn of(document: Value) -> Result<Self, Failure> {
        let id = document.get("id").map(JobId::deserialize);
        match id {
            Some(Ok(id)) => Ok(Self { id, document }),
            _ => Err(Failure::no("the answer names no job")),
        }
    }

    pub fn text(&self) -> String {
        let field = |name: &str| {
            self.document
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or("?")
                .to_owned()
        };
        let accepted = match self.document.get("duplicate") {
            Some(Value::Bool(true)) => "stands already",
            _ => "accepted",
        };
        let (kind, queue, state, durability) =
            (field("kind"), field("queue"), field("state"), field("durability"));
        format!(
            "{} {accepted}: {kind} on {queue}, {state} ({durability})",
            self.id
        )
    }
}

/// Long-polls until the job is final or `limit` has passed.
async fn poll(api: &Api, id: JobId, limit: Duration) -> Result<Option<Value>, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let wait = deadline
            .saturating_duration_since(Instant::now())
            .min(LONGEST_POLL);
        let query = [("wait", wait.as_secs_f64().to_string())];
        let query = if wait.is_zero() { &query[..0] } else { &query[..] };
        let job = api.get(&["v1", "jobs", &id.to_string()], query, wait).await?;
        let state = job
            .as_ref()
            .and_then(|job| job.get("state"))
            .map(State::deserialize);
        let is_over = !matches!(state, Some(Ok(state)) if !state.is_final());
        if is_over || wait.is_zero() {
            return Ok(job);
        }
    }
}

async fn steer(api: &Api, id: JobId, verb: &str) -> Result<Option<Steered>, Failure> {
    let Some(answer) = api.post(&["v1", "jobs", &id.to_string(), verb]).await? else {
        return Ok(None);
    };
    let steered = Steered::deserialize(answer);
    steered
        .map(Some)
        .map_err(|error| Failure::no(format!("the answer names no state: {error}")))
}

/// A request as the API reads it.
fn body_of(request: &JobRequest) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            body.insert(name.to_owned(), value);
        }
    };
    set("kind", json!(request.kind));
    set("queue", json!(request.queue));
    set("run_at", json!(request.run_at));
    set(
        "delay_seconds",
        json!(request.delay.map(|delay| delay.as_secs_f64())),
    );
    set("priority", json!(request.priority));
    set("max_attempts", json!(request.max_attempts));
    set(
        "timeout_seconds",
        json!(request.timeout.map(|timeout| timeout.as_secs_f64())),
    );
    set("unique_key", json!(request.unique_key));
    // The payload may be null, and must then be said.
    body.insert("payload".to_owned(), json!(request.payload));
    Value::Object(body)
}

pub fn accepted_document(accepted: &Enqueued) -> Value {
    let durability = match accepted.durability {
        Durability::Ledger => "ledger",
        Durability::Redis => "redis",
    };
    json!({
        "id": accepted.id,
        "kind": accepted.kind,
        "queue": accepted.queue,
        "state": accepted.state,
        "durability": durability,
        "duplicate": accepted.duplicate,
    })
}

fn query_of(filter: &JobFilter) -> Vec<(&'static str, String)> {
    let given = [
        ("queue", filter.queue.clone()),
        ("state", filter.state.map(|state| state.to_string())),
        ("kind", filter.kind.clone()),
        ("batch", filter.batch.map(|id| id.to_string())),
        ("after", filter.after.map(|id| id.to_string())),
        ("limit", Some(filter.limit.to_string())),
    ];
    given
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn document_of(record: &JobRecord) -> Result<Value, Failure> {
    serde_json::to_value(record).map_err(|error| Failure::no(format!("the job cannot be shown: {error}")))
}
