//! API keys: made, listed, rotated, revoked, and known again at every request without asking the database.
//!
//! Every key in force is in memory ([`Mirror`]): a revoked key works for at most [`HARD_LIMIT`] on any server that reaches
//! the database, and a new key works at once. A rotated key has two texts until its period of grace is over: the new
//! one, and the one before.
//!
//! While the database is away the copy serves for an hour; tokens that it does not know are
//! [`AuthError::Unavailable`].
//!
//! When a key was used last is noted in memory, and written once a minute at most, after a reading that some request
//! caused anyhow: no request waits for it.

pub(crate) mod bounds;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_core::failure::{FailureClass, SqlFailureKind, classify_sql};
use holdfast_core::sql::Database;
use holdfast_http::{Binding, Caller, Scopes};
use holdfast_jobs::audit::AuditContext;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::store::{ActiveKey, MAX_KEYS, Store};
pub use self::store::{KeyId, StoredKey};
pub use crate::mirror::HARD_LIMIT;
use crate::mirror::{Mirror, Table};
use crate::secret::{self, Digest};
use crate::sql::StoreError;

/// Between two writings of `last_used_at`.
const TOUCH_PERIOD: Duration = Duration::from_mins(1);

/// Longest name of a key, in characters.
const MAX_NAME: usize = 100;

/// Longest period of grace after a rotation: a key that needs longer was not rotated.
pub const MAX_GRACE: Duration = Duration::from_hours(30 * 24);

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
    #[error("a period of grace has at most {} days", MAX_GRACE.as_secs() / 86_400)]
    GraceTooLong,
    #[error("{field}: {reason}")]
    InvalidBinding { field: String, reason: String },
    #[error("the key is revoked: make another")]
    Revoked,
    #[error("{MAX_KEYS} keys are in force already: revoke some")]
    TooMany,
    /// Transient: try again.
    #[error("the database is unavailable")]
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
            StoreError::TimedOut { .. } | StoreError::Unavailable { .. } => Self::Unavailable(error.into()),
        }
    }
}

/// A key that was just made: the only time its text is to be had.
#[derive(Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub name: String,
    pub scopes: Scopes,
    /// The only queues and kinds that it may be used for; `None`: any.
    pub binding: Option<Binding>,
    pub secret: SecretString,
}

/// Every API key of an installation. Cheap to clone.
#[derive(Clone)]
pub struct ApiKeys {
    bootstrap: Option<Digest>,
    operator: Option<Digest>,
    mirror: Mirror<KeyTable>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys")
            .field("bootstrap", &self.bootstrap.is_some())
            .finish_non_exhaustive()
    }
}

struct KeyTable {
    store: Store,
    /// When `last_used_at` was written last. Held while it is written: the stop of the server waits for a write under way.
    touched_at: Mutex<Option<Instant>>,
}

/// By the digest of each text that works.
#[derive(Default)]
struct KnownKeys(HashMap<Digest, ListedKey>);

struct ListedKey {
    id: KeyId,
    digest: Digest,
    scopes: Scopes,
    binding: Option<Arc<Binding>>,
    /// Since `last_used_at` was written last. Shared by the texts of one key.
    used: Arc<AtomicBool>,
}

impl ApiKeys {
    /// Over the table, and the bootstrap key. Call it inside tokio; it reaches nothing yet.
    pub fn new(database: Database, bootstrap: Option<&SecretString>) -> Self {
        Self {
            bootstrap: bootstrap.map(Digest::of_secret),
            operator: None,
            mirror: Mirror::new(KeyTable {
                store: Store::new(database),
                touched_at: Mutex::new(None),
            }),
        }
    }

    /// Accepts this key too, as the operator's.
    #[must_use]
    pub fn with_operator(mut self, key: &SecretString) -> Self {
        self.operator = Some(Digest::of_secret(key));
        self
    }

    /// Makes a key. Its text is in the answer and nowhere else.
    pub async fn create(&self, name: &str, scopes: Scopes, by: &AuditContext) -> Result<NewKey, KeyError> {
        self.create_bound(name, scopes, None, by).await
    }

    /// The same, for these queues and kinds alone.
    pub async fn create_bound(
        &self,
        name: &str,
        scopes: Scopes,
        binding: Option<Binding>,
        by: &AuditContext,
    ) -> Result<NewKey, KeyError> {
        let length = name.chars().count();
        if !(1..=MAX_NAME).contains(&length) || name.trim() != name || name.chars().any(char::is_control) {
            return Err(KeyError::InvalidName);
        }
        if self.store().count_active().await? >= MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        let secret = secret::generate();
        let id = KeyId::generate();
        let digest = Digest::of_secret(&secret);
        let binding = binding.filter(|binding| !binding.is_empty());
        self.store()
            .insert(id, name, &digest, scopes, binding.as_ref(), by)
            .await?;
        Ok(NewKey {
            id,
            name: name.to_owned(),
            scopes,
            binding,
            secret,
        })
    }

    /// Every key that was ever made, oldest first.
    pub async fn list(&self) -> Result<Vec<StoredKey>, KeyError> {
        Ok(self.store().list().await?)
    }

    /// Ends the key with this name or id, both its texts if it was rotated; it works nowhere after [`HARD_LIMIT`].
    /// Ending it again changes nothing. `None`: there is no such key.
    pub async fn revoke(&self, name_or_id: &str, by: &AuditContext) -> Result<Option<StoredKey>, KeyError> {
        let Some(key) = self.find(name_or_id).await? else {
            return Ok(None);
        };
        self.store().revoke(key.id, by).await?;
        self.find(&key.id.to_string()).await
    }

