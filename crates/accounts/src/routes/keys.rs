//! API keys over HTTP, for admins. A key's text is in the answer that makes it, and in no other.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use holdfast_http::body::fields::Seconds;
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Admin, Call, Reply, Scope, Scopes, json, ok};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::keys::bounds::binding_of;
use crate::keys::{KeyError, KeyId, NewKey, StoredKey};
use crate::state::AccountsState;

/// How long the text before works after a rotation that does not say: an hour is enough to deploy the new one.
const DEFAULT_GRACE: Duration = Duration::from_hours(1);

/// Every key, revoked ones included.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ApiKeyList)]
pub struct KeyList {
    pub keys: Vec<StoredKey>,
}

/// A key to be created.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey, example = json!({"name": "shop", "scopes": ["produce", "read"]}))]
pub struct KeyBody {
    /// The owner's name, shown in logs. Never used twice.
    #[schema(max_length = 100)]
    pub name: String,
    /// `produce`, `work`, `read`, `read:payload`, `admin`; at least one.
    pub scopes: Vec<String>,
    /// The only queues that the key may be used for. Default: any. Not with `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 100)]
    pub queues: Option<Vec<String>>,
    /// The only kinds that the key may be used for. Default: any. Not with `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 100)]
    pub kinds: Option<Vec<String>>,
}

/// How a key is rotated.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyRotation)]
pub struct RotationBody {
    /// How long the previous key stays valid, in seconds, 0 to 2592000; default: an hour.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 2_592_000)]
    pub grace_seconds: Option<Seconds>,
}

/// A key with its text, which is shown once.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ApiKeyWithText)]
pub struct KeyWithText {
    #[schema(value_type = String)]
    pub id: KeyId,
    pub name: String,
    #[schema(value_type = Vec<String>)]
    pub scopes: Scopes,
    /// The only queues that it may be used for. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<String>>,
    /// The only kinds that it may be used for. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// Send it as `Authorization: Bearer <key>`.
    pub key: String,
}

impl std::fmt::Debug for KeyWithText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyWithText")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl From<NewKey> for KeyWithText {
    fn from(key: NewKey) -> Self {
        let binding = key.binding.unwrap_or_default();
        let named = |names: std::collections::BTreeSet<String>| {
            (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>())
        };
        Self {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            queues: named(binding.queues),
            kinds: named(binding.kinds),
            key: key.secret.expose_secret().to_owned(),
        }
    }
}

/// List API keys
///
/// Every key, revoked ones included, oldest first, without its secret. `last_used_at` is accurate to about a
/// minute.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    responses(
        (status = 200, body = KeyList),
    ))]
pub(crate) async fn list(call: Call<Admin, AccountsState>) -> Reply {
    let keys = call.run(|state| async move { state.keys.list().await });
    ok(&KeyList { keys: keys.await? })
}

/// Create an API key
///
/// The key is valid immediately. It is shown only in this response. A key with `queues` or `kinds` is bound: it enqueues, pulls and shows
/// jobs of these alone, and routes that are about other things refuse it (403 `key-bound`).
#[utoipa::path(post, path = "/v1/keys", tag = "keys", operation_id = "create_key", request_body = KeyBody,
    responses(
        (status = 201, body = KeyWithText),
        (status = 409, description = "name-taken"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn create(call: Call<Admin, AccountsState>, payload: web::Payload) -> Reply {
    let body: KeyBody = call.json(payload).await?;
    let (scopes, by) = (scopes(&body.scopes)?, call.actor());
    let binding = binding_of(body.queues, body.kinds, scopes)
        .map_err(|(field, reason)| Problem::from(KeyError::InvalidBinding { field, reason }))?;
    let key =
        call.run(move |state| async move { state.keys.create_bound(&body.name, scopes, binding, &by).await });
    json(StatusCode::CREATED, &KeyWithText::from(key.await?))
}

/// Rotate an API key
///
/// Replaces the secret of the key, which is shown only in this response. The previous one stays valid for the
/// grace period, and at most ten seconds longer; an older one becomes invalid now.
#[utoipa::path(post, path = "/v1/keys/{id}/rotate", tag = "keys", operation_id = "rotate_key",
    params(("id" = String, Path, description = "The key's id or name")),
    request_body = RotationBody,
    responses(
        (status = 200, body = KeyWithText),
        (status = 404, description = "key-not-found"),
        (status = 409, description = "key-revoked"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn rotate(call: Call<Admin, AccountsState>, payload: web::Payload) -> Reply {
    let body: RotationBody = call.json(payload).await?;
    let grace = body.grace_seconds.map_or(DEFAULT_GRACE, |seconds| seconds.0);
    let (name, by) = (call.path("id"), call.actor());
    let key = call.run(move |state| async move { state.keys.rotate(&name, grace, &by).await });
    let key = key.await?.ok_or_else(|| unknown(&call.path("id")))?;
    ok(&KeyWithText::from(key))
}

/// Revoke an API key
///
/// Every server refuses the key within ten seconds. Revoking it again changes nothing.
#[utoipa::path(post, path = "/v1/keys/{id}/revoke", tag = "keys", operation_id = "revoke_key",
    params(("id" = String, Path, description = "The key's id or name")),
    responses(
        (status = 200, body = StoredKey),
        (status = 404, description = "key-not-found"),
    ))]
pub(crate) async fn revoke(call: Call<Admin, AccountsState>) -> Reply {
    let (name, by) = (call.path("id"), call.actor());
    let key = call.run(|state| async move { state.keys.revoke(&name, &by).await });
    ok(&key.await?.ok_or_else(|| unknown(&call.path("id")))?)
}

fn scopes(names: &[String]) -> Result<Scopes, Problem> {
    let refused = |reason: String| Problem::field(ProblemKind::InvalidField, "scopes", reason);
    let scopes = names
        .iter()
        .map(|name| name.parse::<Scope>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refused(error.to_string()))?;
    Scopes::of(scopes)
        .ok_or_else(|| refused("name at least one of produce, work, read, read:payload, admin".to_owned()))
}

fn unknown(name: &str) -> Problem {
    Problem::field(
        ProblemKind::KeyNotFound,
        "id",
        format!("no key has the id or the name {}", quote(name)),
    )
}
