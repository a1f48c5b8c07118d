//! Announcements between processes: a channel of Redis that names what was written.
//!
//! # Invariants
//! - Nothing depends on an announcement: waiters are polled for too.
//! - [`Bell::ring`] neither waits nor fails. One task sends what is pending, one round trip at a time; beyond [`MAX_PENDING`] names
//!   announcements are dropped.
//! - A process listens from the first request that waits on, on a connection of its own.
//!
//! # When things fail
//! While Redis is unavailable nothing is sent, and [`Bell::is_heard`] is false, so that the process polls more often.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::redis::{GateError, RedisGate, Subscription};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::hub::{Board, Key};

const CHANNEL: &str = "holdfast:results";

/// Names that are pending at most, and that one announcement has.
const MAX_PENDING: usize = 10_000;

/// After an announcement that was not sent.
const PAUSE: Duration = Duration::from_millis(100);

/// Between attempts to listen.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Announces what this process writes, and hears what others announce. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: RedisGate,
    pending: Mutex<HashSet<Key>>,
    rung: Notify,
    wanted: AtomicBool,
    listen: Notify,
    heard: AtomicBool,
    changed: Notify,
}

impl Bell {
    /// The tasks end with `stop`.
    pub(crate) fn start(gate: &RedisGate, board: &Arc<Board>, stop: &CancellationToken) -> Self {
        let bell = Self(Arc::new(Inner {
            gate: gate.clone(),
            pending: Mutex::default(),
            rung: Notify::new(),
            wanted: AtomicBool::new(false),
            listen: Notify::new(),
            heard: AtomicBool::new(false),
            changed: Notify::new(),
        }));
        if gate.is_configured() {
            let sending = send_pending(bell.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(sending));
            let hearing = hear(bell.clone(), Arc::clone(board));
            tokio::spawn(stop.clone().run_until_cancelled_owned(hearing));
        }
        bell
    }

    pub(crate) fn ring(&self, keys: Vec<Key>) {
        if keys.is_empty() || !self.0.gate.mode().is_normal() {
            return;
        }
        {
            let mut pending = self.pending();
            let room = MAX_PENDING.saturating_sub(pending.len());
            pending.extend(keys.into_iter().take(room));
        }
        self.0.rung.notify_one();
    }

    /// A request waits.
    pub(crate) fn listen(&self) {
        if !self.0.wanted.swap(true, Ordering::AcqRel) {
            self.0.listen.notify_one();
        }
    }

    /// Whether the announcements of other processes are heard.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.heard.load(Ordering::Acquire)
    }

    /// Resolves when [`Self::is_heard`] has changed.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn set_heard(&self, heard: bool) {
        self.0.heard.store(heard, Ordering::Release);
        self.0.changed.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(&self, keys: &HashSet<Key>) -> Result<(), GateError> {
        let text = encode(keys);
        let publish = |mut connection| async move {
            let mut command = redis::cmd("PUBLISH");
            command.arg(CHANNEL).arg(text);
            command.query_async(&mut connection).await
        };
        self.0.gate.run("results.announce", publish).await
    }
}

async fn send_pending(bell: Bell) {
    loop {
        bell.0.rung.notified().await;
        let keys = std::mem::take(&mut *bell.pending());
        if keys.is_empty() {
            continue;
        }
        if let Err(error) = bell.publish(&keys).await {
            tracing::debug!(error = %error, "an announcement of results was lost; other processes poll");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn hear(bell: Bell, board: Arc<Board>) {
    while !bell.0.wanted.load(Ordering::Acquire) {
        bell.0.listen.notified().await;
    }
    let mut failures = 0;
    loop {
        let mut mode = bell.0.gate.watch();
        // Ends with the gate, that is with the process.
        if mode.wait_for(holdfast_core::mode::Mode::is_normal).await.is_err() {
            return;
        }
        match bell.0.gate.subscribe(CHANNEL).await {
            Ok(subscription) => {
                failures = 0;
                bell.set_heard(true);
                // A server that is lost in silence is noticed by its mode first.
                tokio::select! {
                    () = notify_all(subscription, &board) => {}
                    _ = mode.wait_for(|mode| !mode.is_normal()) => {}
                }
                bell.set_heard(false);
                // A server that accepts subscriptions and ends them is not asked without a pause.
                tokio::time::sleep(RETRY.delay(1)).await;
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(error = %error, "announcements of results cannot be heard yet");
                tokio::time::sleep(RETRY.delay(failures)).await;
            }
        }
    }
}

async fn notify_all(mut subscription: Subscription, board: &Board) {
    while let Some(message) = subscription.next().await {
        board.notify(decode(&message));
    }
}

/// A JSON list of names, `d` before that of a document, `c` before that of a channel.
fn encode(keys: &HashSet<Key>) -> String {
    let names = keys.iter().map(|key| match key {
        Key::Document(id) => format!("d{id}"),
        Key::Channel(name) => format!("c{name}"),
    });
    names.collect::<serde_json::Value>().to_string()
}

/// What is no announcement of ours names nothing.
fn decode(message: &[u8]) -> Vec<Key> {
    let names: Vec<String> = serde_json::from_slice(message).unwrap_or_default();
    let key = |name: &String| {
        let mut letters = name.chars();
        match letters.next() {
            Some('d') => Some(Key::Document(letters.as_str().to_owned())),
            Some('c') => Some(Key::Channel(letters.as_str().to_owned())),
            _ => None,
        }
    };
    names.iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_survives_the_way_and_other_messages_name_nothing() {
        let keys = HashSet::from([Key::Document("a \"b\"".to_owned()), Key::Channel("a".to_owned())]);
        assert_eq!(
            decode(encode(&keys).as_bytes())
                .into_iter()
                .collect::<HashSet<_>>(),
            keys
        );
        for odd in ["", "{}", "[1]", "[\"x\", \"\"]"] {
            assert_eq!(decode(odd.as_bytes()), [], "{odd}");
        }
    }
}
