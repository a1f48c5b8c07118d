//! Changes, announced to every process over one channel, and the tasks that listen and catch up.
//!
//! # States
//!
//! *Deaf* (Redis away, or the channel not open yet): copies live for `cache.local_ttl` and no longer. *Listening*: they
//! are dropped as soon as their value changes anywhere. Whenever the state changes, all copies are doubted: what
//! happened in between was heard by nobody.
//!
//! The *listener* keeps the channel open; the *settler* tells Redis what changed without it. Both live as long as the
//! cache, and no failure ends them.
//!
//! Pub/sub, not client-side tracking: see docs/adr/0006.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::mode::Mode;
use holdfast_core::redis::{GateError, Subscription};
use tokio_util::sync::CancellationToken;

use crate::cache::Inner;
use crate::stats::count;

pub(crate) const CHANNEL: &str = "holdfast:cache-changes";

/// Between attempts to open the channel, or to tell Redis what it missed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Changes told in one pipeline.
const SETTLE_BATCH: usize = 500;

/// One announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// A value was stored or deleted.
    Key(&'a str),
    /// A namespace was forgotten.
    Namespace { name: &'a str, generation: u64 },
    /// A session was revoked.
    Session { user: &'a str, id: &'a str },
    /// All sessions of a user that were created until then, in milliseconds since the Unix epoch.
    User { user: &'a str, until_ms: u64 },
}

impl<'a> Change<'a> {
    /// `<origin> <word> <arguments>`, blanks between. No argument but the last may hold a blank.
    pub(crate) fn encode(&self, origin: u64) -> String {
        match self {
            Self::Key(key) => format!("{origin:016x} key {key}"),
            Self::Namespace { name, generation } => format!("{origin:016x} namespace {generation} {name}"),
            Self::Session { user, id } => format!("{origin:016x} session {user} {id}"),
            Self::User { user, until_ms } => format!("{origin:016x} user {until_ms} {user}"),
        }
    }

    /// The origin and the change; `None` for what is no announcement of ours.
    pub(crate) fn decode(text: &'a str) -> Option<(u64, Self)> {
        let (origin, rest) = text.split_once(' ')?;
        let (word, rest) = rest.split_once(' ')?;
        let origin = u64::from_str_radix(origin, 16).ok()?;
        let pair = || rest.split_once(' ');
        let change = match word {
            "key" => Self::Key(rest),
            "namespace" => {
                let (number, name) = pair()?;
                Self::Namespace {
                    name,
                    generation: number.parse().ok()?,
                }
            }
            "session" => {
                let (user, id) = pair()?;
                Self::Session { user, id }
            }
            "user" => {
                let (until, user) = pair()?;
                Self::User {
                    user,
                    until_ms: until.parse().ok()?,
                }
            }
            _ => return None,
        };
        Some((origin, change))
    }
}

/// Starts both tasks; they end when `stop` is cancelled.
pub(crate) fn spawn(inner: &Arc<Inner>, stop: &CancellationToken) {
    let (listening, settling) = (Arc::clone(inner), Arc::clone(inner));
    let (stop_listening, stop_settling) = (stop.clone(), stop.clone());
    inner
        .runtime
        .spawn(async move { stop_listening.run_until_cancelled(listen(&listening)).await });
    inner
        .runtime
        .spawn(async move { stop_settling.run_until_cancelled(settle(&settling)).await });
}

async fn listen(inner: &Inner) {
    let mut failures = 0;
    loop {
        serving(inner).await;
        inner.local.doubt_all();
        match inner.remote.gate.subscribe(CHANNEL).await {
            Ok(subscription) => {
                failures = 0;
                // What changed before the channel was open.
                inner.local.doubt_all();
                hear(inner, subscription).await;
                inner.local.doubt_all();
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the channel for cache invalidation cannot be opened"
                );
                tokio::time::sleep(RETRY.delay(failures)).await;
            }
        }
    }
}

/// Follows the channel until it is lost or Redis goes away.
async fn hear(inner: &Inner, mut subscription: Subscription) {
    let mut mode = inner.remote.gate.watch();
    inner.listening(true);
    loop {
        tokio::select! {
            message = subscription.next() => match message {
                Some(message) => follow(inner, &message),
                None => break,
            },
            _ = mode.wait_for(|mode| !mode.is_normal()) => break,
        }
    }
    inner.listening(false);
}

fn follow(inner: &Inner, message: &[u8]) {
    let Some((origin, change)) = std::str::from_utf8(message).ok().and_then(Change::decode) else {
        return;
    };
    if origin == inner.remote.origin {
        return;
    }
    match change {
        Change::Key(key) => {
            if let Some(class) = inner.class_of_copy(key) {
                count(&inner.counters.of(class).invalidations);
            }
            inner.flights.abandon(key);
            inner.local.forget(key);
        }
        Change::Namespace { name, generation } => inner.generations.heard(name, generation),
        Change::Session { user, id } => inner.sessions.heard_revoked(user, id),
        Change::User { user, until_ms } => inner.sessions.heard_all_revoked(user, until_ms),
    }
}

async fn settle(inner: &Inner) {
    let mut failures = 0;
    loop {
        tokio::select! {
            () = inner.pending.arrived() => {}
            () = inner.sessions.arrived() => {}
        }
        serving(inner).await;
        if let Err(error) = settle_once(inner).await {
            failures += 1;
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "changes of the cache still wait for Redis"
            );
            tokio::time::sleep(RETRY.delay(failures)).await;
        } else {
            failures = 0;
        }
    }
}

async fn settle_once(inner: &Inner) -> Result<(), GateError> {
    let batch = inner.pending.batch(SETTLE_BATCH);
    if !batch.is_empty() {
        inner.remote.settle(&batch).await?;
        inner.pending.remove(&batch);
    }
    inner.sessions.settle(&inner.remote).await
}

/// Waits until Redis serves; for ever if there is none.
async fn serving(inner: &Inner) {
    let mut mode = inner.remote.gate.watch();
    let no_gate = mode.wait_for(Mode::is_normal).await.is_err();
    if no_gate {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_announcement_comes_back_as_it_was() {
        for change in [
            Change::Key("holdfast:cache:static:a.1:1:x"),
            Change::Namespace {
                name: "static:a.1",
                generation: u64::MAX,
            },
            Change::Session { user: "u", id: "s" },
            Change::User {
                user: "u",
                until_ms: 1_700_000_000_000,
            },
        ] {
            assert_eq!(Change::decode(&change.encode(42)), Some((42, change)));
        }
    }

    #[test]
    fn what_others_publish_is_ignored() {
        for text in ["", "hello", "zz key x", "2a wordless", "2a word x", "2a user x y"] {
            assert_eq!(Change::decode(text), None, "{text:?}");
        }
    }
}
