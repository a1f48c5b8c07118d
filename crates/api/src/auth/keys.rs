//! API keys: made, listed, revoked, and known again at every request without asking the database.
//!
//! A snapshot of every key in force is kept in memory. For [`SOFT_LIMIT`] it is simply used. For [`HARD_LIMIT`] it is
//! used while a newer one is fetched behind the request's back, so a busy server never waits. After that the request
//! waits for a newer one: a revoked key therefore works for at most [`HARD_LIMIT`] on any server that reaches the
//! database. An idle server asks nothing, so a database that scales to zero may sleep.
//!
//! A token that the snapshot does not know waits for the next reading, of which there is at most one in
//! [`MISS_PAUSE`] whatever is sent: a new key works at once, and guessing is slow and costs the database nothing.
//!
//! While the database is away, a snapshot serves for [`STALE_LIMIT`] and the outage is found out by one request in
//! [`FAILURE_PAUSE`]; tokens that it does not know are [`AuthError::Unavailable`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use holdfast_core::failure::{FailureClass, SqlFailureKind, classify_sql};
use holdfast_core::sql::Database;
use holdfast_jobs::audit::Actor;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::scope::{Scope, Scopes};
use super::secret::{self, Digest};
use super::store::{KeyId, MAX_KEYS, Store, StoreError, StoredKey};

/// How long a snapshot is used without a thought.
pub const SOFT_LIMIT: Duration = Duration::from_secs(2);

/// How long a snapshot is used while a newer one is fetched.
pub const HARD_LIMIT: Duration = Duration::from_secs(10);

/// How long a snapshot is used while the database is away.
pub const STALE_LIMIT: Duration = Duration::from_hours(1);

/// Between two readings that unknown tokens cause.
pub const MISS_PAUSE: Duration = Duration::from_millis(250);

/// Between two readings while they fail.
pub const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Longest a request waits for a reading.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// Between two writings of `last_used_at`.
const TOUCH_PERIOD: Duration = Duration::from_mins(1);

/// Longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// `HOLDFAST_API_KEY`.
    Bootstrap,
    Key {
        id: KeyId,
        scopes: Scopes,
    },
    /// This machine, while there is no key at all.
    Local,
}

impl Caller {
    pub fn may(&self, scope: Scope) -> bool {
        match self {
            Self::Bootstrap | Self::Local => true,
            Self::Key { scopes, .. } => scopes.allow(scope),
        }
    }
}

impl Caller {
    /// As the audit log names it.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Bootstrap => Actor::bootstrap(),
            Self::Key { id, .. } => Actor::key(id),
            Self::Local => Actor::local(),
        }
    }
}

/// The name under which a caller's idempotency keys are kept apart from everybody else's.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap => f.write_str("bootstrap"),
            Self::Key { id, .. } => id.fmt(f),
            Self::Local => f.write_str("local"),
        }
    }
}

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No key in force has this text.
    #[error("the API key is unknown or revoked")]
    Unknown,
    /// It may be right: the database, which knows, is away.
    #[error("API keys cannot be looked up now")]
    Unavailable,
}

/// Why a key could not be made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a name has 1 to {MAX_NAME} characters, and no control characters")]
    InvalidName,
    #[error("a key of this name exists already (a revoked key keeps its name): choose another name")]
    NameTaken,
    #[error("{MAX_KEYS} keys are in force already: revoke some")]
    TooMany,
    /// Transient: try again.
    #[error("the database is away")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the database failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Sql(source) => match classify_sql(source) {
                failure if failure.kind == SqlFailureKind::Unique => Self::NameTaken,
                failure if failure.class == FailureClass::Transient => Self::Unavailable(error.into()),
                _ => Self::Failed(error.into()),
            },
            StoreError::TimedOut(_) => Self::Unavailable(error.into()),
        }
    }
}

/// A key that was just made: the only time its text is to be had.
#[derive(Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub name: String,
    pub scopes: Scopes,
    pub secret: SecretString,
}

/// Every API key of an installation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiKeys(Arc<Inner>);

