//! Subscriptions: who wants to hear of which events.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{SourceFault, Sources};
use crate::place::{FARTHEST, chord_squared, on_sphere};
use crate::store::NewEvent;
use crate::words::{distinct, words};
use holdfast_core::sql::dialect::{self, read_either, write_either};
use holdfast_product::AddressAuthority;

/// Most subscriptions that are kept: all of them are held against what a run finds.
pub const MAX_SUBSCRIPTIONS: i64 = 10_000;

const MAX_CATEGORY: usize = 64;
const MAX_TEXT: usize = 200;
const MAX_WORDS: usize = 10;

holdfast_core::ids! {
    /// Names a subscription; a ULID.
    SubscriptionId;
}

/// Which events are meant: those of which everything that is given is true. Nothing given: every one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Each of its words is in the title, category, place or description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// With `lon` and `within_km`: around this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lat: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lon: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_km: Option<f64>,
}

/// A subscription as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub id: SubscriptionId,
    /// The application's own name of the user who is notified.
    pub user: String,
    /// One address, which is sent mail.
    pub email: Option<String>,
    pub filter: Filter,
    pub created_at: DateTime<Utc>,
}

/// Whose subscription it is that wants to hear of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionMatch {
    pub subscription: SubscriptionId,
    pub user: String,
    /// Where to, by mail; `None`: webhooks alone tell of it.
    pub email: Option<String>,
}

impl Filter {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<SourceFault> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, reason: String| {
            faults.push(SourceFault {
                field: field.to_owned(),
                reason,
            });
        };
        if self
            .category
            .as_ref()
            .is_some_and(|text| !(1..=MAX_CATEGORY).contains(&text.len()))
        {
            fault("category", format!("must have 1 to {MAX_CATEGORY} bytes"));
        }
        if let Some(text) = &self.text {
            let count = words(text).count();
            if text.len() > MAX_TEXT || !(1..=MAX_WORDS).contains(&count) {
                fault(
                    "text",
                    format!("must have 1 to {MAX_WORDS} words and at most {MAX_TEXT} bytes"),
                );
            }
        }
        match (self.lat, self.lon, self.within_km) {
            (None, None, None) => {}
            (Some(lat), Some(lon), Some(within)) => {
                if !(-90.0..=90.0).contains(&lat) {
                    fault("lat", "must lie between -90 and 90 degrees".to_owned());
                }
                if !(-180.0..=180.0).contains(&lon) {
                    fault("lon", "must lie between -180 and 180 degrees".to_owned());
                }
                if !(within > 0.0 && within <= FARTHEST) {
                    fault("within_km", format!("must be more than 0 and at most {FARTHEST}"));
                }
            }
            _ => fault(
                "within_km",
                "give lat, lon and within_km, or none of them".to_owned(),
            ),
        }
        faults
    }
}

/// A filter, made ready to be held against events.
pub(super) struct SubscriptionMatcher {
    wish: SubscriptionMatch,
    category: Option<String>,
    words: Vec<String>,
    around: Option<([f64; 3], f64)>,
}

impl SubscriptionMatcher {
    fn of(subscription: Subscription) -> Self {
        let Subscription {
            id,
            user,
            email,
            filter,
            ..
        } = subscription;
        Self {
            wish: SubscriptionMatch {
                subscription: id,
                user,
                email,
            },
            category: filter.category.map(|category| category.trim().to_lowercase()),
            words: filter
                .text
                .map(|text| distinct(&[&text], MAX_WORDS))
                .unwrap_or_default(),
            around: filter
                .lat
                .zip(filter.lon)
                .zip(filter.within_km)
                .map(|((lat, lon), within)| (on_sphere(lat, lon), chord_squared(within))),
        }
    }

    /// Those that want to hear of it.
    pub(super) fn wanting<'a>(ready: &'a [Self], event: &NewEvent) -> Vec<&'a SubscriptionMatch> {
        if ready.is_empty() {
            return Vec::new();
        }
        let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        let texts = [
            event.title.clone(),
            text(&event.category),
            text(&event.place),
            text(&event.description),
        ];
        let said: HashSet<String> = texts.iter().flat_map(|text| words(text)).collect();
        ready
            .iter()
            .filter(|one| one.wants(event, &said))
            .map(|one| &one.wish)
            .collect()
    }

    fn wants(&self, event: &NewEvent, said: &HashSet<String>) -> bool {
        let near = |(place, limit): &([f64; 3], f64)| {
            event.position.is_some_and(|(lat, lon)| {
                let there = on_sphere(lat, lon);
                let apart: f64 = place.iter().zip(there).map(|(a, b)| (a - b).powi(2)).sum();
                apart <= *limit
            })
        };
        (self.category.is_none() || self.category == event.category)
            && self.words.iter().all(|word| said.contains(word))
            && self.around.as_ref().is_none_or(near)
    }
}

/// The subscriptions of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscriptions(Sources);

