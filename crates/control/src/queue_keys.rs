//! The limit keys of a queue: listed, and one of them paused or limited for a time.

use std::time::Duration;

use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Admin, Call, Read, Reply, WithQuery, ok};
use holdfast_jobs::limits::{
    KEY_COUNT_CAP, KeyOverride, KeyRule, MAX_KEY_OVERRIDES, MAX_LIMIT_KEY_BYTES, MAX_OVERRIDE_TIME, QueueKey,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::limits::Places;
use crate::queues::known_queue;
use crate::state::ControlState;

/// Keys of one page, unless the request says otherwise.
const PAGE: usize = 50;

/// Most keys of one page.
const MOST: usize = 100;

/// The keys of a queue that wait, run or have an override, in their order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QueueKeys)]
pub struct QueueKeysView {
    pub keys: Vec<QueueKeyView>,
    /// Pass it as `after` to continue. Null: there are no more.
    pub next: Option<String>,
}

/// One `limit_key`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QueueKey)]
pub struct QueueKeyView {
    pub key: String,
    /// Jobs that wait, due or not; 1,000 at most.
    pub waiting: u64,
    /// Jobs that run; 1,000 at most.
    pub running: u64,
    /// There are more than `waiting` or `running` says.
    pub is_capped: bool,
    /// What holds for this key in place of the queue's limit for each key. Null: nothing.
    pub overridden: Option<KeyOverrideView>,
}

/// What holds for one key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = KeyOverride)]
pub struct KeyOverrideView {
    /// None of its jobs starts.
    pub paused: bool,
    /// Jobs of the key that may run concurrently. Null: the key is paused.
    pub max_running: Option<u32>,
    /// Until then.
    pub expires_at: DateTime<Utc>,
}

impl From<KeyOverride> for KeyOverrideView {
    fn from(found: KeyOverride) -> Self {
        let (paused, max_running) = match found.rule {
            KeyRule::Paused => (true, None),
            KeyRule::MaxRunning(most) => (false, Some(most)),
        };
        Self {
            paused,
            max_running,
            expires_at: found.expires_at,
        }
    }
}

impl From<QueueKey> for QueueKeyView {
    fn from(key: QueueKey) -> Self {
        let cap = KEY_COUNT_CAP as u64;
        Self {
            key: key.key,
            is_capped: key.waiting.max(key.running) > cap,
            waiting: key.waiting.min(cap),
            running: key.running.min(cap),
            overridden: key.overridden.map(KeyOverrideView::from),
        }
    }
}

/// What is to hold for one key, and for how long: either `paused` or `max_running`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewKeyOverride, example = json!({"paused": true, "ttl_seconds": 3600}))]
pub struct KeyOverrideBody {
    /// True: no job of the key starts. Running jobs continue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Jobs of the key that run concurrently, in place of the queue's `key_max_running`; more or fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    pub max_running: Option<Places>,
    /// How long it holds: up to 30 days.
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub ttl_seconds: u64,
}

impl KeyOverrideBody {
    fn rule(&self) -> Result<KeyRule, Problem> {
        match (self.paused, self.max_running) {
            (true, None) => Ok(KeyRule::Paused),
            (false, Some(most)) => Ok(KeyRule::MaxRunning(most.0)),
            (true, Some(_)) => Err(invalid(
                "max_running",
                "give either paused or max_running, not both",
            )),
            (false, None) => Err(invalid(
                "paused",
                "give \"paused\": true, or max_running; DELETE ends what holds for the key",
            )),
        }
    }

    fn time(&self) -> Result<Duration, Problem> {
        let most = MAX_OVERRIDE_TIME.as_secs();
        if (1..=most).contains(&self.ttl_seconds) {
            return Ok(Duration::from_secs(self.ttl_seconds));
        }
        Err(invalid("ttl_seconds", format!("must be 1 to {most} (30 days)")))
    }
}

/// A key, and what holds for it now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OverriddenKey {
    pub queue: String,
    pub key: String,
    /// Null: what the queue's limits say.
    pub overridden: Option<KeyOverrideView>,
}

