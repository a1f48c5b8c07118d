//! Generations: how a whole namespace is forgotten at once, without looking for its keys.
//!
//! A namespace has a random number on Redis; each value carries the number of its time, and one with another number
//! is a miss. To forget everything is to draw a new number. Losing the number (eviction, an empty restart) draws a new
//! one too: values are lost then, and none comes back from the dead.
//!
//! A process reads the number together with a value, at most once in `cache.local_ttl`, and hears of a new one over the
//! channel. Without Redis the numbers are its own.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::key::NamespaceId;

/// The number lives this long without being drawn anew; then its namespace starts from nothing.
pub(crate) const KEPT: Duration = Duration::from_hours(7 * 24);

#[derive(Debug, Clone, Copy)]
struct KnownGeneration {
    number: u64,
    /// When Redis last said so; `None`: it is our own.
    confirmed: Option<(Instant, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Generations {
    known: RwLock<HashMap<NamespaceId, KnownGeneration>>,
}

/// The number to work with, and whether Redis has to be asked for a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) number: u64,
    pub(crate) confirmed: bool,
}

impl Generations {
    /// `epoch` is that of the copies: what was known before it is doubtful too.
    pub(crate) fn current(&self, namespace: NamespaceId, ttl: Duration, epoch: u64) -> Current {
        if let Some(known) = self.read(namespace) {
            let confirmed = known
                .confirmed
                .is_some_and(|(at, then)| then == epoch && at.elapsed() <= ttl);
            return Current {
                number: known.number,
                confirmed,
            };
        }
        let own = KnownGeneration {
            number: rand::random(),
            confirmed: None,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Current {
            number: known.entry(namespace).or_insert(own).number,
            confirmed: false,
        }
    }

    /// Redis says so. `asked` is the number that was known when it was asked: an answer that a newer one has overtaken
    /// meanwhile is dropped.
    pub(crate) fn confirm(&self, namespace: NamespaceId, number: u64, epoch: u64, asked: u64) {
        let confirmed = KnownGeneration {
            number,
            confirmed: Some((Instant::now(), epoch)),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let slot = known.entry(namespace).or_insert(confirmed);
        if slot.number == asked || slot.number == number {
            *slot = confirmed;
        }
    }

    /// Forgotten here; Redis does not know yet.
    pub(crate) fn replace(&self, namespace: NamespaceId, number: u64) {
        let own = KnownGeneration {
            number,
            confirmed: None,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(namespace, own);
    }

    /// Another process has forgotten it.
    pub(crate) fn heard(&self, namespace: &str, number: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (id, known) in known.iter_mut() {
            if id.to_string() == namespace {
                known.number = number;
            }
        }
    }

    fn read(&self, namespace: NamespaceId) -> Option<KnownGeneration> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&namespace).copied()
    }
}

/// Where a namespace's number stands on Redis.
pub(crate) fn key_of(namespace: impl std::fmt::Display) -> String {
    format!("holdfast:cache-generation:{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;

    const ID: NamespaceId = NamespaceId {
        class: Class::Static,
        name: "a",
        version: 1,
    };
    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_that_a_bump_has_overtaken_is_dropped() {
        let generations = Generations::default();
        let asked = generations.current(ID, TTL, 0).number;
        generations.replace(ID, 7);
        generations.confirm(ID, 5, 0, asked);
        assert_eq!(generations.current(ID, TTL, 0).number, 7);
    }

    #[test]
    fn a_number_is_confirmed_for_its_time_and_its_epoch() {
        let generations = Generations::default();
        let asked = generations.current(ID, TTL, 0);
        assert!(!asked.confirmed);
        generations.confirm(ID, 5, 0, asked.number);
        let current = Current {
            number: 5,
            confirmed: true,
        };
        assert_eq!(generations.current(ID, TTL, 0), current);
        assert!(!generations.current(ID, TTL, 1).confirmed);
        assert!(!generations.current(ID, Duration::ZERO, 0).confirmed);
    }
}
