//! Session tokens: JSON Web Tokens, signed with HS256 and nothing else.
//!
//! The `jsonwebtoken` crate is built without a backend; the one below knows HS256 alone. So a token that asks for `none`,
//! for RS256 with our secret as the public key, or for any other algorithm finds no code that would check it, whatever
//! its header says.

use std::fmt;
use std::sync::Once;
use std::time::Duration;

use hmac::{Hmac, Mac};
use holdfast_core::clock;
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use ulid::Ulid;

use crate::{Role, User, UserId};

const ISSUER: &str = "holdfast";
const AUDIENCE: &str = "holdfast-api";

/// How far the clocks of two servers may differ.
pub(super) const LEEWAY: Duration = Duration::from_secs(5);

/// What a token says. Times are seconds since the epoch.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    aud: String,
    /// The user's id.
    sub: String,
    /// The session.
    pub(super) sid: String,
    /// This token, for logs.
    jti: String,
    /// The user's `token_version` when it was made.
    pub(super) ver: i64,
    /// The generation in its session: each refresh makes the next. Tokens of releases before 0023 have none.
    #[serde(default)]
    pub(super) r#gen: i64,
    pub(super) role: Role,
    iat: u64,
    nbf: u64,
    pub(super) exp: u64,
}

impl Claims {
    pub(super) fn user(&self) -> Option<UserId> {
        self.sub.parse().ok()
    }

    /// The user as the store of sessions names it.
    pub(super) fn subject(&self) -> &str {
        &self.sub
    }

    /// By this host's clock.
    pub(super) fn has_expired(&self) -> bool {
        self.exp + LEEWAY.as_secs() < clock::unix_millis() / 1000
    }
}

/// The session is a secret: a reader of a log could use it.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("sub", &self.sub)
            .field("jti", &self.jti)
            .field("exp", &self.exp)
            .finish_non_exhaustive()
    }
}

/// Why a token says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    /// Forged, damaged, or not ours.
    Invalid,
    /// It was good once.
    Expired,
}

/// Makes and reads tokens.
pub(super) struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
    lifetime: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(secret: &SecretString, lifetime: Duration) -> Self {
        static INSTALL: Once = Once::new();
        // Another part of a process that embeds us may have installed one: then that one checks HMACs as well.
        INSTALL.call_once(|| PROVIDER.install_default().unwrap_or(()));
        let secret = secret.expose_secret().as_bytes();
        Self {
            signing: EncodingKey::from_secret(secret),
            checking: DecodingKey::from_secret(secret),
            lifetime,
        }
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token of this session that is valid for `lifetime`.
    pub(super) fn sign(
        &self,
        user: &User,
        session: &str,
        generation: i64,
        lifetime: Duration,
    ) -> Result<(SecretString, Claims), Error> {
        let now = clock::unix_millis() / 1000;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id.to_string(),
            sid: session.to_owned(),
            jti: Ulid::from_parts(clock::unix_millis(), rand::random::<u128>()).to_string(),
            ver: user.token_version,
            r#gen: generation,
            role: user.role,
            iat: now,
            nbf: now,
            exp: now + lifetime.as_secs(),
        };
        let text = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)?;
        Ok((SecretString::from(text), claims))
    }

    /// What a token says, if it is ours, whole, and of this time.
    pub(super) fn read(&self, token: &str) -> Result<Claims, TokenError> {
        self.decode(token, LEEWAY)
    }

    /// The same for one that expired no longer ago than this: it still tells which session it was of.
    pub(super) fn read_expired(&self, token: &str, ago: Duration) -> Result<Claims, TokenError> {
        self.decode(token, ago.max(LEEWAY))
    }

    fn decode(&self, token: &str, leeway: Duration) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_nbf = true;
        validation.leeway = leeway.as_secs();
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.checking, &validation);
        let claims = decoded
            .map(|data| data.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => TokenError::Expired,
                _ => TokenError::Invalid,
            })?;
        // The leeway for the end is none for the beginning.
        if claims.nbf > clock::unix_millis() / 1000 + LEEWAY.as_secs() {
            return Err(TokenError::Invalid);
        }
        Ok(claims)
    }
}

/// Whether a bearer's text has the shape of one of our tokens, which no API key of ours has.
pub fn is_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, Error> {
        if algorithm != Algorithm::HS256 {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let mac = Hmac::new_from_slice(key).map_err(|_| ErrorKind::InvalidKeyFormat)?;
        Ok(Self(mac))
    }

    fn over(&self, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(message);
        mac
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.over(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// Takes as long for a near miss as for a far one.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = self.over(message).verify_slice(signature);
        checked.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}
