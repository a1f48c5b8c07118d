//! News of events, as discovery finds them: to every endpoint that listens, and by mail to the subscriptions that want it.
//!
//! - An endpoint receives every event that its filters name (`event.discovered`, `event.changed`, `event.cancelled`), with
//!   the subscriptions that want to hear of it. One of more than [`NAMED`] subscriptions comes as several messages.
//! - Deleted users are skipped, even if they were deleted during the run.
//! - What a user wants applies ([`Messenger::users`]): to the user's mail, and for whether endpoints hear of its subscriptions.
//! - An address gets one mail of all that one transaction stores, however many of its subscriptions match. It is written
//!   from the template [`NEWS`], and is of the list of that name, which its reader may unsubscribe from.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use chrono_tz::Tz;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_core::config::{JobsSettings, Settings};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use holdfast_product::{ANNOUNCEMENT_FRAME, Announcement, AnnouncementMail, MAX_USER, Messenger, UserName};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::news::{AnnouncementCounts, Announcer, News};
use super::subscriptions::{SubscriptionId, SubscriptionMatch, still_there};
use crate::store::NewEvent;

/// The template of mails about events, and the list that their readers unsubscribe from.
pub const NEWS: &str = "event.news";

/// Most subscriptions that one message names.
const NAMED: usize = 500;

/// Most bytes of one subscription in a message: its user's name, every byte of it escaped, its id, and what stands between.
const NAMED_BYTES: usize = 2 * MAX_USER + 64;

/// Most events that one mail lists.
const LISTED: usize = 100;

/// What a mail's payload holds beside its events.
const MAIL_FRAME: usize = 4_096;

/// Which users are stored, and whether endpoints may receive them.
type StoredUsers = HashMap<UserName, bool>;

/// Announces what discovery finds through a [`Messenger`]. Cheap to clone.
#[derive(Clone)]
pub struct NewsAnnouncer {
    messenger: Arc<dyn Messenger>,
    limits: JobsSettings,
    /// See `database.prepared_statements`.
    named: bool,
}

impl fmt::Debug for NewsAnnouncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewsAnnouncer").finish_non_exhaustive()
    }
}

impl Announcer for NewsAnnouncer {
    fn endpoints(&self) -> BoxFuture<'_, Result<usize, LedgerError>> {
        self.messenger.endpoints()
    }

    fn announce<'a>(
        &'a self,
        mut tx: LedgerTx<'a>,
        news: &'a [News<'a>],
    ) -> BoxFuture<'a, Result<AnnouncementCounts, LedgerError>> {
        async move {
            let mut told = AnnouncementCounts::default();
            let there = still_there(tx.reborrow(), self.named, &subscriptions(news)).await?;
            let news = &wanted_still(news, &there)[..];
            let stored = self.messenger.users(tx.reborrow(), NEWS, &users(news)).await?;
            let messages = self.messages(news, &stored, &mut told)?;
            let webhooks = self.messenger.announce(tx.reborrow(), messages).await;
            let webhooks = webhooks.map_err(unpublished)?;
            told.webhooks = webhooks.len() as u64;
            let mails = self.mails(news, &stored, &mut told);
            let mails = self.messenger.mail(tx, mails).await.map_err(unpublished)?;
            told.mails = mails.len() as u64;
            told.queues = queues(webhooks.iter().chain(&mails));
            Ok(told)
        }
        .boxed()
    }

    fn ring(&self, told: &AnnouncementCounts) {
        for queue in &told.queues {
            self.messenger.ring(queue);
        }
    }
}

impl NewsAnnouncer {
    pub fn new(settings: &Settings, messenger: Arc<dyn Messenger>) -> Self {
        Self {
            messenger,
            limits: settings.jobs.clone(),
            named: settings.database.prepared_statements,
        }
    }

    fn messages(
        &self,
        news: &[News<'_>],
        stored: &StoredUsers,
        told: &mut AnnouncementCounts,
    ) -> Result<Vec<Announcement>, LedgerError> {
        let most = self.limits.max_payload_bytes.saturating_sub(ANNOUNCEMENT_FRAME);
        let mut messages = Vec::with_capacity(news.len());
        for one in news {
            let event = described(one);
            let room = most.saturating_sub(event.to_string().len()) / NAMED_BYTES;
            let wanted = named(&one.wanted, stored);
            for wanted in portions(&wanted, room.clamp(1, NAMED)) {
                let data = message(&event, wanted)?;
                if data.get().len() > most {
                    told.too_large += 1;
                    continue;
                }
                messages.push(Announcement {
                    event_type: one.happened.event_type(),
                    data,
                });
            }
        }
        Ok(messages)
    }

    fn mails(
        &self,
        news: &[News<'_>],
        stored: &StoredUsers,
        told: &mut AnnouncementCounts,
    ) -> Vec<AnnouncementMail> {
        let room = self.limits.max_payload_bytes.saturating_sub(MAIL_FRAME);
        let mut mails = Vec::new();
        for ((address, user), news) in by_reader(news, stored) {
            let (mut events, mut bytes) = (Vec::new(), 0);
            for one in news.iter().take(LISTED) {
                let line = listed(one);
                bytes += line.to_string().len();
                if bytes > room {
                    break;
                }
                events.push(line);
            }
            if events.is_empty() {
                told.too_large += 1;
                continue;
            }
            let data = json!({"count": news.len(), "more": news.len() - events.len(), "events": events});
            mails.push(AnnouncementMail {
                to: address.to_owned(),
                user,
                template: NEWS,
                data,
                list: NEWS,
            });
        }
        mails
    }
}

fn subscriptions(news: &[News<'_>]) -> HashSet<SubscriptionId> {
    let wishes = news.iter().flat_map(|one| &one.wanted);
    wishes.map(|wish| wish.subscription).collect()
}

/// The same news, without the wishes of subscriptions that are gone.
fn wanted_still<'a>(news: &[News<'a>], there: &HashSet<SubscriptionId>) -> Vec<News<'a>> {
    let still = |one: &News<'a>| {
        let mut one = one.clone();
        one.wanted.retain(|wish| there.contains(&wish.subscription));
        one
    };
    news.iter().map(still).collect()
}