struct Inner {
    store: Store,
    bootstrap: Option<Digest>,
    snapshot: RwLock<Snapshot>,
    /// One reading at a time; what came of the last one.
    reading: Mutex<Option<Reading>>,
    /// The last reading failed.
    outage: AtomicBool,
    /// When the next reading behind a request's back may begin, in milliseconds after `start`.
    next_reading_ms: AtomicU64,
    start: Instant,
    /// Connections belong to the runtime that opened them, and the HTTP threads' own runtimes end first.
    runtime: Handle,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("bootstrap", &self.bootstrap.is_some())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Snapshot {
    keys: HashMap<Digest, Arc<Known>>,
    read_at: Option<Instant>,
    touched_at: Option<Instant>,
}

struct Known {
    id: KeyId,
    digest: Digest,
    scopes: Scopes,
    /// Since `last_used_at` was written last.
    used: AtomicBool,
}

#[derive(Clone, Copy)]
struct Reading {
    begun_at: Instant,
    ended_at: Instant,
    succeeded: bool,
}

impl ApiKeys {
    /// Over the table, and the bootstrap key. Call it inside tokio; it reaches nothing yet.
    pub fn new(database: Database, bootstrap: Option<&SecretString>) -> Self {
        Self(Arc::new(Inner {
            store: Store::new(database),
            bootstrap: bootstrap.map(Digest::of_secret),
            snapshot: RwLock::default(),
            reading: Mutex::new(None),
            outage: AtomicBool::new(false),
            next_reading_ms: AtomicU64::new(0),
            start: Instant::now(),
            runtime: Handle::current(),
        }))
    }

    /// Makes a key. Its text is in the answer and nowhere else.
    pub async fn create(&self, name: &str, scopes: Scopes) -> Result<NewKey, KeyError> {
        let length = name.chars().count();
        if !(1..=MAX_NAME).contains(&length) || name.trim() != name || name.chars().any(char::is_control) {
            return Err(KeyError::InvalidName);
        }
        if self.0.store.count_active().await? >= MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        let secret = secret::generate();
        let id = KeyId::generate();
        self.0
            .store
            .insert(id, name, &Digest::of_secret(&secret), scopes)
            .await?;
        Ok(NewKey {
            id,
            name: name.to_owned(),
            scopes,
            secret,
        })
    }

    /// Every key that was ever made, oldest first.
    pub async fn list(&self) -> Result<Vec<StoredKey>, KeyError> {
        Ok(self.0.store.list().await?)
    }

    /// Ends the key with this name or id; it works nowhere after [`HARD_LIMIT`]. Ending it again changes nothing.
    /// `None`: there is no such key.
    pub async fn revoke(&self, name_or_id: &str) -> Result<Option<StoredKey>, KeyError> {
        let keys = self.list().await?;
        let id = name_or_id.parse().ok();
        let found = keys
            .into_iter()
            .find(|key| key.name == name_or_id || Some(key.id) == id);
        if let Some(key) = &found {
            self.0.store.revoke(key.id).await?;
        }
        Ok(found)
    }

    /// Whether any key is in force, the bootstrap key included.
    pub async fn any(&self) -> Result<bool, KeyError> {
        Ok(self.0.bootstrap.is_some() || self.0.store.count_active().await? > 0)
    }

    /// Who presents this token.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, AuthError> {
        match self.known(token) {
            Some(caller) => Ok(caller),
            None => self.look_up(token).await,
        }
    }

    /// Who presents this token, if that can be said at once.
    pub(crate) fn known(&self, token: &str) -> Option<Caller> {
        let digest = Digest::of(token);
        if self
            .0
            .bootstrap
            .as_ref()
            .is_some_and(|bootstrap| bootstrap.matches(&digest))
        {
            return Some(Caller::Bootstrap);
        }
        self.0.with_usable(|snapshot| snapshot.find(&digest)).flatten()
    }

    async fn look_up(&self, token: &str) -> Result<Caller, AuthError> {
        let is_current = self.read_again().await;
        let snapshot = self.0.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        match snapshot.find(&Digest::of(token)) {
            Some(caller) if snapshot.is_within(STALE_LIMIT) => Ok(caller),
            None if is_current => Err(AuthError::Unknown),
            _ => Err(AuthError::Unavailable),
        }
    }

    /// Whether there is no key at all in the table, as far as is known. Serves as long as it must while the database
    /// is away: it is asked only where everything but this machine is shut out.
    pub(crate) async fn none_exist(&self) -> Result<bool, AuthError> {
        if let Some(empty) = self.0.with_usable(|snapshot| snapshot.keys.is_empty()) {
            return Ok(empty);
        }
        self.read_again().await;
        let snapshot = self.0.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        snapshot
            .read_at
            .map(|_| snapshot.keys.is_empty())
            .ok_or(AuthError::Unavailable)
    }

    /// Writes what is still unwritten of `last_used_at`: a stopping server's last word.
    pub async fn flush_usage(&self) {
        self.0.touch_used(Duration::ZERO).await;
    }

