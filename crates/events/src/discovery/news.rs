//! News: notifications of what a run has found, enqueued in the transaction that stores it.
//!
//! # Invariants
//! - What is stored as new, changed or cancelled is announced exactly once: the jobs that announce it and the event are one
//!   transaction, and an event that is brought again unchanged is no news.
//! - One transaction tells of as many events as [`HEAVIEST`] allows, and of one at least.
//!
//! # When things fail
//! The announcer fails: the events are not stored either, and the run is tried again.

use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde::Serialize;
use ulid::Ulid;

use super::subscriptions::{SubscriptionMatch, SubscriptionMatcher};
use crate::store::{NewEvent, Outcome, UpsertHook, UpsertedEvent};

/// Upper bound of the notifications of one transaction, in units of about a kibibyte: an event costs one for each endpoint that
/// receives it, and one more for each ten subscriptions that may be named.
const HEAVIEST: usize = 16_384;

/// Subscriptions that weigh as much as an event.
const NAMED_IN_ONE: usize = 10;

/// What happened to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventChange {
    Discovered,
    /// It says something else, or takes place after all.
    Changed,
    Cancelled,
}

impl EventChange {
    /// What webhooks call it.
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::Discovered => "event.discovered",
            Self::Changed => "event.changed",
            Self::Cancelled => "event.cancelled",
        }
    }

    /// `None`: it is no news.
    fn of(stored: &UpsertedEvent) -> Option<Self> {
        match stored.outcome {
            Outcome::Inserted => Some(Self::Discovered),
            Outcome::Changed if stored.cancelled => Some(Self::Cancelled),
            Outcome::Changed => Some(Self::Changed),
            Outcome::Unchanged => None,
        }
    }
}

/// An event that is new, changed or cancelled, and the subscriptions that want to hear of it.
#[derive(Debug, Clone)]
pub struct News<'a> {
    pub happened: EventChange,
    pub id: Ulid,
    pub event: &'a NewEvent,
    pub wanted: Vec<&'a SubscriptionMatch>,
}

/// What an announcer has made of news.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnouncementCounts {
    /// Deliveries to endpoints.
    pub webhooks: u64,
    pub mails: u64,
    /// News that fit into no job (`jobs.max_payload_bytes`).
    pub too_large: u64,
    /// That have work now.
    pub queues: Vec<String>,
}

impl AnnouncementCounts {
    fn add(&mut self, other: &Self) {
        self.webhooks += other.webhooks;
        self.mails += other.mails;
        self.too_large += other.too_large;
    }
}

/// Takes news to where they are wanted: the one seam between what is found and who tells it.
pub trait Announcer: Send + Sync {
    /// How many endpoints may hear of an event: what the size of a transaction follows from.
    fn endpoints(&self) -> BoxFuture<'_, Result<usize, LedgerError>>;

    /// Accepts all of them inside the transaction, or fails and has it undone.
    fn announce<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        news: &'a [News<'a>],
    ) -> BoxFuture<'a, Result<AnnouncementCounts, LedgerError>>;

    /// The transaction is committed: wakes the workers that announce it.
    fn ring(&self, told: &AnnouncementCounts);
}

/// How many events one transaction may tell of.
pub(super) fn piece(endpoints: usize, subscriptions: usize) -> usize {
    let each = endpoints.max(1) * (1 + subscriptions / NAMED_IN_ONE);
    (HEAVIEST / each).max(1)
}

/// Announces what is stored.
pub(super) struct AnnouncingWitness<'a> {
    announcer: &'a dyn Announcer,
    ready: &'a [SubscriptionMatcher],
    said: Mutex<AnnouncedSoFar>,
}

#[derive(Debug, Default)]
struct AnnouncedSoFar {
    /// Of the transaction under way: what was told, and how often a subscription matched.
    pending: Option<(AnnouncementCounts, u64)>,
    told: AnnouncementCounts,
    matches: u64,
}

impl<'a> AnnouncingWitness<'a> {
    pub(super) fn new(announcer: &'a dyn Announcer, ready: &'a [SubscriptionMatcher]) -> Self {
        Self {
            announcer,
            ready,
            said: Mutex::default(),
        }
    }

    /// What was told and committed, and how often a subscription matched.
    pub(super) fn ended(self) -> (AnnouncementCounts, u64) {
        let said = self.said.into_inner().unwrap_or_else(PoisonError::into_inner);
        (said.told, said.matches)
    }

    fn said(&self) -> std::sync::MutexGuard<'_, AnnouncedSoFar> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UpsertHook for AnnouncingWitness<'_> {
    fn stored<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        events: &'a [NewEvent],
        stored: &'a [UpsertedEvent],
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        async move {
            let pairs = events.iter().zip(stored);
            let news: Vec<News<'_>> = pairs
                .filter_map(|(event, stored)| {
                    Some(News {
                        happened: EventChange::of(stored)?,
                        id: stored.id,
                        event,
                        wanted: SubscriptionMatcher::wanting(self.ready, event),
                    })
                })
                .collect();
            if news.is_empty() {
                self.said().pending = None;
                return Ok(());
            }
            let matches = news.iter().map(|one| one.wanted.len() as u64).sum();
            let told = self.announcer.announce(tx, &news).await?;
            self.said().pending = Some((told, matches));
            Ok(())
        }
        .boxed()
    }

    fn committed(&self) {
        let mut said = self.said();
        if let Some((told, matches)) = said.pending.take() {
            self.announcer.ring(&told);
            said.told.add(&told);
            said.matches += matches;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_who_listen_the_fewer_events_are_told_of_at_once() {
        assert_eq!(piece(0, 0), HEAVIEST);
        assert_eq!(piece(1, 0), HEAVIEST);
        assert_eq!(piece(100, 90), HEAVIEST / 1_000);
        assert_eq!(piece(1_000, 10_000), 1);
    }
}
