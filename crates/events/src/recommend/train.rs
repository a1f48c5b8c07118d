//! A training: from SQL to a new version of the model.
//!
//! Everything is read in pages, each a statement of its own, so a long training holds no transaction. What changes
//! meanwhile may be in it or not; how the stores stood is noted before they are read, so the next training sees the change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use holdfast_core::clock;
use holdfast_jobs::{JobContext, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::store::{About, checksum};
use super::{
    Catalogue, EventFeatures, FULL_EVERY, MAX_EVENTS, MAX_INTERACTIONS, MAX_MODEL_BYTES, Model, Ratings,
    RecommendError, Recommender, Taste, blocking,
};
use crate::interactions::{Cursor, UserInteraction};
use crate::store::ForTraining;

/// What of one user's past is learned from: the newest.
const ACTIONS: usize = 1_000;

/// Events that one user likes, those liked most: the costs grow with the square.
const LIKES: usize = 300;

/// What a training found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainedWhat {
    /// Nothing has changed: the model stands.
    Nothing,
    /// Events were read anew, and what was learned taken over.
    Events,
    Everything,
}

/// What a training did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Trained")]
pub struct TrainingReport {
    pub what: TrainedWhat,
    /// The version that counts now; the one before if there was nothing to do.
    #[schemars(with = "Option<String>")]
    pub version: Option<Ulid>,
    pub events: usize,
    /// Learned from; zero unless everything was learned.
    pub users: usize,
    pub ratings: usize,
    /// Uncompressed.
    pub bytes: usize,
    pub seconds: f64,
}

/// Whether to go on: a training may be cancelled between two pages.
type GoOn<'a> = &'a (dyn Fn() -> bool + Sync);

impl Recommender {
    /// Trains as a job: gives way to a cancellation.
    pub(super) async fn train_job(
        &self,
        full: bool,
        context: &JobContext,
    ) -> Result<TrainingReport, JobError> {
        match self.train_while(full, &|| !context.is_cancelled()).await? {
            Some(trained) => Ok(trained),
            None => Err(JobError::Cancelled),
        }
    }

    /// Trains what has changed; or, if told so, everything.
    pub async fn train(&self, full: bool) -> Result<TrainingReport, RecommendError> {
        self.train_while(full, &|| true)
            .await?
            .ok_or(RecommendError::Lost)
    }

    /// `None`: told not to go on.
    async fn train_while(
        &self,
        full: bool,
        go_on: GoOn<'_>,
    ) -> Result<Option<TrainingReport>, RecommendError> {
        let began = Instant::now();
        let (events, interactions) = (
            self.0.events.standing().await?,
            self.0.interactions.standing().await?,
        );
        let now = clock::now();
        let before = self.about().await?.filter(|about| {
            let age = (now - about.learned_at).to_std().unwrap_or_default();
            !full && about.interactions == interactions && age < FULL_EVERY
        });
        let mut trained = TrainingReport {
            what: TrainedWhat::Nothing,
            version: self.stored_version().await?,
            events: 0,
            users: 0,
            ratings: 0,
            bytes: 0,
            seconds: 0.0,
        };
        if before.as_ref().is_some_and(|about| about.events == events) {
            trained.seconds = began.elapsed().as_secs_f64();
            return Ok(Some(trained));
        }
        // The version that counts now, not one that this process still holds. A process that cannot read it learns everything.
        let older = match &before {
            Some(_) => self.look().await.unwrap_or_default(),
            None => None,
        };
        let learned_at = match (&before, &older) {
            (Some(about), Some(_)) => about.learned_at,
            _ => now,
        };
        let Some(mut model) = self.read_events(go_on).await? else {
            return Ok(None);
        };
        if let Some(older) = older {
            trained.what = TrainedWhat::Events;
            model = blocking(move || {
                model.inherit(&older);
                model
            })
            .await?;
        } else {
            trained.what = TrainedWhat::Everything;
            let Some((read, ratings)) = self.read_ratings(model, now.timestamp_millis(), go_on).await? else {
                return Ok(None);
            };
            (trained.users, trained.ratings) = (ratings.users(), ratings.entries());
            model = blocking(move || {
                let mut model = read;
                model.learn(&ratings, now.timestamp());
                model
            })
            .await?;
        }
        trained.events = model.events();
        let (bytes, sum) = blocking(move || {
            let bytes = model.to_bytes();
            let sum = checksum(&bytes);
            (bytes, sum)
        })
        .await?;
        trained.bytes = bytes.len();
        if bytes.len() > MAX_MODEL_BYTES {
            return Err(super::LedgerError::Corrupt(format!(
                "a model of {} bytes is larger than {MAX_MODEL_BYTES}",
                bytes.len()
            ))
            .into());
        }
        let about = About {
            bytes: bytes.len(),
            checksum: sum,
            events,
            interactions,
            learned_at,
        };
        trained.version = Some(self.save(Arc::new(bytes), &about).await?);
        trained.seconds = began.elapsed().as_secs_f64();
        Ok(Some(trained))
    }

