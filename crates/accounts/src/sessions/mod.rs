//! Sessions: a login gives a token that is good for some minutes and a session that outlasts it.
//!
//! # States
//! A session is *live*, or *gone*: logged out, unused for the Session class' time (30 minutes), older than
//! `cache.session_max_seconds` (its signed id holds the time of the login), ended by a change of its user, or ended because one of
//! its tokens was refreshed twice. A token names its user, its session, its generation (each refresh makes the next) and its expiry.
//! SQL (`holdfast_sessions`) stores the generation in force and whether the session has ended; Redis, where there is one, lets other
//! processes see the end immediately.
//!
//! # When a token is accepted
//! 1. Its signature (HS256), issuer, audience and times are right ([`token`]).
//! 2. Its user is enabled, and has the token's version ([`Users`]). Every process mirrors that in memory, at most ten seconds old,
//!    without Redis: a new password or a disabled user always ends sessions everywhere.
//! 3. Its session has not ended, and its generation is in force. Every process mirrors the sessions that changed, at most ten
//!    seconds old.
//! 4. Redis, if it answers, has the session live. Each check extends the session's time.
//!
//! # What a logout and a refresh promise
//! They are committed to SQL. The process that did it refuses the token from then on; other processes do immediately with Redis, and
//! within [`HARD_LIMIT`](crate::mirror::HARD_LIMIT) (ten seconds) without, also after a restart. A refresh reads SQL and never the
//! mirror. Refreshing a token a second time ends the session: one of the two callers stole it.
//!
//! # When things fail
//! *Redis is unavailable or not configured*: SQL decides. *SQL is unavailable*: logins, refreshes and logouts are answered 503; a
//! logout that Redis took is written to SQL when SQL recovers. Tokens in force are accepted until they expire, against a mirror that is
//! at most an hour old. *Both are unavailable*: signature and expiry decide. A Redis that loses its data ends the sessions in it;
//! people log in again. `/health` says `sessions: degraded` while a configured Redis does not answer.
//!
//! # A longer session
//! A token is exchanged for the next one by `POST /v1/auth/refresh`, also after it expired, as long as its session is
//! live: who is active within the Session class' time stays logged in, up to the session's longest.
//!
//! # Invariants
//! - No answer tells whether an account exists: an unknown name, a disabled user and a wrong password take one hash and
//!   get one problem, and logins are limited by the name that was typed, existing or not.
//! - A token's text is in the answer that makes it, and in no log line, error or `Debug`.

mod recent;
mod store;
mod token;

use std::time::Duration;

use holdfast_cache::sessions::{Reach, SessionCheck, SessionId, SessionStore};
use holdfast_core::clock;
use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_http::Caller;
use secrecy::SecretString;

use self::recent::RecentChanges;
use self::store::{RefreshOutcome, SessionChange, SessionHash, SessionTable};

pub use self::token::is_token;
use self::token::{Claims, TokenError, Tokens};
use crate::mirror::Mirror;
use crate::sql::StoreError;
use crate::users::{User, UserError, UserId, UserStatus, Users};

/// Between two attempts to write a logout to SQL.
const END_PAUSE: Duration = Duration::from_secs(2);

/// Why a token does not let in, or a login does not give one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
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
pub struct NewSession {
    pub user: User,
    pub token: SecretString,
    pub lifetime: Duration,
}

/// Logging in, out, and being known in between. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    tokens: Option<std::sync::Arc<Tokens>>,
    users: Users,
    store: SessionStore,
    /// The sessions that were refreshed or ended.
    table: Mirror<SessionTable>,
    /// The changes that this process made, until the mirror has them.
    recent: std::sync::Arc<RecentChanges>,
    /// How long a session lasts unused.
    idle: Duration,
    /// How long it lasts at most.
    most: Duration,
}