impl Subscriptions {
    pub fn of(sources: &Sources) -> Self {
        Self(sources.clone())
    }

    /// Makes a subscription; `None`: there are [`MAX_SUBSCRIPTIONS`] already. The filter has been [checked](Filter::faults),
    /// and the address too (`holdfast_notify::mail::check_address`). An address that an admin sets is proven to be the user's.
    pub async fn create(
        &self,
        user: &str,
        email: Option<&str>,
        authority: AddressAuthority,
        filter: &Filter,
    ) -> Result<Option<Subscription>, LedgerError> {
        let id = SubscriptionId::generate();
        let text = serde_json::to_string(filter).map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let is_proven = email.is_some() && authority == AddressAuthority::Admin;
        let insert =
            "insert into holdfast_subscriptions (id, user_id, email, filter, created_at, email_proven)
            select $1, $2, $3, $4, @now, $6 where (select count(*) from holdfast_subscriptions) < $5
            returning id, user_id, email, filter, @ms(created_at)";
        let made = write_either!(
            self.0.0.sql,
            "make a subscription",
            query_as::<Row>(insert),
            [id.as_uuid(), user, email, &text, MAX_SUBSCRIPTIONS, is_proven],
            fetch_optional
        )?;
        made.map(subscription).transpose()
    }

    /// Whether there was one.
    pub async fn delete(&self, id: SubscriptionId) -> Result<bool, LedgerError> {
        let text = "delete from holdfast_subscriptions where id = $1";
        let gone = write_either!(
            self.0.0.sql,
            "delete a subscription",
            query(text),
            [id.as_uuid()],
            execute
        )?;
        Ok(gone > 0)
    }

    /// Deletes all of a user's; how many: what a deletion of the user calls.
    pub async fn forget(&self, user: &str) -> Result<usize, LedgerError> {
        let text = "delete from holdfast_subscriptions where user_id = $1";
        let gone = write_either!(
            self.0.0.sql,
            "forget a user's subscriptions",
            query(text),
            [user],
            execute
        )?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// By id, from the one after `after`; all of them, or a user's.
    pub async fn list(
        &self,
        user: Option<&str>,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>, LedgerError> {
        let after = after.map_or(Uuid::nil(), SubscriptionId::as_uuid);
        let text = "select id, user_id, email, filter, @ms(created_at) from holdfast_subscriptions
            where (cast($1 as text) is null or user_id = $1) and id > $2 order by id limit $3";
        let rows = read_either!(
            self.0.0.sql,
            "list subscriptions",
            query_as::<Row>(text),
            [user, after, dialect::rows(limit)],
            fetch_all
        )?;
        rows.into_iter().map(subscription).collect()
    }

    /// All of them, to be held against what a run finds.
    pub(super) async fn ready(&self) -> Result<Vec<SubscriptionMatcher>, LedgerError> {
        let all = usize::try_from(MAX_SUBSCRIPTIONS).unwrap_or(usize::MAX);
        let all = self.list(None, None, all).await?;
        Ok(all.into_iter().map(SubscriptionMatcher::of).collect())
    }
}

/// Locked until the transaction ends: a process that deletes one waits, and then finds what was made of it.
const POSTGRES_THERE: &str =
    "select id from holdfast_subscriptions where id = any($1) order by id for key share";

const SQLITE_THERE: &str =
    "select id from holdfast_subscriptions where id in (select unhex(value) from json_each($1))";

/// Those that are still there. A run holds events against the subscriptions of its beginning, and by now somebody may have
/// gone.
pub(super) async fn still_there(
    on: LedgerTx<'_>,
    named: bool,
    ids: &HashSet<SubscriptionId>,
) -> Result<HashSet<SubscriptionId>, LedgerError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let found: Result<Vec<(Uuid,)>, _> = match on {
        LedgerTx::Postgres(on) => {
            let query = sqlx::query_as(POSTGRES_THERE).bind(ids);
            query.persistent(named).fetch_all(on).await
        }
        LedgerTx::Sqlite(on) => {
            let ids: Vec<_> = ids.iter().map(|id| id.simple().to_string()).collect();
            let query = sqlx::query_as(SQLITE_THERE).bind(serde_json::json!(ids).to_string());
            query.fetch_all(on).await
        }
    };
    let found = found.map_err(|source| LedgerError::Sql {
        doing: "see whose subscriptions are still there",
        source,
    })?;
    Ok(found
        .into_iter()
        .map(|(id,)| SubscriptionId::from_uuid(id))
        .collect())
}

type Row = (Uuid, String, Option<String>, String, i64);

fn subscription((id, user, email, filter, created): Row) -> Result<Subscription, LedgerError> {
    let filter = serde_json::from_str(&filter)
        .map_err(|error| LedgerError::Corrupt(format!("the subscription {id}: {error}")))?;
    Ok(Subscription {
        id: SubscriptionId::from_uuid(id),
        user,
        email,
        filter,
        created_at: DateTime::from_timestamp_millis(created).unwrap_or_default(),
    })
}
