//! Signing keys over HTTP, for admins.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use holdfast_http::body::fields::{Seconds, optional_secret};
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Admin, Call, Reply, ServerContext, json, ok};
use holdfast_outbound::SigningSecret;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{SigningKey, SigningKeyError, SigningKeyId, SigningKeyProblem, SigningKeys};

/// How long the key before a rotation signs too, unless the request says otherwise: enough to deploy the new one.
const DEFAULT_GRACE: Duration = Duration::from_hours(24);

holdfast_http::routes! {
    /// Their state is [`SigningKeysState`].
    pub ROUTES:
    "/v1/signing-keys" => { GET list, POST create }
    "/v1/signing-keys/rotate" => { POST rotate }
    "/v1/signing-keys/{id}" => { DELETE delete }
}

/// The state of [`ROUTES`].
#[derive(Debug, Clone)]
pub struct SigningKeysState {
    pub http: Arc<ServerContext>,
    pub keys: SigningKeys,
}

impl From<SigningKeyError> for Problem {
    fn from(error: SigningKeyError) -> Self {
        let text = error.to_string();
        match error {
            SigningKeyError::InvalidSecret(_) => Self::field(ProblemKind::InvalidField, "secret", text),
            SigningKeyError::GraceTooLong => Self::field(ProblemKind::InvalidField, "grace_seconds", text),
            SigningKeyError::Unknown(_) => Self::field(SigningKeyProblem::SigningKeyNotFound, "id", text),
            SigningKeyError::Exists => Self::new(SigningKeyProblem::SigningKeyExists, text),
            SigningKeyError::Sql(error) => error.into(),
        }
    }
}

/// The keys that sign now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SigningKeyList {
    /// The current key first; empty if there is none.
    pub keys: Vec<SigningKey>,
}

/// The first signing key.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSigningKey {
    /// Your own secret: `whsec_` and the base64 of 24 to 64 random bytes. Default: a generated one.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    secret: Option<SecretString>,
}

/// How the signing key is rotated.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SigningKeyRotation)]
pub struct RotateSigningKey {
    /// How long the previous key signs too, in seconds, 0 to 2592000; default: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 2_592_000)]
    pub grace_seconds: Option<Seconds>,
    /// Your own secret. Default: a generated one.
    #[serde(default, deserialize_with = "optional_secret", skip_serializing)]
    #[schema(value_type = Option<String>, format = Password)]
    pub secret: Option<SecretString>,
}

impl fmt::Debug for RotateSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateSigningKey")
            .field("grace_seconds", &self.grace_seconds)
            .finish_non_exhaustive()
    }
}

/// A signing key with its secret, which is shown once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct SigningKeyWithSecret {
    pub key: SigningKey,
    /// What receivers verify signatures with: `whsec_` and base64.
    pub secret: String,
}

impl fmt::Debug for SigningKeyWithSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeyWithSecret")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl SigningKeyWithSecret {
    fn of((key, secret): (SigningKey, SigningSecret)) -> Self {
        Self {
            key,
            secret: secret.expose().to_owned(),
        }
    }
}

/// A deleted signing key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DeletedSigningKey {
    #[schema(value_type = String)]
    id: SigningKeyId,
    deleted: bool,
}

/// List signing keys
///
/// The key that signs `http.request` jobs with `sign`, and the one before it while that one signs too; without their
/// secrets.
#[utoipa::path(get, path = "/v1/signing-keys", tag = "signing keys", operation_id = "list_signing_keys",
    responses((status = 200, body = SigningKeyList)))]
pub(crate) async fn list(call: Call<Admin, SigningKeysState>) -> Reply {
    let keys = call.run(|state| async move { state.keys.list().await });
    ok(&SigningKeyList { keys: keys.await? })
}

/// Create the signing key
///
/// An installation has one; the secret is shown only in this response. Requests are signed as Standard Webhooks
/// specifies: verify them with one of the libraries of <https://www.standardwebhooks.com>.
#[utoipa::path(post, path = "/v1/signing-keys", tag = "signing keys", operation_id = "create_signing_key",
    request_body = NewSigningKey,
    responses(
        (status = 201, body = SigningKeyWithSecret),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "signing-key-exists"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn create(call: Call<Admin, SigningKeysState>, payload: web::Payload) -> Reply {
    let body: NewSigningKey = call.json(payload).await?;
    let by = call.actor();
    let made = call.run(move |state| async move { state.keys.create(&by, body.secret.as_ref()).await });
    json(StatusCode::CREATED, &SigningKeyWithSecret::of(made.await?))
}

/// Rotate the signing key
///
/// The new secret is shown only in this response. During the grace period every request carries the signatures of both
/// keys, so receivers can switch at any time. A key from before an earlier rotation ends now. Workers use the new key
/// within a second.
#[utoipa::path(post, path = "/v1/signing-keys/rotate", tag = "signing keys", operation_id = "rotate_signing_key",
    request_body = RotateSigningKey,
    responses(
        (status = 200, body = SigningKeyWithSecret),
        (status = 400, description = "malformed-json"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn rotate(call: Call<Admin, SigningKeysState>, payload: web::Payload) -> Reply {
    let body: RotateSigningKey = call.json(payload).await?;
    let grace = body.grace_seconds.map_or(DEFAULT_GRACE, |seconds| seconds.0);
    let by = call.actor();
    let made =
        call.run(move |state| async move { state.keys.rotate(&by, body.secret.as_ref(), grace).await });
    ok(&SigningKeyWithSecret::of(made.await?))
}

/// Delete a signing key
///
/// It signs no more, within a second. Without a current key, attempts of jobs that are to be signed fail and are retried.
#[utoipa::path(delete, path = "/v1/signing-keys/{id}", tag = "signing keys", operation_id = "delete_signing_key",
    params(("id" = String, Path, description = "The key's id")),
    responses(
        (status = 200, body = DeletedSigningKey),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "signing-key-not-found"),
    ))]
pub(crate) async fn delete(call: Call<Admin, SigningKeysState>) -> Reply {
    let (id, by) = (call.id()?, call.actor());
    call.run(move |state| async move { state.keys.delete(&by, id).await })
        .await?;
    ok(&DeletedSigningKey { id, deleted: true })
}
