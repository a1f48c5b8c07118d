//! Lists: made of the model and of what a user did, cached, and served in time.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use holdfast_cache::{CachedValue, Class, Key, LoadError, Namespace};
use holdfast_core::clock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::rank::{self, Ranking, rank};
use super::{Model, RecommendError, Recommender, Taste, blocking};
use crate::store::{Event, Filter};
use holdfast_product::UserName;

/// Events of one list.
pub const MAX_LISTED: usize = 50;

/// Ranked beyond that, to take the place of what was cancelled or gone since the training.
const SPARE: usize = 20;

/// What of a user's past counts: the newest.
const ACTIONS: usize = 500;

/// The newest interactions that say what is popular where there is no model.
const POPULAR_AMONG: usize = 10_000;

/// The names of users may say who they are: Redis sees hashes of them.
const LISTS: Namespace<List> = Namespace::json(Class::Recommendation, "recommendations", 1).opaque();
const POPULAR: Namespace<List> = Namespace::json(Class::ApiResponse, "popular-events", 1);

/// What a list was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListSource {
    /// What the user did.
    Personal,
    /// What everybody does: nothing is known of the user, or nothing was known in time.
    Popular,
}

/// Events recommended to a user, best first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct List {
    pub source: ListSource,
    pub made_at: DateTime<Utc>,
    /// [`MAX_LISTED`] at most.
    pub items: Vec<Item>,
}

/// One recommended event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub event: Ulid,
    pub title: String,
    pub category: Option<String>,
    pub url: Option<String>,
    pub starts_at: DateTime<Utc>,
    pub place: Option<String>,
    /// 0 to 1; compares within one list only.
    pub score: f32,
    pub because: Because,
}

/// Why an event is recommended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Because {
    pub why: Reason,
    /// The event that it is like, or near to.
    pub event: Option<Ulid>,
    /// A readable description.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Those who like that event like this one.
    Similar,
    /// Its words are those of that event.
    Words,
    Category,
    /// It takes place near to that event.
    Near,
    Popular,
    Soon,
}

impl Recommender {
    /// A user's list, within the deadline: from the cache, made now, or what is popular.
    pub async fn list(&self, user: &UserName) -> Result<CachedValue<List>, LoadError<RecommendError>> {
        let (this, name) = (self.clone(), user.clone());
        let key = self.key(user);
        let load = move || async move { this.make(&name).await };
        let listing = self.0.cache.get_or_load(&key, load);
        let found = match tokio::time::timeout(self.0.settings.deadline, listing).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "a list of recommendations cannot be made");
                self.popular().await
            }
            // It is made all the same, for the next request.
            Err(_late) => self.popular().await,
        };
        found.map(only_ahead)
    }

    /// Makes a user's list anew, and caches it.
    pub async fn refresh(&self, user: &UserName) -> Result<List, RecommendError> {
        let list = self.make(user).await?;
        self.0.cache.set(&self.key(user), &list).await;
        Ok(list)
    }

    /// Drops what is cached for a user.
    pub(crate) async fn drop_list(&self, user: &UserName) {
        self.0.cache.delete(&self.key(user)).await;
    }

    fn key(&self, user: &UserName) -> Key<List> {
        LISTS.key(&[self.0.deployment.as_str(), user.as_str()])
    }

    /// Makes a user's list: of what the model knows and the user did, or, without a model, of what is popular.
    pub async fn make(&self, user: &UserName) -> Result<List, RecommendError> {
        let Some(model) = self.model().await? else {
            return self.make_popular().await;
        };
        let done = self.0.interactions.of_user(user, ACTIONS).await?;
        let (now, half_life) = (clock::now(), self.0.settings.half_life);
        let (model, ranking) = blocking(move || {
            let taste = Taste::from_actions(&done, now.timestamp_millis(), half_life);
            let ranking = rank(&model, &taste, now.timestamp(), MAX_LISTED + SPARE);
            (model, ranking)
        })
        .await?;
        let events = self.events_of(&model, &ranking).await?;
        Ok(listed(&model, &ranking, &events, now))
    }

    async fn events_of(
        &self,
        model: &Arc<Model>,
        ranking: &Ranking,
    ) -> Result<HashMap<Ulid, Event>, RecommendError> {
        let mut ids: Vec<Ulid> = ranking
            .items
            .iter()
            .flat_map(|item| [Some(item.event), item.why.event()])
            .flatten()
            .map(|place| model.id(place))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let events = self.0.events.by_ids(&ids).await?;
        Ok(events.into_iter().map(|event| (event.id, event)).collect())
    }

    /// What is popular, from the cache or made now.
    async fn popular(&self) -> Result<CachedValue<List>, LoadError<RecommendError>> {
        let this = self.clone();
        let key = POPULAR.key(&[self.0.deployment.as_str()]);
        self.0
            .cache
            .get_or_load(&key, move || async move { this.make_popular().await })
            .await
    }

    /// By the newest interactions; what comes soon where these do not fill a list.
    async fn make_popular(&self) -> Result<List, RecommendError> {
        let now = clock::now();
        let named = self.0.interactions.most_named(POPULAR_AMONG, MAX_LISTED).await?;
        let mut known: HashMap<Ulid, Event> = self
            .0
            .events
            .by_ids(&named)
            .await?
            .into_iter()
            .map(|event| (event.id, event))
            .collect();
        let mut items: Vec<Item> = named
            .iter()
            .filter_map(|id| known.remove(id))
            .filter(|event| is_ahead(event, now))
            .map(|event| item(&event, 0.0, because(rank::RankReason::Popular, &event, None)))
            .collect();
        if items.len() < MAX_LISTED {
            let filter = Filter {
                from: Some(now),
                ..Filter::default()
            };
            let soon = self.0.events.find(&filter, MAX_LISTED).await?;
            let more = soon
                .iter()
                .filter(|event| !named.contains(&event.id))
                .map(|event| item(event, 0.0, because(rank::RankReason::Soon, event, None)));
            items.extend(more);
            items.truncate(MAX_LISTED);
        }
        let count = items.len() as f32;
        for (at, item) in items.iter_mut().enumerate() {
            item.score = 1.0 - at as f32 / count;
        }
        Ok(List {
            source: ListSource::Popular,
            made_at: now,
            items,
        })
    }
}

