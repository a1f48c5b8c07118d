//! The secret of an endpoint, and what it signs.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{Webhook, WebhookError};

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a secret that is made here. Standard Webhooks asks for 24 to 64.
const FRESH_BYTES: usize = 32;
const MIN_BYTES: usize = 24;
const MAX_BYTES: usize = 64;

/// A text is no secret of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be whsec_ and the base64 of {MIN_BYTES} to {MAX_BYTES} random bytes; leave it out to get one")]
pub struct InvalidSecret;

/// `whsec_` and base64, as Standard Webhooks writes it.
#[derive(Clone)]
pub struct WebhookSecret(SecretString);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

impl WebhookSecret {
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
    pub(super) fn stored(text: String) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// One entry of `webhook-signature`: `v1,` and base64.
    pub(super) fn sign(&self, message: &str, timestamp: i64, body: &[u8]) -> Result<String, WebhookError> {
        Webhook::new(self.expose())?.sign(message, timestamp, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_parsed_and_never_shown() {
        let fresh = WebhookSecret::generate();
        assert!(WebhookSecret::parse(&fresh.0).is_ok());
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
                WebhookSecret::parse(&odd.clone().into()).err(),
                Some(InvalidSecret),
                "{odd}"
            );
        }
        assert!(WebhookSecret::parse(&of(24).into()).is_ok());
        assert!(WebhookSecret::parse(&of(64).into()).is_ok());
    }

    /// The example of the specification.
    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        let secret = WebhookSecret::stored("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
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
