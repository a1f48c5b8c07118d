//! Recommendations: upcoming events for a user, each with a reason; no service beyond SQL, and Redis as a cache.
//!
//! # The model
//! What people did with events ([`crate::interactions`]) becomes how much they like them (`taste.rs`: weights, decay by
//! age). From that a training learns which events the same people like (`similar.rs`: item-item cosine over implicit
//! feedback), and from the events' own words what they are about (`text.rs`: TF-IDF). A list for a user blends both with
//! category, nearness, popularity and how soon it is, then makes it varied (`rank.rs`, with all weights). The model knows
//! events and no users: a user's own actions are read when a list is made, so they count at once, and a user who is
//! deleted is gone from the next list. What comes of all this against popularity and chance: [`evaluate`],
//! `holdfast-bench recommend`.
//!
//! # Where it lives
//! `ml.train` makes it from SQL, in a worker, and stores it in SQL as a version of compressed pieces (`store.rs`); a version
//! counts once all of it is there. Every process that makes lists, API or worker, loads the version that counts when it
//! first needs it, looks for another every [`LOOK_AGAIN`], and holds one at a time (two while it changes over). Training
//! once and loading many times costs a process a second and no more memory than the model; training in each would cost
//! each of them the time and the memory of a training. Bounds: [`MAX_EVENTS`], [`MAX_INTERACTIONS`], [`MAX_MODEL_BYTES`].
//!
//! # Incremental training
//! A training looks first what has changed. Nothing: it ends. Only events (new, changed, cancelled): their words, places and
//! times are read anew, and what was learned of interactions is taken over. Interactions as well: everything is learned
//! anew, and so it is once a day ([`FULL_EVERY`]). To update likenesses in place would not do: each user's new action
//! changes the norm of an event, and with it the likeness of every neighbour, so that what is left unchanged is hardly
//! less than all; and all of it takes seconds.
//!
//! # Lists
//! Cached for the class `Recommendation` (an hour), served stale while a newer one is made. A save, an attendance or a
//! dismissal drops the user's list; a view does not. A request without a list in the cache waits
//! `recommend.deadline_seconds` for it, and gets what is popular after that, marked so; the list is made all the same. An
//! event that begins leaves every list at once; one that is cancelled or changed leaves a cached list with its time.
//!
//! # When things fail
//! - *There is no model yet, or it cannot be read*: lists are what is popular, by the newest interactions in SQL.
//! - *SQL is away*: what is cached serves, stale too; without it 503.
//! - *Redis is away*: copies in the process serve, and lists are made anew.
//! - *A training dies*: the version before still counts; the pieces it left are swept by a later one.

mod codec;
pub mod evaluate;
mod jobs;
mod lists;
mod matrix;
mod model;
mod rank;
mod similar;
mod store;
mod taste;
mod text;
mod train;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use ulid::Ulid;

pub use self::codec::Unreadable;
pub use self::jobs::{MlRecommend, MlTrain, RecommendReport};
pub use self::lists::{Because, Item, List, ListSource, MAX_LISTED, Reason};
pub use self::model::{Catalogue, EventFeatures, Model, Ratings};
pub use self::taste::Taste;
pub use self::train::{TrainedWhat, TrainingReport};
use crate::RecommendSettings;
use crate::interactions::{Action, Interaction, InteractionReport, Interactions};
use crate::store::Events;
use holdfast_product::UserName;

/// Most events of a model, those that begin last.
pub const MAX_EVENTS: usize = 500_000;

/// Most interactions that a training reads, the newest.
pub const MAX_INTERACTIONS: usize = 5_000_000;

/// Largest model, in bytes; that of [`MAX_EVENTS`] with all their neighbours takes less.
pub const MAX_MODEL_BYTES: usize = 512 << 20;

/// How often a process looks whether another version of the model counts.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How often everything is learned anew, whatever has changed.
pub const FULL_EVERY: Duration = Duration::from_hours(24);

/// How often a worker prunes events and interactions, and how many steps it takes at a time.
const WATCH_PERIOD: Duration = Duration::from_mins(1);
const PRUNE_STEPS: usize = 10;

/// Cached lists dropped at once.
const DROPS: usize = 16;