impl Sessions {
    /// Off in production without a secret. In development one is made up, so sessions end with the process.
    /// Call it inside tokio.
    pub fn new(settings: &Settings, database: &Database, users: Users, store: SessionStore) -> Self {
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
            table: Mirror::new(SessionTable::new(database.clone(), lifetime + token::LEEWAY)),
            recent: std::sync::Arc::new(RecentChanges::new(lifetime + token::LEEWAY)),
            idle: settings.cache.session_ttl,
            most: settings.cache.session_max,
        }
    }

    /// The users who have the sessions.
    pub fn users(&self) -> &Users {
        &self.users
    }

    pub fn is_on(&self) -> bool {
        self.tokens.is_some()
    }

    /// Redis is meant to be there and is not.
    pub fn is_degraded(&self) -> bool {
        self.store.is_degraded()
    }

    /// Checks the password and opens a session. The caller applies the rate limit first.
    pub async fn login(&self, name: &str, password: &SecretString) -> Result<NewSession, SessionError> {
        let tokens = self.tokens()?;
        let user = self.users.verify(name, password).await?;
        let user = user.ok_or(SessionError::WrongLogin)?;
        let session = self
            .store
            .create(&user.id.to_string(), serde_json::Value::Null)
            .await;
        let session = session.map_err(|error| SessionError::Failed(error.into()))?;
        let kept = self.most + self.idle;
        unavailable(
            self.table
                .table()
                .insert(&session.id.digest(), user.id, kept)
                .await,
        )?;
        tracing::info!(user.id = %user.id, "logged in");
        open(tokens, user, &session.id, 0, self.left(&session.id)?)
    }

    /// Who presents this token.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, SessionError> {
        let claims = self.tokens()?.read(token)?;
        self.admit(&claims).await
    }

    /// The next token of a session; the given one is refused from then on.
    pub async fn refresh(&self, token: &str) -> Result<NewSession, SessionError> {
        let tokens = self.tokens()?;
        let claims = tokens.read_expired(token, self.idle)?;
        let id = claims.user().ok_or(SessionError::Invalid)?;
        let session = session_id(&claims)?;
        let left = self.left(&session)?;
        if let SessionCheck::Gone = self.store.check(claims.subject(), &session).await {
            return Err(SessionError::Ended);
        }
        // Not from memory: this is what a session lives on.
        let user = self.users.get(id).await?;
        let user = user.filter(|user| user.disabled_at.is_none() && user.token_version == claims.ver);
        let user = user.ok_or(SessionError::Ended)?;
        let digest = session.digest();
        match unavailable(self.table.table().refresh(&digest, claims.r#gen).await)? {
            RefreshOutcome::To(generation) => {
                self.recent.note(digest, changed(generation, false));
                open(tokens, user, &session, generation, left)
            }
            RefreshOutcome::Gone => Err(SessionError::Ended),
            RefreshOutcome::Reused => {
                tracing::warn!(user.id = %id, "a token was refreshed for a second time: its session is ended");
                self.recent.note(digest, changed(claims.r#gen, true));
                self.store.revoke(claims.subject(), &session).await;
                Err(SessionError::Ended)
            }
        }
    }

    /// Ends the session of a token that is let in.
    ///
    /// # Errors
    /// Neither SQL nor Redis took the logout: the session goes on. The caller should try again.
    pub async fn logout(&self, token: &str) -> Result<Reach, SessionError> {
        let claims = self.tokens()?.read(token)?;
        self.admit(&claims).await?;
        let session = session_id(&claims)?;
        let digest = session.digest();
        let reach = self.store.revoke(claims.subject(), &session).await;
        let written = self.table.table().end(&digest).await;
        // Noted in this process last: a logout that failed must be accepted when it is repeated.
        match (written, reach) {
            (Ok(()), _) => {}
            (Err(error), Reach::Everywhere) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a logout is yet to be written to SQL"
                );
                self.end_later(digest);
            }
            (Err(error), Reach::HereUntilRedisReturns) => return Err(SessionError::User(error.into())),
        }
        self.recent.note(digest, changed(claims.r#gen, true));
        tracing::info!(user.id = claims.subject(), "logged out");
        Ok(reach)
    }

    /// Writes a logout to SQL when SQL recovers, so that it holds when Redis fails later.
    fn end_later(&self, digest: SessionHash) {
        let (table, attempts) = (
            self.table.table().clone(),
            self.most.as_secs() / END_PAUSE.as_secs() + 1,
        );
        let Some(place) = self.recent.place_to_wait() else {
            return;
        };
        tokio::spawn(async move {
            let _place = place;
            for _ in 0..attempts {
                tokio::time::sleep(END_PAUSE).await;
                if table.end(&digest).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Ends every session of a user: here at once, and in every other process within what a deletion or a change takes to
    /// be seen.
    pub async fn end_all(&self, user: &str) -> Reach {
        self.store.revoke_all(user).await
    }

    /// The user's name, as far as it is known now.
    pub async fn name_of(&self, user: UserId) -> Option<std::sync::Arc<str>> {
        match self.users.status(user).await {
            UserStatus::Enabled { name, .. } => Some(name),
            UserStatus::Out | UserStatus::Unknown => None,
        }
    }

    async fn admit(&self, claims: &Claims) -> Result<Caller, SessionError> {
        let id = claims.user().ok_or(SessionError::Invalid)?;
        let role = match self.users.status(id).await {
            UserStatus::Enabled { version, role, .. } if version == claims.ver => role,
            UserStatus::Enabled { .. } | UserStatus::Out => return Err(SessionError::Ended),
            UserStatus::Unknown => claims.role,
        };
        self.check_session(claims).await?;
        Ok(Caller::User {
            id: id.as_ulid(),
            scopes: role.scopes(),
        })
    }

    async fn check_session(&self, claims: &Claims) -> Result<(), SessionError> {
        let session = session_id(claims)?;
        self.left(&session)?;
        let digest = session.digest();
        let refuses =
            |changed: Option<SessionChange>| changed.is_some_and(|changed| changed.refuses(claims.r#gen));
        if refuses(self.recent.get(&digest)) || refuses(self.changed(&digest).await) {
            return Err(SessionError::Ended);
        }
        match self.store.check(claims.subject(), &session).await {
            SessionCheck::Live(_) => Ok(()),
            SessionCheck::Gone => Err(SessionError::Ended),
            SessionCheck::CannotTell if claims.has_expired() => Err(SessionError::Expired),
            SessionCheck::CannotTell => Ok(()),
        }
    }

    /// How the session has changed, by the mirror of the table.
    async fn changed(&self, digest: &SessionHash) -> Option<SessionChange> {
        let found = if let Some(found) = self.table.look(|sessions| sessions.find(digest)) {
            found
        } else {
            let answer = self.table.look_again(|sessions| sessions.find(digest)).await;
            answer.found.unwrap_or(Ok(None))
        };
        match found {
            Ok(found) => found,
            // More sessions changed than the mirror holds.
            Err(()) => self.table.table().get(digest).await.ok().flatten(),
        }
    }

    /// How much longer the session may last.
    fn left(&self, session: &SessionId) -> Result<Duration, SessionError> {
        let age = Duration::from_millis(clock::unix_millis().saturating_sub(session.created_ms()));
        let left = self.most.checked_sub(age).filter(|left| !left.is_zero());
        left.ok_or(SessionError::Ended)
    }

    fn tokens(&self) -> Result<&Tokens, SessionError> {
        self.tokens.as_deref().ok_or(SessionError::Off)
    }
}

/// SQL did not answer.
fn unavailable<T>(result: Result<T, StoreError>) -> Result<T, SessionError> {
    result.map_err(|error| SessionError::User(error.into()))
}

fn session_id(claims: &Claims) -> Result<SessionId, SessionError> {
    claims.sid.parse().map_err(|_| SessionError::Invalid)
}

fn changed(generation: i64, is_ended: bool) -> SessionChange {
    SessionChange { generation, is_ended }
}

/// `left`: how much longer the session may last; no token outlasts it.
fn open(
    tokens: &Tokens,
    user: User,
    session: &SessionId,
    generation: i64,
    left: Duration,
) -> Result<NewSession, SessionError> {
    let lifetime = tokens.lifetime().min(left);
    let (token, _) = tokens
        .sign(&user, &session.to_string(), generation, lifetime)
        .map_err(|error| SessionError::Failed(error.into()))?;
    Ok(NewSession {
        user,
        token,
        lifetime,
    })
}