    /// Gives the key with this name or id another text. The text before works for `grace` more, and [`HARD_LIMIT`] at
    /// most beyond that; one from before an earlier rotation ends now. `None`: there is no such key.
    pub async fn rotate(
        &self,
        name_or_id: &str,
        grace: Duration,
        by: &AuditContext,
    ) -> Result<Option<NewKey>, KeyError> {
        if grace > MAX_GRACE {
            return Err(KeyError::GraceTooLong);
        }
        let Some(key) = self.find(name_or_id).await? else {
            return Ok(None);
        };
        let secret = secret::generate();
        let digest = Digest::of_secret(&secret);
        let set = |names: Option<Vec<String>>| names.unwrap_or_default().into_iter().collect();
        let binding = Binding {
            queues: set(key.queues),
            kinds: set(key.kinds),
        };
        let binding = Some(binding).filter(|binding| !binding.is_empty());
        let is_bound = binding.is_some();
        if !self.store().rotate(key.id, &digest, is_bound, grace, by).await? {
            return Err(KeyError::Revoked);
        }
        Ok(Some(NewKey {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            binding,
            secret,
        }))
    }

    async fn find(&self, name_or_id: &str) -> Result<Option<StoredKey>, KeyError> {
        let id = name_or_id.parse().ok();
        let mut keys = self.list().await?.into_iter();
        Ok(keys.find(|key| key.name == name_or_id || Some(key.id) == id))
    }

    /// Whether any key is in force, the bootstrap key included.
    pub async fn any(&self) -> Result<bool, KeyError> {
        Ok(self.bootstrap.is_some() || self.store().count_active().await? > 0)
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
        let is_bootstrap = |bootstrap: &Digest| bootstrap.matches(&digest);
        if self.bootstrap.as_ref().is_some_and(is_bootstrap) {
            return Some(Caller::Bootstrap);
        }
        if self.operator.is_some_and(|operator| operator.matches(&digest)) {
            return Some(Caller::Operator);
        }
        self.mirror.look(|keys| keys.find(&digest)).flatten()
    }

    /// Who presents a token that is not [`known`](Self::known).
    pub(crate) async fn look_up(&self, token: &str) -> Result<Caller, AuthError> {
        let digest = Digest::of(token);
        let answer = self.mirror.look_again(|keys| keys.find(&digest)).await;
        match answer.found.flatten() {
            Some(caller) if answer.is_usable => Ok(caller),
            None if answer.is_current => Err(AuthError::Unknown),
            _ => Err(AuthError::Unavailable),
        }
    }

    /// Whether there is no key at all in the table, as far as is known. Serves as long as it must while the database
    /// is away: it is asked only where everything but this machine is shut out.
    pub(crate) async fn none_exist(&self) -> Result<bool, AuthError> {
        if let Some(empty) = self.mirror.look(|keys| keys.0.is_empty()) {
            return Ok(empty);
        }
        let answer = self.mirror.look_again(|keys| keys.0.is_empty()).await;
        answer.found.ok_or(AuthError::Unavailable)
    }

    /// Writes what is still unwritten of `last_used_at`: a stopping server's last word.
    pub async fn flush_usage(&self) {
        let rows = self.mirror.rows();
        self.mirror.table().touch_used(&rows, Duration::ZERO).await;
    }

    fn store(&self) -> &Store {
        &self.mirror.table().store
    }
}

impl Table for KeyTable {
    type Rows = KnownKeys;

    const NAME: &'static str = "API keys";

    async fn read(&self) -> Result<KnownKeys, StoreError> {
        let mut known = KnownKeys::default();
        for key in self.store.active(MAX_KEYS).await? {
            known.add(&key);
        }
        Ok(known)
    }

    fn inherit(old: &KnownKeys, new: &mut KnownKeys) {
        for (digest, key) in &mut new.0 {
            if let Some(before) = old.0.get(digest)
                && before.used.load(Ordering::Relaxed)
            {
                key.used.store(true, Ordering::Relaxed);
            }
        }
    }

    async fn follow_up(&self, rows: Arc<KnownKeys>) {
        self.touch_used(&rows, TOUCH_PERIOD).await;
    }
}

impl KeyTable {
    /// Writes `last_used_at` of the keys used since, unless that was done less than `period` ago.
    async fn touch_used(&self, keys: &KnownKeys, period: Duration) {
        let mut touched_at = self.touched_at.lock().await;
        if touched_at.is_some_and(|at| at.elapsed() < period) {
            return;
        }
        *touched_at = Some(Instant::now());
        let used = keys
            .0
            .values()
            .filter(|key| key.used.swap(false, Ordering::Relaxed));
        let ids: Vec<KeyId> = used.map(|key| key.id).collect();
        if ids.is_empty() {
            return;
        }
        if let Err(error) = self.store.touch(&ids).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "last use of API keys was not written"
            );
        }
    }
}

impl KnownKeys {
    fn add(&mut self, key: &ActiveKey) {
        let used = Arc::new(AtomicBool::new(false));
        for digest in [Some(key.digest), key.previous].into_iter().flatten() {
            let known = ListedKey {
                id: key.id,
                digest,
                scopes: key.scopes,
                binding: key.binding.clone(),
                used: Arc::clone(&used),
            };
            self.0.insert(digest, known);
        }
    }

    fn find(&self, digest: &Digest) -> Option<Caller> {
        let known = self.0.get(digest).filter(|known| known.digest.matches(digest))?;
        // Read first: a write by every request would move the cache line between the threads.
        if !known.used.load(Ordering::Relaxed) {
            known.used.store(true, Ordering::Relaxed);
        }
        Some(Caller::Key {
            id: known.id.as_ulid(),
            scopes: known.scopes,
            binding: known.binding.clone(),
        })
    }
}