    /// The events, latest start first, up to [`MAX_EVENTS`].
    async fn read_events(&self, go_on: GoOn<'_>) -> Result<Option<Model>, RecommendError> {
        let mut catalogue = Catalogue::default();
        let (mut after, mut read) = (None, 0);
        while read < MAX_EVENTS {
            if !go_on() {
                return Ok(None);
            }
            let page = self.0.events.training_page(after).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.starts_ms, last.id));
            read += page.len();
            catalogue = blocking(move || {
                for event in &page {
                    catalogue.push(&described(event));
                }
                catalogue
            })
            .await?;
        }
        if read >= MAX_EVENTS {
            tracing::warn!(
                events = MAX_EVENTS,
                "there are more events than a model takes: the earliest are left out"
            );
        }
        Ok(Some(blocking(move || catalogue.ordered()).await?))
    }

    /// What users like, by the newest [`MAX_INTERACTIONS`]; and the model again, which is read meanwhile.
    async fn read_ratings(
        &self,
        mut model: Model,
        now: i64,
        go_on: GoOn<'_>,
    ) -> Result<Option<(Model, Ratings)>, RecommendError> {
        let oldest = now - i64::try_from(self.0.settings.retain_interactions.as_millis()).unwrap_or(now);
        let newest = self.0.interactions.newest(MAX_INTERACTIONS).await?;
        let since = newest.unwrap_or(i64::MIN).max(oldest).max(0);
        let half_life = self.0.settings.half_life;
        let mut users = Users::default();
        let mut after: Option<Cursor> = None;
        loop {
            if !go_on() {
                return Ok(None);
            }
            let page = self.0.interactions.training_page(since, after.as_ref()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            let like = move |done: &[UserInteraction]| Taste::from_actions(done, now, half_life);
            (model, users) = blocking(move || {
                users.read(&page, &model, &like);
                (model, users)
            })
            .await?;
        }
        let like = move |done: &[UserInteraction]| Taste::from_actions(done, now, half_life);
        users.end(&model, &like);
        Ok(Some((model, users.ratings)))
    }
}

fn described(event: &ForTraining) -> EventFeatures<'_> {
    EventFeatures {
        id: event.id,
        starts_at: event.starts_ms.div_euclid(1_000),
        category: event.category.as_deref(),
        title: &event.title,
        description: event.description.as_deref().unwrap_or_default(),
        place: event.place,
    }
}

/// Users, one after another: rows come by user and time.
#[derive(Default)]
struct Users {
    ratings: Ratings,
    name: String,
    done: VecDeque<UserInteraction>,
}

impl Users {
    fn read(&mut self, page: &[Cursor], model: &Model, like: &impl Fn(&[UserInteraction]) -> Taste) {
        for row in page {
            if row.user_id != self.name {
                self.end(model, like);
                self.name.clone_from(&row.user_id);
            }
            self.done.extend(row.done());
            if self.done.len() > ACTIONS {
                self.done.pop_front();
            }
        }
    }

    /// The user is complete.
    fn end(&mut self, model: &Model, like: &impl Fn(&[UserInteraction]) -> Taste) {
        let taste = like(self.done.make_contiguous());
        self.done.clear();
        let mut likes: Vec<_> = taste.likes().collect();
        likes.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        likes.truncate(LIKES);
        self.ratings.push(model, likes);
    }
}
