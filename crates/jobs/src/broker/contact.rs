//! How long this process has been in touch with the server without a break.
//!
//! Silence proves something only while the server could have heard. After an outage every worker looks silent, so nobody
//! is taken for lost, and nothing for ownerless, before each living worker had the time to be heard of again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::mode::{DegradedReason, Mode};
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether heartbeats arrive: also while the server lacks nothing but memory.
pub(super) fn serves(mode: &Mode) -> bool {
    mode.is_normal() || mode.reason() == Some(DegradedReason::OutOfMemory)
}

/// Follows the gate's mode from its first question on.
#[derive(Debug)]
pub(super) struct Contact(Mutex<GateHistory>);

#[derive(Debug)]
struct GateHistory {
    mode: watch::Receiver<Mode>,
    /// Since when the server has served.
    since: Option<Instant>,
}

impl Contact {
    pub(super) fn new(mode: watch::Receiver<Mode>) -> Self {
        Self(Mutex::new(GateHistory { mode, since: None }))
    }

    /// Whether the server has served for `duration` without a break, as far as this process knows. The first question
    /// begins the count.
    pub(super) fn unbroken_for(&self, duration: Duration) -> bool {
        let mut followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Any change since the last question was a break, however short.
        let changed = followed.mode.has_changed().unwrap_or(true);
        let serves = serves(&followed.mode.borrow_and_update());
        if !serves {
            followed.since = None;
            return false;
        }
        if changed || followed.since.is_none() {
            followed.since = Some(Instant::now());
        }
        followed.since.is_some_and(|since| since.elapsed() >= duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_break_begins_the_count_anew_even_if_nobody_asked_meanwhile() {
        let away = Mode::Degraded {
            since: chrono::DateTime::UNIX_EPOCH,
            reason: DegradedReason::TimedOut,
        };
        let (mode, watch) = watch::channel(Mode::Normal);
        let contact = Contact::new(watch);
        let patience = Duration::from_secs(15);
        assert!(contact.unbroken_for(Duration::ZERO));
        assert!(!contact.unbroken_for(patience));
        tokio::time::advance(patience).await;
        assert!(contact.unbroken_for(patience));

        mode.send_replace(away);
        assert!(!contact.unbroken_for(Duration::ZERO));
        mode.send_replace(Mode::Normal);
        assert!(!contact.unbroken_for(patience));
        tokio::time::advance(patience).await;
        assert!(contact.unbroken_for(patience));

        mode.send_replace(away);
        mode.send_replace(Mode::Normal);
        assert!(!contact.unbroken_for(patience));
    }
}
