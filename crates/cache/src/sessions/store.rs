//! The operations on sessions.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::redis::GateError;
use serde_json::Value;

use super::id::hashed_user;
use super::memory::Name;
use super::scripts::{CHECK, CREATE, REVOKE_ALL, key_of};
use super::{
    ListedSession, MAX_DATA, MAX_SESSIONS, Reach, Session, SessionCheck, SessionId, SessionTooLarge, State,
};
use crate::cache::Cache;
use crate::changes::Change;
use crate::class::Class;
use crate::remote::Remote;
use crate::stats::{ClassCounters, count};

/// The sessions of users. Cheap to clone; all that come from one [`Cache`] are one.
#[derive(Clone)]
pub struct SessionStore {
    cache: Cache,
}

/// What Redis keeps of a session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredSession {
    pub(super) created_ms: u64,
    pub(super) data: String,
}

/// How long sessions live.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) idle: Duration,
    pub(super) most: Duration,
}

impl SessionStore {
    pub(crate) fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// Makes a session. Redis being away does not keep it from being made: it is stored when Redis is back.
    pub async fn create(&self, user: &str, data: Value) -> Result<Session, SessionTooLarge> {
        let text = data.to_string();
        if text.len() > MAX_DATA {
            return Err(SessionTooLarge { bytes: text.len() });
        }
        let hashed = hashed_user(user);
        // In the millisecond in which the others were revoked it is later than these.
        let after = self.state().revoked_until(&hashed).map_or(0, |until| until + 1);
        let created_ms = self.remote().now_ms().max(after);
        let id = SessionId::generate(created_ms);
        let name = (hashed, id.hashed());
        let stored = StoredSession {
            created_ms,
            data: text,
        };
        count(&self.counters().stores);
        if tell_created(self.remote(), &name, &stored, self.times())
            .await
            .is_err()
        {
            self.count_degraded();
            self.state().made(name, stored, self.times());
        }
        Ok(Session {
            user: user.to_owned(),
            id,
            created_at: time(created_ms),
            data,
        })
    }

    /// Whether a session holds. That it is used moves its end on.
    pub async fn check(&self, user: &str, id: &SessionId) -> SessionCheck {
        self.look(user, id, true).await
    }

    /// Whether a session holds, without using it.
    pub async fn get(&self, user: &str, id: &SessionId) -> SessionCheck {
        self.look(user, id, false).await
    }

    /// Ends one session. It holds nowhere any more, or, while Redis is away, in no request of this process.
    pub async fn revoke(&self, user: &str, id: &SessionId) -> Reach {
        let name = (hashed_user(user), id.hashed());
        count(&self.counters().deletes);
        self.state().revoke(&name, self.times().idle);
        if tell_revoked(self.remote(), &name).await.is_ok() {
            return Reach::Everywhere;
        }
        self.count_degraded();
        if self.cache.gate().is_configured() {
            self.state().tell_revoked(name);
        }
        Reach::HereUntilRedisReturns
    }

    /// Ends every session that the user has. One that is made after this holds.
    pub async fn revoke_all(&self, user: &str) -> Reach {
        let user = hashed_user(user);
        let until_ms = self.remote().now_ms();
        count(&self.counters().deletes);
        self.state().revoke_all(&user, until_ms, self.times().idle);
        if tell_revoked_all(self.remote(), &user, until_ms).await.is_ok() {
            return Reach::Everywhere;
        }
        self.count_degraded();
        if self.cache.gate().is_configured() {
            self.state().tell_revoked_all(user, until_ms);
        }
        Reach::HereUntilRedisReturns
    }

    /// The live sessions of a user, newest first; `None` while Redis is away.
    pub async fn list(&self, user: &str) -> Option<Vec<ListedSession>> {
        let mut command = redis::cmd("HVALS");
        command.arg(key_of(&hashed_user(user)));
        let stored: Vec<String> = self
            .cache
            .gate()
            .run("sessions.list", |mut redis| async move {
                command.query_async(&mut redis).await
            })
            .await
            .ok()?;
        let now = self.remote().now_ms();
        let mut listed: Vec<_> = stored.iter().filter_map(|text| listed(text, now)).collect();
        listed.sort_by_key(|session| std::cmp::Reverse(session.created_at));
        Some(listed)
    }

    /// Redis is configured and away: sessions of other processes cannot be told from revoked ones.
    pub fn is_degraded(&self) -> bool {
        self.cache.gate().mode().is_degraded()
    }

