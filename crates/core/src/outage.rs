//! An outage is logged once, however many gates of this process use the server.
//!
//! Queue and cache are the same Redis unless the settings say otherwise, and `holdfast dev` opens the gates of three
//! services: each has a breaker and a mode of its own, but an operator wants one warning when the server becomes
//! unavailable and one line when it recovers. So the first gate that loses a server warns, and the last that recovers
//! reports the end. Gates of the database use the same table.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Gates that are without their server now, by the server's address.
static AWAY: LazyLock<Mutex<HashMap<String, usize>>> = LazyLock::new(Mutex::default);

/// One gate's part in the outages of its server. A gate that is dropped takes its part back.
#[derive(Debug)]
pub(crate) struct Outage {
    server: String,
    counted: Mutex<bool>,
}

impl Outage {
    /// `server`: host and port, or the path of a socket or file, without credentials.
    pub(crate) fn new(server: String) -> Self {
        Self {
            server,
            counted: Mutex::new(false),
        }
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The gate lost its server. Answers whether it is the first, and hence tells.
    pub(crate) fn began(&self) -> bool {
        let mut counted = lock(&self.counted);
        if std::mem::replace(&mut *counted, true) {
            return false;
        }
        let mut away = lock(&AWAY);
        let gates = away.entry(self.server.clone()).or_default();
        *gates += 1;
        *gates == 1
    }

    /// The gate has its server again. Answers whether it is the last, and hence tells.
    pub(crate) fn ended(&self) -> bool {
        if !std::mem::take(&mut *lock(&self.counted)) {
            return false;
        }
        let mut away = lock(&AWAY);
        let Some(gates) = away.get_mut(&self.server) else {
            return false;
        };
        *gates -= 1;
        let last = *gates == 0;
        if last {
            away.remove(&self.server);
        }
        last
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.ended();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gate_tells_the_beginning_and_the_last_the_end() {
        let [queue, cache] = ["one:6379", "one:6379"].map(|server| Outage::new(server.to_owned()));
        assert!(queue.began());
        assert!(!queue.began(), "told already");
        assert!(!cache.began(), "the same server");
        assert!(!queue.ended(), "the cache is without it still");
        assert!(cache.ended());
        assert!(!cache.ended(), "told already");
        assert!(cache.began(), "the next outage");
        assert!(cache.ended());
    }

    #[test]
    fn servers_are_told_apart_and_a_dropped_gate_counts_no_more() {
        let [queue, cache] = ["two:6379", "three:6379"].map(|server| Outage::new(server.to_owned()));
        assert!(queue.began());
        assert!(cache.began());
        drop(queue);
        assert!(Outage::new("two:6379".to_owned()).began());
        assert!(cache.ended());
    }
}
