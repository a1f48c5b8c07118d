//! What bounds a queue over all of its workers, changed while it runs.

use std::borrow::Cow;
use std::fmt;

use actix_web::web;
use holdfast_core::config::{Durability, Rate, check_max_running};
use holdfast_http::{Admin, Call, Problem, ProblemKind, Reply, ok};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::limits::{LimitsInForce, QueueLimits};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::queues::{self, known_queue};
use crate::state::ControlState;

/// A number of places, never zero.
#[derive(Debug, Clone, Copy)]
pub struct Places(pub u32);

impl Serialize for Places {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsPlaces;

        impl Visitor<'_> for AsPlaces {
            type Value = Places;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1, or null for no limit")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Places, E> {
                check_max_running(number).map(Places).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(AsPlaces)
    }
}

/// The complete limits: what is absent or null is not limited.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewQueueLimits, example = json!({"key_max_running": 1, "rate": "100/60s"}))]
pub struct LimitsBody {
    /// Jobs of the queue that run concurrently, over all workers.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    pub max_running: Option<Places>,
    /// Jobs of the queue that start in a period, over all workers: `100/60s` allows 100 immediately, and 100 a
    /// minute over a longer time.
    #[schema(value_type = Option<String>, example = "100/60s")]
    pub rate: Option<Rate>,
    /// Jobs that run concurrently for each `limit_key`.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    pub key_max_running: Option<Places>,
    /// Jobs that start in a period for each `limit_key`.
    #[schema(value_type = Option<String>, example = "10/1s")]
    pub key_rate: Option<Rate>,
}

impl From<LimitsBody> for QueueLimits {
    fn from(body: LimitsBody) -> Self {
        Self {
            max_running: body.max_running.map(|places| places.0),
            rate: body.rate,
            key_max_running: body.key_max_running.map(|places| places.0),
            key_rate: body.key_rate,
        }
    }
}

/// The limits in force. Null: no limit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QueueLimits)]
pub struct LimitsView {
    pub max_running: Option<u32>,
    pub rate: Option<String>,
    pub key_max_running: Option<u32>,
    pub key_rate: Option<String>,
    /// `api`: set over the API. `configuration`: the workers' configuration.
    pub source: Cow<'static, str>,
}

impl From<LimitsInForce> for LimitsView {
    fn from(limits: LimitsInForce) -> Self {
        let QueueLimits {
            max_running,
            rate,
            key_max_running,
            key_rate,
        } = limits.effective();
        Self {
            max_running,
            rate: rate.map(|rate| rate.to_string()),
            key_max_running,
            key_rate: key_rate.map(|rate| rate.to_string()),
            source: if limits.overridden.is_some() {
                "api".into()
            } else {
                "configuration".into()
            },
        }
    }
}

/// The result of a request to limit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitedQueue {
    pub name: String,
    pub limits: LimitsView,
}

/// Limit a queue
///
/// Sets the queue's limits over all workers, in place of the configured ones. They apply from each worker's
/// next claim on; running jobs continue. They survive restarts. A `redis` queue takes limits only if its
/// configuration names some, because the broker supports none.
#[utoipa::path(put, path = "/v1/queues/{name}/limits", tag = "queues", operation_id = "limit_queue",
    request_body = LimitsBody,
    params(("name" = String, Path, description = "A configured or declared queue")),
    responses(
        (status = 200, body = LimitedQueue),
        (status = 400, description = "malformed-json"),
        (status = 404, description = "queue-not-found"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn set(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let name = call.path("name");
    let body: LimitsBody = call.json(payload).await?;
    known_queue(call.state(), &name).await?;
    let limits = QueueLimits::from(body);
    check_durability(call.state(), &name, &limits)?;
    apply(&call, name, Some(limits)).await
}

/// Restore a queue's configured limits
///
/// Removes the limits that were set over the API; the configured ones apply again.
#[utoipa::path(delete, path = "/v1/queues/{name}/limits", tag = "queues", operation_id = "unlimit_queue",
    params(("name" = String, Path, description = "A configured or declared queue")),
    responses(
        (status = 200, body = LimitedQueue),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn unset(call: Call<Admin, ControlState>) -> Reply {
    let name = call.path("name");
    known_queue(call.state(), &name).await?;
    apply(&call, name, None).await
}

/// Jobs on the broker pass by every limit. Where the configuration names limits, new jobs go to the ledger.
fn check_durability(state: &ControlState, name: &str, limits: &QueueLimits) -> Result<(), Problem> {
    let bypassed = state
        .jobs
        .queues()
        .get(name)
        .is_some_and(|queue| queue.durability == Durability::Redis && queue.limits.is_empty());
    if bypassed && !limits.is_empty() {
        let reason = "the jobs of this queue live on the broker, which knows no limits; name some in its configuration, \
                      or make its durability \"ledger\"";
        return Err(Problem::field(ProblemKind::InvalidField, "name", reason));
    }
    Ok(())
}

async fn apply(call: &Call<Admin, ControlState>, name: String, limits: Option<QueueLimits>) -> Reply {
    let (by, queue) = (call.actor(), name.clone());
    let in_force = call.run(|state| async move {
        state.jobs.steer(&by).limit(&queue, limits.as_ref()).await?;
        Ok::<_, LedgerError>(state.jobs.limits().all().await?.remove(&queue))
    });
    let limits = LimitsView::from(in_force.await?.unwrap_or_default());
    call.context().responses.forget(&queues::CACHED).await;
    ok(&LimitedQueue { name, limits })
}
