//! Sessions: a login gives a token that is good for some minutes and a session that outlasts it.
//!
//! # States
//! A session is *live*, or *gone*: logged out, unused for the Session class' time (30 minutes), at its longest, or ended
//! by a change of its user. Its record is in the cache (Redis); its token says who, which session, and until when.
//!
//! # What lets a token in
//! 1. Its signature (HS256), issuer, audience and times are right ([`token`]).
//! 2. Its user is enabled, and of the token's version ([`Users`]). Every process keeps that in memory, at most ten seconds
//!    old, and needs no Redis for it: a new password or a disabled user ends sessions everywhere, always.
//! 3. Its session is live. Each check slides the session's time.
//!
//! # When things fail
//! While Redis is away nobody can tell whether a session is live, so signature, expiry and user decide. A logout then
//! holds in this process at once (a bounded list of revocations), is repeated to Redis when it is back, and reaches other
//! processes by then or when the token expires, whichever is first: that is why tokens are short-lived. `/health` says
//! `sessions: degraded` meanwhile. A Redis that loses its memory ends the sessions it held; people log in again. With
//! the database away nobody logs in or refreshes (503), and tokens go on as long as they are good.
//!
//! # A longer session
//! A token is exchanged for the next one by `POST /v1/auth/refresh`, also after it expired, as long as its session is
//! live: who is active within the Session class' time stays logged in, up to the session's longest.
//!
//! # Invariants
//! - No answer tells whether an account exists: an unknown name, a disabled user and a wrong password take one hash and
//!   get one problem, and logins are limited by the name that was typed, existing or not.
//! - A token's text is in the answer that makes it, and in no log line, error or `Debug`.

mod token;

use std::time::Duration;

use holdfast_cache::sessions::{Checked, Reach, SessionId, SessionStore};
use holdfast_core::config::Settings;
use secrecy::SecretString;

pub(crate) use self::token::{Claims, is_token};
use self::token::{TokenError, Tokens};
use super::keys::Caller;
use super::users::{Standing, User, UserError, Users};

/// Why a token does not let in, or a login does not give one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No `JWT_SECRET_KEY` in production.
    #[error("logins are off")]
    Off,
    #[error("the name or the password is wrong")]
    WrongLogin,
    #[error("the token is not one of this server's")]
    Invalid,
    #[error("the token has expired")]
    Expired,
    /// Logged out, unused for too long, or its user was changed.
    #[error("the session has ended")]
    Ended,
    #[error(transparent)]
    User(#[from] UserError),
    #[error("the session cannot be made")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<TokenError> for SessionError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Invalid => Self::Invalid,
            TokenError::Expired => Self::Expired,
        }
    }
}

/// A token that was just made: the only time its text is to be had.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) user: User,
    pub(crate) token: SecretString,
    pub(crate) lifetime: Duration,
}

/// Logging in, out, and being known in between. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    tokens: Option<std::sync::Arc<Tokens>>,
    users: Users,
    store: SessionStore,
    /// How long a session lasts unused.
    idle: Duration,
}