/// Why there is no list, or no model.
#[derive(Debug, thiserror::Error)]
pub enum RecommendError {
    #[error(transparent)]
    Sql(#[from] LedgerError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("a computation of recommendations ended without a word")]
    Lost,
}

/// Recommendations over one database and one cache. Cheap to clone; all clones share one model.
#[derive(Clone)]
pub struct Recommender(Arc<Inner>);

struct Inner {
    sql: Sql,
    events: Events,
    interactions: Interactions,
    cache: Cache,
    settings: RecommendSettings,
    /// Tells deployments on different databases apart.
    deployment: String,
    held: RwLock<LoadedModel>,
    /// Held while a process looks for another version.
    looking: tokio::sync::Mutex<()>,
}

/// The version in this process.
#[derive(Default, Clone)]
struct LoadedModel {
    model: Option<(Ulid, Arc<Model>)>,
    looked: Option<Instant>,
}

impl Recommender {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, cache: &Cache) -> Self {
        let digest = Sha256::digest(settings.database.url.expose_secret());
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            events: Events::new(settings, database, cache),
            interactions: Interactions::new(settings, database),
            cache: cache.clone(),
            settings: settings.section(),
            deployment: URL_SAFE_NO_PAD.encode(&digest[..9]),
            held: RwLock::default(),
            looking: tokio::sync::Mutex::default(),
        }))
    }

    /// The store it reads events from.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// The store it learns from.
    pub fn interactions(&self) -> &Interactions {
        &self.0.interactions
    }

    /// Stores interactions whose event exists, and drops the cached lists of those who did more than look.
    pub async fn accept(&self, interactions: &[Interaction]) -> Result<InteractionReport, LedgerError> {
        use futures::StreamExt;
        let accepted = self.0.interactions.accept(interactions).await?;
        let telling = interactions
            .iter()
            .filter(|one| one.action != Action::View && !accepted.unknown.contains(&one.event));
        let users: std::collections::BTreeSet<&UserName> = telling.map(|one| &one.user).collect();
        futures::stream::iter(users)
            .for_each_concurrent(DROPS, |user| async move { self.drop_list(user).await })
            .await;
        Ok(accepted)
    }

    /// Forgets a user: all interactions, and the cached list. What a deletion of the user calls; after a failure, again.
    pub async fn forget(&self, user: &UserName) -> Result<u64, LedgerError> {
        let gone = self.0.interactions.forget(user).await?;
        self.drop_list(user).await;
        Ok(gone)
    }

    /// The model that counts, as far as this process knows; `None`: there is none yet. Whoever finds another version being
    /// loaded goes on with the one that is there.
    pub async fn model(&self) -> Result<Option<Arc<Model>>, RecommendError> {
        let held = self.held();
        if held.is_fresh() {
            return Ok(held.model());
        }
        let _looking = match (self.0.looking.try_lock(), &held.model) {
            (Ok(guard), _) => guard,
            (Err(_), Some((_, model))) => return Ok(Some(Arc::clone(model))),
            (Err(_), None) => self.0.looking.lock().await,
        };
        // Another task may have looked while this one waited.
        let meanwhile = self.held();
        if meanwhile.is_fresh() {
            return Ok(meanwhile.model());
        }
        match self.look().await {
            Ok(model) => Ok(model),
            // An older version is better than none; the next look is due at once.
            Err(error) => match held.model {
                Some((_, model)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no newer model can be loaded"
                    );
                    Ok(Some(model))
                }
                None => Err(error),
            },
        }
    }

    async fn look(&self) -> Result<Option<Arc<Model>>, RecommendError> {
        let held = self.held();
        let counting = self.stored_version().await?;
        let model = match (counting, held.model) {
            (None, _) => None,
            (Some(version), Some((known, model))) if known == version => Some((known, model)),
            (Some(_), _) => self.load().await?,
        };
        let found = model.as_ref().map(|(_, model)| Arc::clone(model));
        *self.0.held.write().unwrap_or_else(PoisonError::into_inner) = LoadedModel {
            model,
            looked: Some(Instant::now()),
        };
        Ok(found)
    }

    fn held(&self) -> LoadedModel {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another version counts: the next list looks for it.
    fn look_soon(&self) {
        self.0.held.write().unwrap_or_else(PoisonError::into_inner).looked = None;
    }

    /// Prunes events and interactions for as long as it is polled: a worker's duty.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(WATCH_PERIOD).await;
            if let Err(error) = self.prune().await {
                tracing::debug!(error = ?error, "cannot prune events and interactions");
            }
        }
    }

    /// Some steps of pruning; interactions first, because they keep their events.
    pub async fn prune(&self) -> Result<u64, LedgerError> {
        let mut sum = 0;
        for _ in 0..PRUNE_STEPS {
            let gone = self.0.interactions.prune().await? + self.0.events.prune().await?;
            if gone == 0 {
                break;
            }
            sum += gone;
        }
        Ok(sum)
    }
}

impl LoadedModel {
    /// Looked for lately, whether it was there or not.
    fn is_fresh(&self) -> bool {
        self.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN)
    }

    fn model(&self) -> Option<Arc<Model>> {
        self.model.as_ref().map(|(_, model)| Arc::clone(model))
    }
}

impl fmt::Debug for Recommender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recommender").finish_non_exhaustive()
    }
}

/// Work that computes, off the threads that wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RecommendError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_ended| RecommendError::Lost)
}
