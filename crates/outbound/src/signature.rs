//! Signatures of requests, as [Standard Webhooks](https://www.standardwebhooks.com) specifies them: the one place that signs.
//!
//! A request carries `webhook-id`, `webhook-timestamp` (seconds since the epoch, of this attempt) and `webhook-signature`: for each
//! secret that signs now, `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, separated by spaces. So a receiver may
//! hold the old secret or the new one during a rotation.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_core::clock;
use holdfast_jobs::JobError;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{Webhook, WebhookError};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a secret that is made here. Standard Webhooks asks for 24 to 64.
const FRESH_BYTES: usize = 32;
const MIN_BYTES: usize = 24;
const MAX_BYTES: usize = 64;

/// A text is not a signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be whsec_ and the base64 of {MIN_BYTES} to {MAX_BYTES} random bytes; leave it out to get one")]
pub struct InvalidSecret;

/// `whsec_` and base64, as Standard Webhooks writes it.
#[derive(Clone)]
pub struct SigningSecret(SecretString);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

impl SigningSecret {
    /// From the system's random numbers.
    pub fn generate() -> Self {
        let key: [u8; FRESH_BYTES] = rand::random();
        Self(format!("{PREFIX}{}", BASE64.encode(key)).into())
    }

    pub fn parse(text: &SecretString) -> Result<Self, InvalidSecret> {
        let bytes = text
            .expose_secret()
            .strip_prefix(PREFIX)
            .and_then(|rest| BASE64.decode(rest).ok())
            .ok_or(InvalidSecret)?;
        if (MIN_BYTES..=MAX_BYTES).contains(&bytes.len()) {
            return Ok(Self(text.clone()));
        }
        Err(InvalidSecret)
    }

    /// What the table holds.
    pub fn stored(text: String) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// One entry of `webhook-signature`: `v1,` and base64.
    fn sign(&self, message: &str, timestamp: i64, body: &[u8]) -> Result<String, WebhookError> {
        Webhook::new(self.expose())?.sign(message, timestamp, body)
    }
}

/// The headers of a request that is sent now.
///
/// # Errors
/// A stored secret is damaged, or the id cannot be a header's value. Both stay as they are.
pub fn signed_headers<'s>(
    id: &str,
    secrets: impl IntoIterator<Item = &'s SigningSecret>,
    body: &[u8],
) -> Result<HeaderMap, JobError> {
    let sent_at = clock::now().timestamp();
    let signatures = secrets
        .into_iter()
        .map(|secret| secret.sign(id, sent_at, body))
        .collect::<Result<Vec<_>, _>>()
        .map_err(JobError::permanent)?;
    let text = |text: &str| HeaderValue::from_str(text).map_err(JobError::permanent);
    Ok(HeaderMap::from_iter([
        (WEBHOOK_ID, text(id)?),
        (WEBHOOK_TIMESTAMP, HeaderValue::from(sent_at)),
        (WEBHOOK_SIGNATURE, text(&signatures.join(" "))?),
    ]))
}

/// Whether a header belongs to the signature.
pub fn is_of_signature(name: &HeaderName) -> bool {
    [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE].contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_parsed_and_never_shown() {
        let fresh = SigningSecret::generate();
        assert!(SigningSecret::parse(&fresh.0).is_ok());
        assert!(!format!("{fresh:?}").contains(fresh.expose()));
        let of = |bytes: usize| format!("{PREFIX}{}", BASE64.encode(vec![7; bytes]));
        for odd in [
            String::new(),
            "whsec_".to_owned(),
            "whsec_not base64".to_owned(),
            fresh.expose().replace(PREFIX, ""),
            of(23),
            of(65),
        ] {
            assert_eq!(
                SigningSecret::parse(&odd.clone().into()).err(),
                Some(InvalidSecret),
                "{odd}"
            );
        }
        assert!(SigningSecret::parse(&of(24).into()).is_ok());
        assert!(SigningSecret::parse(&of(64).into()).is_ok());
    }

    /// The example of the specification.
    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        let secret = SigningSecret::stored("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signature.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}