/// The users who want to hear of it.
fn users(news: &[News<'_>]) -> BTreeSet<UserName> {
    let wishes = news.iter().flat_map(|one| &one.wanted);
    wishes.filter_map(|wish| wish.user.parse().ok()).collect()
}

fn stored_user(wish: &SubscriptionMatch, stored: &StoredUsers) -> Option<UserName> {
    let user: Option<UserName> = wish.user.parse().ok();
    user.filter(|user| stored.contains_key(user))
}

/// The wishes that webhooks may hear of: all but those of users who want no such thing.
fn named<'a>(wanted: &[&'a SubscriptionMatch], stored: &StoredUsers) -> Vec<&'a SubscriptionMatch> {
    let may_hear = |wish: &&&SubscriptionMatch| stored_user(wish, stored).is_none_or(|user| stored[&user]);
    wanted.iter().filter(may_hear).copied().collect()
}

/// Of nobody: one portion, which is empty.
fn portions<'a>(
    wanted: &'a [&'a SubscriptionMatch],
    size: usize,
) -> impl Iterator<Item = &'a [&'a SubscriptionMatch]> {
    let none = wanted.is_empty().then_some(wanted);
    none.into_iter().chain(wanted.chunks(size))
}

fn message(event: &Value, wanted: &[&SubscriptionMatch]) -> Result<Box<RawValue>, LedgerError> {
    let subscriptions: Vec<Value> = wanted
        .iter()
        .map(|wish| json!({"id": wish.subscription.to_string(), "user": wish.user}))
        .collect();
    to_raw_value(&json!({"event": event, "subscriptions": subscriptions})).map_err(corrupt)
}

/// An event as endpoints receive it: as `GET /v1/events` shows it, without the description.
fn described(news: &News<'_>) -> Value {
    let NewEvent {
        source,
        uid,
        title,
        description: _,
        url,
        category,
        starts_at,
        ends_at,
        time_zone,
        position,
        place,
        cancelled,
    } = news.event;
    json!({
        "id": news.id.to_string(), "source": source, "uid": uid, "title": title, "url": url, "category": category,
        "starts_at": starts_at, "ends_at": ends_at, "time_zone": time_zone, "place": place, "cancelled": cancelled,
        "lat": position.map(|(lat, _)| lat), "lon": position.map(|(_, lon)| lon),
    })
}

/// An event as a mail lists it.
fn listed(news: &News<'_>) -> Value {
    let event = news.event;
    let zone = event
        .time_zone
        .as_deref()
        .and_then(|name| name.parse::<Tz>().ok());
    let zone = zone.unwrap_or(Tz::UTC);
    let when = event
        .starts_at
        .with_timezone(&zone)
        .format("%a, %-d %b %Y, %H:%M");
    json!({
        "id": news.id.to_string(), "news": news.happened, "title": event.title, "url": event.url, "place": event.place,
        "category": event.category, "starts_at": event.starts_at, "when": format!("{when} ({zone})"),
    })
}

/// An address, and the user whose mail it is, if that user is stored.
type To<'a> = (&'a str, Option<UserName>);

/// What each reader is sent, in the order in which it was found; each event once.
fn by_reader<'a>(news: &'a [News<'a>], stored: &StoredUsers) -> BTreeMap<To<'a>, Vec<&'a News<'a>>> {
    let mut mails: BTreeMap<To<'a>, Vec<&News<'_>>> = BTreeMap::new();
    for one in news {
        for wish in &one.wanted {
            let Some(address) = wish.email.as_deref() else {
                continue;
            };
            let events = mails.entry((address, stored_user(wish, stored))).or_default();
            if events.last().is_none_or(|last| last.id != one.id) {
                events.push(one);
            }
        }
    }
    mails
}

fn queues<'a>(jobs: impl Iterator<Item = &'a EnqueuedJob>) -> Vec<String> {
    let mut queues: Vec<String> = Vec::new();
    for job in jobs {
        if !queues.contains(&job.queue) {
            queues.push(job.queue.clone());
        }
    }
    queues
}

fn corrupt(error: impl fmt::Display) -> LedgerError {
    LedgerError::Corrupt(format!("news of events cannot be written: {error}"))
}

fn unpublished(error: EnqueueError) -> LedgerError {
    match error {
        EnqueueError::Internal(error) => error,
        EnqueueError::Unavailable {
            source: Some(error), ..
        } => error,
        error => corrupt(error),
    }
}