impl Sessions {
    /// Off in production without a secret. In development one is made up, so sessions end with the process.
    pub(crate) fn new(settings: &Settings, users: Users, store: SessionStore) -> Self {
        let made_up = || {
            tracing::debug!("JWT_SECRET_KEY is not set: sessions end with this process");
            let bytes: [u8; 32] = rand::random();
            SecretString::from(bytes.map(|byte| format!("{byte:02x}")).concat())
        };
        let secret = match &settings.auth.jwt_secret {
            Some(secret) => Some(secret.clone()),
            None if settings.is_production() => None,
            None => Some(made_up()),
        };
        let lifetime = settings.auth.access_token;
        Self {
            tokens: secret.map(|secret| Tokens::new(&secret, lifetime).into()),
            users,
            store,
            idle: settings.cache.session_ttl,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.tokens.is_some()
    }

    /// Redis is meant to be there and is not.
    pub(crate) fn is_degraded(&self) -> bool {
        self.store.is_degraded()
    }

    /// A session for whoever knows this user's password. Limit it before it is called.
    pub(crate) async fn login(&self, name: &str, password: &SecretString) -> Result<Opened, SessionError> {
        let tokens = self.tokens()?;
        let user = self.users.verify(name, password).await?;
        let user = user.ok_or(SessionError::WrongLogin)?;
        let session = self
            .store
            .create(&user.id.to_string(), serde_json::Value::Null)
            .await;
        let session = session.map_err(|error| SessionError::Failed(error.into()))?;
        tracing::info!(user.id = %user.id, "logged in");
        open(tokens, user, &session.id.to_string())
    }

    /// Who presents this token.
    pub(crate) async fn authenticate(&self, token: &str) -> Result<Caller, SessionError> {
        let claims = self.tokens()?.read(token)?;
        self.admit(&claims).await
    }

    /// The next token of a session, for the last one.
    pub(crate) async fn refresh(&self, token: &str) -> Result<Opened, SessionError> {
        let tokens = self.tokens()?;
        let claims = tokens.read_expired(token, self.idle)?;
        let id = claims.user().ok_or(SessionError::Invalid)?;
        self.check_session(&claims).await?;
        // Not from memory: this is what a session lives on.
        let user = self.users.get(id).await?;
        let user = user.filter(|user| user.disabled_at.is_none() && user.token_version == claims.ver);
        open(tokens, user.ok_or(SessionError::Ended)?, &claims.sid)
    }

    /// Ends the session of a token that is let in.
    pub(crate) async fn logout(&self, token: &str) -> Result<Reach, SessionError> {
        let claims = self.tokens()?.read(token)?;
        self.admit(&claims).await?;
        let id = session_id(&claims)?;
        let reach = self.store.revoke(claims.subject(), &id).await;
        tracing::info!(user.id = claims.subject(), "logged out");
        Ok(reach)
    }

    /// Ends every session of a user: here at once, and in every other process within what a deletion or a change takes to
    /// be seen.
    pub(crate) async fn end_all(&self, user: &str) -> Reach {
        self.store.revoke_all(user).await
    }

    /// The user's name, as far as it is known now.
    pub(crate) async fn name_of(&self, user: super::UserId) -> Option<std::sync::Arc<str>> {
        match self.users.standing(user).await {
            Standing::Enabled { name, .. } => Some(name),
            Standing::Out | Standing::Unknown => None,
        }
    }

    async fn admit(&self, claims: &Claims) -> Result<Caller, SessionError> {
        let id = claims.user().ok_or(SessionError::Invalid)?;
        let role = match self.users.standing(id).await {
            Standing::Enabled { version, role, .. } if version == claims.ver => role,
            Standing::Enabled { .. } | Standing::Out => return Err(SessionError::Ended),
            Standing::Unknown => claims.role,
        };
        self.check_session(claims).await?;
        Ok(Caller::User {
            id,
            scopes: role.scopes(),
        })
    }

    async fn check_session(&self, claims: &Claims) -> Result<(), SessionError> {
        match self.store.check(claims.subject(), &session_id(claims)?).await {
            Checked::Live(_) => Ok(()),
            Checked::Gone => Err(SessionError::Ended),
            Checked::CannotTell if claims.has_expired() => Err(SessionError::Expired),
            Checked::CannotTell => Ok(()),
        }
    }

    fn tokens(&self) -> Result<&Tokens, SessionError> {
        self.tokens.as_deref().ok_or(SessionError::Off)
    }
}

fn session_id(claims: &Claims) -> Result<SessionId, SessionError> {
    claims.sid.parse().map_err(|_| SessionError::Invalid)
}

fn open(tokens: &Tokens, user: User, session: &str) -> Result<Opened, SessionError> {
    let (token, _) = tokens
        .sign(&user, session)
        .map_err(|error| SessionError::Failed(error.into()))?;
    Ok(Opened {
        user,
        token,
        lifetime: tokens.lifetime(),
    })
}