/// List the keys of a queue
///
/// Each `limit_key` of which jobs wait or run, or that has an override, in the order of the keys.
#[utoipa::path(get, path = "/v1/queues/{name}/keys", tag = "queues", operation_id = "list_queue_keys",
    params(
        ("name" = String, Path, description = "A configured or declared queue"),
        ("limit" = Option<u32>, Query, description = "Keys of one page: 1 to 100; default 50"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses(
        (status = 200, body = QueueKeysView),
        (status = 400, description = "invalid-parameter"),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn list(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let name = call.path("name");
    let mut params = call.params(&["limit", "after"]);
    let limit = params.count("limit", 1, MOST).unwrap_or(PAGE);
    let after = params
        .short_text("after", MAX_LIMIT_KEY_BYTES)
        .unwrap_or_default();
    params.finish()?;
    known_queue(call.state(), &name).await?;
    // One more than fits says whether there is a next page.
    let found =
        call.run(move |state| async move { state.jobs.limits().keys(&name, &after, limit + 1).await });
    let mut keys: Vec<QueueKeyView> = found.await?.into_iter().map(QueueKeyView::from).collect();
    let has_more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| has_more).map(|last| last.key.clone());
    ok(&QueueKeysView { keys, next })
}

/// Pause or limit one key of a queue
///
/// For `ttl_seconds`, no job of the key starts (`paused`), or `max_running` of them run concurrently, whatever the queue gives each key; the
/// queue's other limits hold too. It applies from each worker's next claim on, in place of what held for the key before; running jobs
/// continue. While something holds for one of its keys, the keys of a queue take turns as in a queue with limits by key.
#[utoipa::path(put, path = "/v1/queues/{name}/keys/{key}", tag = "queues", operation_id = "override_queue_key",
    request_body = KeyOverrideBody,
    params(
        ("name" = String, Path, description = "A configured or declared queue"),
        ("key" = String, Path, description = "A `limit_key`, whether or not there are jobs with it"),
    ),
    responses(
        (status = 200, body = OverriddenKey),
        (status = 400, description = "malformed-json"),
        (status = 404, description = "queue-not-found"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn put(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let (queue, key) = (call.path("name"), call.path("key"));
    let body: KeyOverrideBody = call.json(payload).await?;
    known_queue(call.state(), &queue).await?;
    check_key(&key)?;
    let (rule, time, by) = (body.rule()?, body.time()?, call.actor());
    let (of, named) = (queue.clone(), key.clone());
    let put = call.run(move |state| async move {
        let admin = state.jobs.steer(&by);
        admin.override_key(&of, &named, rule, time).await
    });
    let put = put.await?.ok_or_else(|| {
        let reason =
            format!("{MAX_KEY_OVERRIDES} other keys of the queue have an override; end some of them");
        invalid("key", reason)
    })?;
    ok(&OverriddenKey {
        queue,
        key,
        overridden: Some(put.into()),
    })
}

/// End what holds for one key
///
/// The queue's limits hold for the key again, immediately. It is no error if nothing held.
#[utoipa::path(delete, path = "/v1/queues/{name}/keys/{key}", tag = "queues", operation_id = "restore_queue_key",
    params(
        ("name" = String, Path, description = "A configured or declared queue"),
        ("key" = String, Path, description = "A `limit_key`"),
    ),
    responses(
        (status = 200, body = OverriddenKey),
        (status = 404, description = "queue-not-found"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn delete(call: Call<Admin, ControlState>) -> Reply {
    let (queue, key) = (call.path("name"), call.path("key"));
    known_queue(call.state(), &queue).await?;
    check_key(&key)?;
    let (by, of, named) = (call.actor(), queue.clone(), key.clone());
    let ended = call.run(move |state| async move { state.jobs.steer(&by).end_override(&of, &named).await });
    ended.await?;
    ok(&OverriddenKey {
        queue,
        key,
        overridden: None,
    })
}

/// As a job may have it.
fn check_key(key: &str) -> Result<(), Problem> {
    if (1..=MAX_LIMIT_KEY_BYTES).contains(&key.len()) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    let reason = format!("must have 1 to {MAX_LIMIT_KEY_BYTES} bytes, and no control characters");
    Err(invalid("key", reason))
}

fn invalid(field: &str, reason: impl Into<String>) -> Problem {
    Problem::field(ProblemKind::InvalidField, field, reason)
}
