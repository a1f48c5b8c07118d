//! One bucket as one process sees it: its lease of the shared one, or its share while there is none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync;
use tokio::time::Instant;

use super::{LEASE, Policy};

/// What became of one try.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    /// Tokens left, as far as this process knows.
    pub(super) left: f64,
    /// `None`: a token was there.
    pub(super) retry_after: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Bucket {
    tokens: Mutex<Tokens>,
    /// Held by whoever asks Redis.
    turn: sync::Mutex<()>,
}

#[derive(Debug)]
struct Tokens {
    leased: u64,
    leased_until: Instant,
    /// Left in the shared bucket when it was asked last.
    shared: u64,
    /// There is no token before this moment.
    refused_until: Option<Instant>,
    /// This process' own count, for while Redis is away.
    own: f64,
    own_at: Instant,
    used_at: Instant,
}

impl Bucket {
    /// With a whole share.
    pub(super) fn new(share: f64, now: Instant) -> Self {
        Self {
            tokens: Mutex::new(Tokens {
                leased: 0,
                leased_until: now,
                shared: 0,
                refused_until: None,
                own: share,
                own_at: now,
                used_at: now,
            }),
            turn: sync::Mutex::new(()),
        }
    }

    pub(super) async fn turn(&self) -> sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// `None`: Redis must be asked.
    pub(super) fn take_leased(&self, now: Instant) -> Option<Grant> {
        let mut tokens = self.tokens();
        tokens.used_at = now;
        if tokens.leased > 0 && now < tokens.leased_until {
            tokens.leased -= 1;
            return Some(Grant {
                left: (tokens.shared + tokens.leased) as f64,
                retry_after: None,
            });
        }
        let retry_after = tokens.refused_until?.checked_duration_since(now)?;
        (!retry_after.is_zero()).then_some(Grant {
            left: 0.0,
            retry_after: Some(retry_after),
        })
    }

    /// Takes what `take.lua` answered, and one token of it.
    pub(super) fn receive(&self, [given, left, wait_ms]: [u64; 3], now: Instant) -> Grant {
        let mut tokens = self.tokens();
        tokens.used_at = now;
        tokens.shared = left;
        if given == 0 {
            let retry_after = Duration::from_millis(wait_ms);
            tokens.refused_until = Some(now + retry_after);
            return Grant {
                left: 0.0,
                retry_after: Some(retry_after),
            };
        }
        tokens.refused_until = None;
        tokens.leased = given - 1;
        tokens.leased_until = now + LEASE;
        Grant {
            left: (left + tokens.leased) as f64,
            retry_after: None,
        }
    }

    /// Out of this process' own count.
    pub(super) fn take_share(&self, share: Policy, now: Instant) -> Grant {
        let mut tokens = self.tokens();
        let elapsed = now.saturating_duration_since(tokens.own_at).as_secs_f64();
        tokens.own = (tokens.own + elapsed * share.rate).min(share.burst);
        tokens.own_at = now;
        tokens.used_at = now;
        if tokens.own >= 1.0 {
            tokens.own -= 1.0;
            return Grant {
                left: tokens.own,
                retry_after: None,
            };
        }
        Grant {
            left: 0.0,
            retry_after: Some(Duration::from_secs_f64((1.0 - tokens.own) / share.rate)),
        }
    }

    /// Whether it can be dropped: unused for so long that it is full again.
    pub(super) fn is_idle(&self, now: Instant, full_after: Duration) -> bool {
        now.saturating_duration_since(self.tokens().used_at) > full_after
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
