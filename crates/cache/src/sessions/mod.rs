//! Sessions of users: made at login, gone at logout, and everywhere at once.
//!
//! A session is addressed by its user and its id; both belong into whatever token the client holds. All sessions of a
//! user are one hash on Redis, under the user's SHA-256, one field for each session under its id's: a dump of Redis
//! names neither a user nor an id that could be used. A user's sessions are revoked by one script, and an eviction can
//! only take them all: then they are gone, and never half there.
//!
//! # States
//!
//! *Live*: the field is there and its time has not come; each [`check`](SessionStore::check) moves that time on by
//! `cache.session_ttl`, up to `cache.session_max` after its creation. *Gone*: it is not there: revoked, expired, or
//! never made. *Cannot tell*: Redis is away.
//!
//! # When Redis is away
//!
//! Nothing fails and nothing waits. A session that is made now is kept in the process and stored when Redis is back.
//! A revocation holds in this process at once, and on Redis when it is back. For any other session the answer is
//! [`SessionCheck::CannotTell`]: then the token's own signature and expiry decide, which is why they shall be short. What
//! other processes revoked before the outage is refused during it as well: they announced it.
//!
//! Bounds: [`MAX_SESSIONS`] a user (the oldest goes), [`MAX_DATA`] bytes of data, [`MAX_REMEMBERED`] revocations and as
//! many new sessions in the process (the oldest is forgotten).

mod id;
mod memory;
mod scripts;
mod store;

pub use self::id::SessionId;
pub(crate) use self::memory::State;
pub use self::store::SessionStore;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// Sessions of one user at a time.
pub const MAX_SESSIONS: usize = 100;

/// Bytes of a session's data, as JSON.
pub const MAX_DATA: usize = 4_096;

/// Revocations, and sessions made while Redis was away, that a process remembers.
pub const MAX_REMEMBERED: usize = 10_000;

/// One session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub user: String,
    pub id: SessionId,
    pub created_at: DateTime<Utc>,
    /// Whatever the application keeps with it.
    pub data: Value,
}

/// A session as the server knows it: without its id.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedSession {
    pub created_at: DateTime<Utc>,
    /// When it ends if nobody uses it any more.
    pub expires_at: DateTime<Utc>,
    pub data: Value,
}

/// Whether a session holds.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionCheck {
    Live(Session),
    /// Revoked, expired, or never made.
    Gone,
    /// Redis is away, and nothing is known against it here: the token's own signature and expiry decide.
    CannotTell,
}

/// How far a revocation has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Everywhere,
    /// In this process now; everywhere when Redis is back.
    HereUntilRedisReturns,
}

/// A session's data takes more than [`MAX_DATA`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data of a session takes {bytes} bytes; at most {MAX_DATA} are allowed")]
pub struct SessionTooLarge {
    pub bytes: usize,
}
