//! Invitations: a link with which a user sets a password without having one.
//!
//! # States
//! A link is *valid* until its user is changed in any way (password, role, enabled, deleted) or [`INVITATION_LIFETIME`] has passed.
//! Nothing is stored for it: the token contains the user's id and the time, signed with the stored hash of the password (a random salt
//! and 256 bits that only the database has) over the user's `token_version`. A newer link does not end an older one; using either ends
//! both.
//!
//! # Invariants
//! - A link works once. The new password is written only if the version is still the one that the link was signed for, so that of two
//!   requests with the same link one changes the password.
//! - A disabled user has no valid link, and is not enabled by one.
//!
//! # When things fail
//! *SQL is unavailable*: no link is made or accepted. A mail that arrives too late contains a link that no longer works; an admin sends
//! another one.

use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use holdfast_core::clock;
use holdfast_jobs::audit::{Actor, AuditContext};
use secrecy::SecretString;
use sha2::Sha256;
use ulid::Ulid;

use super::store::Change;
use super::{Role, User, UserError, UserId, Users, text};
use crate::secret;

/// How long a link is valid.
pub const INVITATION_LIFETIME: Duration = Duration::from_hours(48);

/// Bytes of a token: the user, until when in seconds, and the signature of both.
const USER: usize = 16;
const SIGNED: usize = USER + 8;
const TOKEN: usize = SIGNED + 32;

impl Users {
    /// Creates a user with a random password that is not stored in plain text: the user chooses one by an invitation.
    pub async fn create_without_password(
        &self,
        name: &str,
        role: Role,
        by: &AuditContext,
    ) -> Result<User, UserError> {
        self.create(name, role, &secret::generate(), by).await
    }

    /// The enabled user with this id or name, and the token of a link. `None`: there is no such user.
    pub async fn invite(&self, name_or_id: &str) -> Result<Option<(User, SecretString)>, UserError> {
        let Some((user, hash)) = self.named_with_hash(name_or_id).await? else {
            return Ok(None);
        };
        let until = clock::unix_millis() / 1_000 + INVITATION_LIFETIME.as_secs();
        let mut token = Vec::with_capacity(TOKEN);
        token.extend_from_slice(&user.id.as_ulid().to_bytes());
        token.extend_from_slice(&until.to_be_bytes());
        let Some(mac) = mac(&hash, &user, &token) else {
            return Ok(None);
        };
        token.extend_from_slice(&mac.finalize().into_bytes());
        let text = token.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
            hex
        });
        Ok(Some((user, SecretString::from(text))))
    }

    /// The user to whom a link belongs. `None`: it is not valid.
    pub async fn invited(&self, token: &str) -> Result<Option<User>, UserError> {
        let Some(token) = bytes_of(token) else {
            return Ok(None);
        };
        let (signed, signature) = token.split_at(SIGNED);
        let (id, until) = signed.split_at(USER);
        let (Ok(id), Ok(until)) = (id.try_into(), until.try_into()) else {
            return Ok(None);
        };
        if clock::unix_millis() / 1_000 > u64::from_be_bytes(until) {
            return Ok(None);
        }
        let id = UserId::from_ulid(Ulid::from_bytes(id));
        let Some((user, hash)) = self.store().get_with_hash(id).await? else {
            return Ok(None);
        };
        let is_signed = mac(&hash, &user, signed).is_some_and(|mac| mac.verify_slice(signature).is_ok());
        Ok(Some(user).filter(|user| is_signed && user.disabled_at.is_none()))
    }

    /// Sets the password of the user to whom a link belongs, as an action of that user. `None`: the link is not valid.
    pub async fn accept_invitation(
        &self,
        token: &str,
        password: &SecretString,
        request_id: Option<&str>,
    ) -> Result<Option<User>, UserError> {
        let Some(user) = self.invited(token).await? else {
            return Ok(None);
        };
        if !text::is_acceptable(password) {
            return Err(UserError::InvalidPassword);
        }
        let hash = self.hasher.hash(&text::prepared(password)).await?;
        let by = AuditContext::new(Actor::user(user.id));
        let by = match request_id {
            Some(id) => by.in_request(id),
            None => by,
        };
        let change = Change::InvitedPassword {
            hash,
            version: user.token_version,
        };
        Ok(self.store().change(&user.name, &change, &by).await?)
    }
}

/// Over the token's first part and the user's version, under the hash of the user's password.
fn mac(hash: &str, user: &User, signed: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(hash.as_bytes()).ok()?;
    mac.update(b"invitation");
    mac.update(&user.token_version.to_be_bytes());
    mac.update(signed);
    Some(mac)
}

fn bytes_of(token: &str) -> Option<Vec<u8>> {
    if token.len() != 2 * TOKEN || !token.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(token.get(at..at + 2)?, 16).ok();
    (0..token.len()).step_by(2).map(byte).collect()
}