    async fn look(&self, user: &str, id: &SessionId, used: bool) -> SessionCheck {
        let name = (hashed_user(user), id.hashed());
        if self.state().is_revoked(&name, id.created_ms()) {
            count(&self.counters().miss);
            return SessionCheck::Gone;
        }
        let asked = ask(self.remote(), &name, self.times(), used).await;
        let away = asked.is_err();
        // What was made while Redis was away may not be stored there yet.
        let found = asked.ok().flatten().or_else(|| self.state().unstored(&name));
        match found {
            Some(stored) => {
                count(&self.counters().hit_redis);
                SessionCheck::Live(Session {
                    user: user.to_owned(),
                    id: *id,
                    created_at: time(stored.created_ms),
                    data: serde_json::from_str(&stored.data).unwrap_or_default(),
                })
            }
            None if away => {
                self.count_degraded();
                SessionCheck::CannotTell
            }
            None => {
                count(&self.counters().miss);
                SessionCheck::Gone
            }
        }
    }

    fn remote(&self) -> &Remote {
        &self.cache.inner().remote
    }

    fn state(&self) -> &State {
        &self.cache.inner().sessions
    }

    fn counters(&self) -> &ClassCounters {
        self.cache.inner().counters.of(Class::Session)
    }

    fn count_degraded(&self) {
        if self.cache.gate().is_configured() {
            count(&self.counters().degraded);
        }
    }

    fn times(&self) -> Times {
        let settings = &self.cache.inner().settings;
        Times {
            idle: settings.session_ttl,
            most: settings.session_max,
        }
    }
}

impl fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore").finish_non_exhaustive()
    }
}

/// Asks Redis for a session.
async fn ask(
    remote: &Remote,
    (user, id): &Name,
    times: Times,
    used: bool,
) -> Result<Option<StoredSession>, GateError> {
    let mut call = CHECK.prepare_invoke();
    call.key(key_of(user))
        .arg(id)
        .arg(millis(times.idle))
        .arg(millis(times.most))
        .arg(u8::from(used));
    let found: Option<(u64, String)> = remote
        .gate
        .run("sessions.check", |mut redis| async move {
            call.invoke_async(&mut redis).await
        })
        .await?;
    Ok(found.map(|(created_ms, data)| StoredSession { created_ms, data }))
}

pub(super) async fn tell_created(
    remote: &Remote,
    (user, id): &Name,
    session: &StoredSession,
    times: Times,
) -> Result<(), GateError> {
    let mut call = CREATE.prepare_invoke();
    call.key(key_of(user))
        .arg(id)
        .arg(session.created_ms)
        .arg(millis(times.idle))
        .arg(millis(times.most))
        .arg(MAX_SESSIONS)
        .arg(&session.data);
    let _stored: bool = remote
        .gate
        .run("sessions.create", |mut redis| async move {
            call.invoke_async(&mut redis).await
        })
        .await?;
    Ok(())
}

pub(super) async fn tell_revoked(remote: &Remote, (user, id): &Name) -> Result<(), GateError> {
    let mut pipe = redis::pipe();
    pipe.cmd("HDEL").arg(key_of(user)).arg(id).ignore();
    remote.announce(&mut pipe, &Change::Session { user, id });
    remote.send("sessions.revoke", pipe).await
}

pub(super) async fn tell_revoked_all(remote: &Remote, user: &str, until_ms: u64) -> Result<(), GateError> {
    let mut call = REVOKE_ALL.prepare_invoke();
    call.key(key_of(user)).arg(until_ms);
    let _revoked: u64 = remote
        .gate
        .run("sessions.revoke_all", |mut redis| async move {
            call.invoke_async(&mut redis).await
        })
        .await?;
    let mut pipe = redis::pipe();
    remote.announce(&mut pipe, &Change::User { user, until_ms });
    remote.send("sessions.announce", pipe).await
}

/// `<expires ms> <created ms> <data>`; `None` for what has expired.
fn listed(text: &str, now_ms: u64) -> Option<ListedSession> {
    let (expires, rest) = text.split_once(' ')?;
    let (created, data) = rest.split_once(' ')?;
    let expires: u64 = expires.parse().ok()?;
    (expires > now_ms).then_some(ListedSession {
        created_at: time(created.parse().ok()?),
        expires_at: time(expires),
        data: serde_json::from_str(data).ok()?,
    })
}

fn time(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
