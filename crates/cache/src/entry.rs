//! One value in this process, and what it may still be used for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::class::Lifetime;
use crate::frame::{Frame, StoredStamp};

/// After a failed refresh a stale value is served for this long before the next one is tried.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// A value, its age, and under which knowledge it was kept.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) payload: Bytes,
    pub(crate) codec: u8,
    /// Of the namespace, when the value was made.
    pub(crate) generation: u64,
    /// How often the copies of this process had been declared doubtful.
    epoch: u64,
    /// What stood on Redis with it; `None` if that is not known.
    pub(crate) seen: Option<StoredStamp>,
    made: EntryAge,
    /// When this process got it.
    copied_at: Instant,
    lifetime: Lifetime,
    /// Milliseconds after `copied_at` before which no refresh is tried.
    refresh_after_ms: AtomicU64,
}

/// How old it was when this process got it.
#[derive(Debug, Clone, Copy)]
struct EntryAge {
    age_then: Duration,
}

/// What a value is good for at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// It may be served while a newer one is loaded.
    Refreshable,
    /// It may be served if no newer one can be loaded.
    Fallback,
    Useless,
}

/// What a copy is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) epoch: u64,
    pub(crate) generation: u64,
    pub(crate) local_ttl: Duration,
}

impl Entry {
    /// Made in this process just now.
    pub(crate) fn made_here(
        payload: Bytes,
        codec: u8,
        lifetime: Lifetime,
        seen: Option<StoredStamp>,
        now: Now,
    ) -> Self {
        Self {
            payload,
            codec,
            generation: now.generation,
            epoch: now.epoch,
            seen,
            made: EntryAge {
                age_then: Duration::ZERO,
            },
            copied_at: now.at,
            lifetime,
            refresh_after_ms: AtomicU64::new(0),
        }
    }

    /// Read from Redis just now. `lifetime` says how long it is good for after it was fresh.
    pub(crate) fn read(
        frame: Frame,
        seen: StoredStamp,
        server_ms: u64,
        lifetime: Lifetime,
        now: Now,
    ) -> Self {
        let age_then = Duration::from_millis(server_ms.saturating_sub(frame.made_ms));
        Self {
            payload: frame.payload,
            codec: frame.codec,
            generation: frame.generation,
            epoch: now.epoch,
            seen: Some(seen),
            made: EntryAge { age_then },
            copied_at: now.at,
            lifetime: Lifetime {
                fresh: frame.fresh,
                ..lifetime
            },
            refresh_after_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn age(&self, at: Instant) -> Duration {
        self.made.age_then + at.saturating_duration_since(self.copied_at)
    }

    /// How long it is fresh from now on.
    pub(crate) fn fresh_for(&self, at: Instant) -> Duration {
        self.lifetime.fresh.saturating_sub(self.age(at))
    }

    /// How long after `copied_at` it is of any use.
    pub(crate) fn kept(&self) -> Duration {
        self.lifetime.kept().saturating_sub(self.made.age_then)
    }

    /// What this copy is good for. A copy that was kept for long, or doubted meanwhile, is no better than a fallback.
    pub(crate) fn standing(&self, now: Now) -> Freshness {
        let coherent =
            self.epoch == now.epoch && now.at.saturating_duration_since(self.copied_at) <= now.local_ttl;
        match self.standing_as_read(now) {
            Freshness::Fresh | Freshness::Refreshable if !coherent => self.fallback(now),
            standing => standing,
        }
    }

    /// The same for a value that has just been read.
    pub(crate) fn standing_as_read(&self, now: Now) -> Freshness {
        let age = self.age(now.at);
        if self.generation != now.generation {
            Freshness::Useless
        } else if age < self.lifetime.fresh {
            Freshness::Fresh
        } else if age < self.lifetime.fresh + self.lifetime.while_revalidate {
            Freshness::Refreshable
        } else {
            self.fallback(now)
        }
    }

    fn fallback(&self, now: Now) -> Freshness {
        if self.age(now.at) < self.lifetime.fresh + self.lifetime.if_error {
            Freshness::Fallback
        } else {
            Freshness::Useless
        }
    }

    pub(crate) fn refresh_failed(&self) {
        let after = self.copied_at.elapsed() + REFRESH_PAUSE;
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.refresh_after_ms.store(after, Ordering::Relaxed);
    }

    pub(crate) fn may_refresh(&self, at: Instant) -> bool {
        let after = Duration::from_millis(self.refresh_after_ms.load(Ordering::Relaxed));
        at.saturating_duration_since(self.copied_at) >= after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Lifetime = Lifetime {
        fresh: Duration::from_secs(10),
        while_revalidate: Duration::from_secs(5),
        if_error: Duration::from_secs(20),
    };

    fn now() -> Now {
        Now {
            at: Instant::now(),
            epoch: 0,
            generation: 0,
            local_ttl: Duration::from_secs(1_000),
        }
    }

    fn after(now: Now, seconds: u64) -> Now {
        Now {
            at: now.at + Duration::from_secs(seconds),
            ..now
        }
    }

    fn made(now: Now) -> Entry {
        Entry::made_here(Bytes::new(), 1, LIFETIME, None, now)
    }

    #[test]
    fn a_value_is_fresh_then_refreshable_then_a_fallback_then_useless() {
        let start = now();
        let entry = made(start);
        for (seconds, standing) in [
            (0, Freshness::Fresh),
            (9, Freshness::Fresh),
            (10, Freshness::Refreshable),
            (14, Freshness::Refreshable),
            (15, Freshness::Fallback),
            (29, Freshness::Fallback),
            (30, Freshness::Useless),
        ] {
            assert_eq!(
                entry.standing(after(start, seconds)),
                standing,
                "after {seconds} s"
            );
        }
    }

    #[test]
    fn a_doubted_or_old_copy_is_a_fallback_at_best() {
        let start = now();
        let entry = made(start);
        let doubted = Now { epoch: 1, ..start };
        assert_eq!(entry.standing(doubted), Freshness::Fallback);
        let old = Now {
            local_ttl: Duration::from_secs(1),
            ..after(start, 2)
        };
        assert_eq!(entry.standing(old), Freshness::Fallback);
        assert_eq!(entry.standing_as_read(old), Freshness::Fresh);
    }

    #[test]
    fn a_value_of_another_generation_is_useless() {
        let start = now();
        let bumped = Now {
            generation: 1,
            ..start
        };
        assert_eq!(made(start).standing(bumped), Freshness::Useless);
    }

    #[test]
    fn age_counts_from_when_the_value_was_made_wherever_that_was() {
        let start = now();
        let frame = Frame {
            codec: 1,
            generation: 0,
            made_ms: 1_000_000,
            fresh: Duration::from_secs(10),
            payload: Bytes::new(),
        };
        let entry = Entry::read(frame, StoredStamp::NOTHING, 1_009_000, LIFETIME, start);
        assert_eq!(entry.age(start.at), Duration::from_secs(9));
        assert_eq!(entry.fresh_for(start.at), Duration::from_secs(1));
        assert_eq!(entry.standing(after(start, 2)), Freshness::Refreshable);
    }
}