    /// Reads the table again, unless that was done a moment ago. True: the snapshot is what the table says.
    async fn read_again(&self) -> bool {
        let inner = Arc::clone(&self.0);
        let reading = AbortOnDropHandle::new(self.0.runtime.spawn(async move { inner.read_once().await }));
        reading.await.unwrap_or(false)
    }
}

impl Inner {
    /// Looks at the snapshot if no request has to wait for a newer one.
    fn with_usable<T>(self: &Arc<Self>, look: impl FnOnce(&Snapshot) -> T) -> Option<T> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        if snapshot.is_within(SOFT_LIMIT) {
            return Some(look(&snapshot));
        }
        let outage = self.outage.load(Ordering::Relaxed);
        if snapshot.is_within(HARD_LIMIT) || (outage && snapshot.is_within(STALE_LIMIT)) {
            self.read_behind_the_back();
            return Some(look(&snapshot));
        }
        None
    }

    /// Starts a reading, at most one in [`FAILURE_PAUSE`].
    fn read_behind_the_back(self: &Arc<Self>) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_reading_ms.load(Ordering::Relaxed);
        let after = now + FAILURE_PAUSE.as_millis() as u64;
        let ours = now >= next
            && self
                .next_reading_ms
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            let inner = Arc::clone(self);
            self.runtime.spawn(async move { inner.read_once().await });
        }
    }

    /// Reads the table, or learns from a reading that began since. Runs on the process' own runtime.
    async fn read_once(self: &Arc<Self>) -> bool {
        let asked_at = Instant::now();
        let mut last = self.reading.lock().await;
        if let Some(reading) = *last {
            if reading.begun_at >= asked_at {
                return reading.succeeded;
            }
            if !reading.succeeded && reading.ended_at.elapsed() < FAILURE_PAUSE {
                return false;
            }
            tokio::time::sleep_until(reading.ended_at + MISS_PAUSE).await;
        }
        let begun_at = Instant::now();
        let result = tokio::time::timeout(READ_DEADLINE, self.store.active(MAX_KEYS)).await;
        let succeeded = match result.unwrap_or(Err(StoreError::TimedOut(READ_DEADLINE))) {
            Ok(keys) => {
                self.replace(keys);
                if self.outage.swap(false, Ordering::Relaxed) {
                    tracing::info!("API keys can be read again");
                }
                true
            }
            Err(error) => {
                if !self.outage.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "API keys cannot be read: those known keep working for a while"
                    );
                }
                false
            }
        };
        *last = Some(Reading {
            begun_at,
            ended_at: Instant::now(),
            succeeded,
        });
        drop(last);
        if succeeded {
            // Nobody waits for this.
            let inner = Arc::clone(self);
            tokio::spawn(async move { inner.touch_used(TOUCH_PERIOD).await });
        }
        succeeded
    }

    fn replace(&self, keys: Vec<super::store::ActiveKey>) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let kept = std::mem::take(&mut snapshot.keys);
        snapshot.keys = keys
            .into_iter()
            .map(|key| {
                let used = kept
                    .get(&key.digest)
                    .is_some_and(|known| known.used.load(Ordering::Relaxed));
                let known = Known {
                    id: key.id,
                    digest: key.digest,
                    scopes: key.scopes,
                    used: AtomicBool::new(used),
                };
                (key.digest, Arc::new(known))
            })
            .collect();
        snapshot.read_at = Some(Instant::now());
    }

    /// Writes `last_used_at` of the keys used since, unless that was done less than `period` ago.
    async fn touch_used(&self, period: Duration) {
        let used: Vec<Arc<Known>> = {
            let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            if snapshot.touched_at.is_some_and(|at| at.elapsed() < period) {
                return;
            }
            snapshot.touched_at = Some(Instant::now());
            snapshot
                .keys
                .values()
                .filter(|key| key.used.swap(false, Ordering::Relaxed))
                .cloned()
                .collect()
        };
        if used.is_empty() {
            return;
        }
        let ids: Vec<KeyId> = used.iter().map(|key| key.id).collect();
        if let Err(error) = self.store.touch(&ids).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "last use of API keys was not written"
            );
        }
    }
}

impl Snapshot {
    fn is_within(&self, limit: Duration) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() < limit)
    }

    fn find(&self, digest: &Digest) -> Option<Caller> {
        let known = self
            .keys
            .get(digest)
            .filter(|known| known.digest.matches(digest))?;
        // Read first: a write by every request would move the cache line between the threads.
        if !known.used.load(Ordering::Relaxed) {
            known.used.store(true, Ordering::Relaxed);
        }
        Some(Caller::Key {
            id: known.id,
            scopes: known.scopes,
        })
    }
}