/// What has begun since the list was made is left out.
fn only_ahead(mut found: CachedValue<List>) -> CachedValue<List> {
    let now = clock::now();
    found.value.items.retain(|item| item.starts_at > now);
    found
}

fn is_ahead(event: &Event, now: DateTime<Utc>) -> bool {
    event.cancelled_at.is_none() && event.starts_at > now
}

fn listed(model: &Model, ranking: &Ranking, events: &HashMap<Ulid, Event>, now: DateTime<Utc>) -> List {
    let items = ranking.items.iter().filter_map(|ranked| {
        let event = events.get(&model.id(ranked.event))?;
        let other = ranked.why.event().and_then(|place| events.get(&model.id(place)));
        is_ahead(event, now).then(|| item(event, ranked.score, because(ranked.why, event, other)))
    });
    List {
        source: if ranking.personal {
            ListSource::Personal
        } else {
            ListSource::Popular
        },
        made_at: now,
        items: items.take(MAX_LISTED).collect(),
    }
}

fn item(event: &Event, score: f32, because: Because) -> Item {
    Item {
        event: event.id,
        title: event.title.clone(),
        category: event.category.clone(),
        url: event.url.clone(),
        starts_at: event.starts_at,
        place: event.place.clone(),
        score,
        because,
    }
}

/// `other`: the event that the reason names, if it is still there.
fn because(why: rank::RankReason, event: &Event, other: Option<&Event>) -> Because {
    let named = other.map_or("something you like", |other| other.title.as_str());
    let (why, text) = match why {
        rank::RankReason::Alike(_) => (
            Reason::Similar,
            format!("People who like “{named}” like this too"),
        ),
        rank::RankReason::Words(_) => (Reason::Words, format!("It is about the same as “{named}”")),
        rank::RankReason::Near(_) => (Reason::Near, format!("It takes place near to “{named}”")),
        rank::RankReason::Category => {
            let category = event.category.as_deref().unwrap_or("this");
            (Reason::Category, format!("You often choose {category}"))
        }
        rank::RankReason::Popular => (Reason::Popular, "Many people are interested in it now".to_owned()),
        rank::RankReason::Soon => (Reason::Soon, "It takes place soon".to_owned()),
    };
    Because {
        why,
        event: other.map(|other| other.id),
        text,
    }
}

impl rank::RankReason {
    /// The event that the reason names, by its place.
    fn event(self) -> Option<usize> {
        match self {
            Self::Alike(event) | Self::Words(event) | Self::Near(event) => Some(event),
            Self::Category | Self::Popular | Self::Soon => None,
        }
    }
}
