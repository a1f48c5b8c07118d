//! The keys of what is encrypted at rest, and their rotation.

use std::time::Duration;

use actix_web::web;
use holdfast_http::{Admin, Call, Problem, ProblemKind, Reply, ok};
use holdfast_jobs::audit::{AuditEntry, action};
use holdfast_jobs::rotation::{RotationPosition, RotationReport};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::ControlState;

/// How long one call works before it answers where the next one continues.
const CALL_TIME: Duration = Duration::from_secs(2);

/// A key, without the key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = EncryptionKey)]
pub struct EncryptionKeyView {
    #[schema(example = "2026-11")]
    pub id: String,
    /// It encrypts new values. The others only decrypt.
    pub encrypts: bool,
}

/// What this API process can decrypt.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Encryption)]
pub struct EncryptionView {
    /// Whether there are keys. Without keys values are stored as they are.
    pub enabled: bool,
    pub keys: Vec<EncryptionKeyView>,
    /// Ids of keys that stored values needed within the last ten minutes, and that this process does not have.
    pub missing_keys: Vec<String>,
}

/// Show the encryption keys
///
/// Ids only. The keys of other processes may differ while their environments do.
#[utoipa::path(get, path = "/v1/encryption", tag = "encryption", operation_id = "show_encryption",
    responses((status = 200, body = EncryptionView)))]
pub(crate) async fn show(call: Call<Admin, ControlState>) -> Reply {
    let encryption = call.state().rotation.encryption();
    let keys = encryption.ids().enumerate().map(|(place, id)| EncryptionKeyView {
        id: id.to_owned(),
        encrypts: place == 0,
    });
    ok(&EncryptionView {
        enabled: encryption.is_on(),
        keys: keys.collect(),
        missing_keys: encryption.missing(),
    })
}

/// Where a rotation continues.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RotateEncryption)]
pub struct RotateBody {
    /// The `next` of the response before. Absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 300)]
    pub after: Option<String>,
}

/// What a call of a rotation did.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = EncryptionRotation)]
pub struct RotatedView {
    /// Rows whose values are now encrypted under the first key.
    pub rewritten: u64,
    /// Rows that other transactions held or changed: the next pass looks at them again.
    pub skipped: u64,
    /// Rows whose values could not be decrypted, and stay as they are.
    pub unreadable: Vec<UnreadableView>,
    /// Pass it as `after` to continue. Null: the pass is complete.
    pub next: Option<String>,
}

/// Rows that could not be decrypted for one reason.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = UnreadableValues)]
pub struct UnreadableView {
    pub reason: String,
    pub rows: u64,
}

/// Encrypt stored values under the first key
///
/// Rewrites values that are plain although their kind marks them as secret, and values under another key than the first, at most 100 rows
/// in a transaction. A call works for about two seconds; while `next` is not null, call again with it. A pass may run beside traffic, end
/// anywhere and begin again. Every beat does the same by itself every ten minutes.
#[utoipa::path(post, path = "/v1/encryption/rotate", tag = "encryption", operation_id = "rotate_encryption",
    request_body = RotateBody,
    responses(
        (status = 200, body = RotatedView),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "encryption-off: HOLDFAST_ENCRYPTION_KEYS is not set"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn rotate(call: Call<Admin, ControlState>, payload: web::Payload) -> Reply {
    let body: RotateBody = call.json(payload).await?;
    let from: RotationPosition = match &body.after {
        None => RotationPosition::default(),
        Some(after) => after
            .parse()
            .map_err(|invalid| Problem::field(ProblemKind::InvalidField, "after", format!("{invalid}")))?,
    };
    if !call.state().rotation.encryption().is_on() {
        let reason = "nothing is encrypted: set HOLDFAST_ENCRYPTION_KEYS of all processes, and restart them";
        return Err(Problem::new(ProblemKind::EncryptionOff, reason));
    }
    let by = call.actor();
    let rotated = call.run(move |state| async move {
        let rotated = state.rotation.run(from, CALL_TIME).await?;
        if rotated.rewritten > 0 {
            let key = state.rotation.encryption().ids().next().unwrap_or_default();
            let entry = AuditEntry::new(action::ENCRYPTION_ROTATE)
                .target(key)
                .details(serde_json::json!({ "rewritten": rotated.rewritten }));
            state.jobs.audit().record(&by, &entry).await?;
        }
        Ok::<_, Problem>(rotated)
    });
    ok(&RotatedView::from(rotated.await?))
}

impl From<RotationReport> for RotatedView {
    fn from(rotated: RotationReport) -> Self {
        let unreadable = rotated.unreadable.into_iter();
        Self {
            rewritten: rotated.rewritten,
            skipped: rotated.skipped,
            unreadable: unreadable
                .map(|(reason, rows)| UnreadableView { reason, rows })
                .collect(),
            next: rotated.next.map(|next| next.to_string()),
        }
    }
}
