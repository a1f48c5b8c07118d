//! How often the ledger is looked at where the bell might not have been heard: by Rust workers and for waiting pulls.

use std::time::Duration;

use holdfast_core::config::WorkerSettings;
use tokio::time::Instant;

/// How long after the bell came back looks are as frequent as without one: a producer's own gate may open later than ours,
/// and what it enqueues until then is not rung.
const POLL_AFTER_RECOVERY: Duration = Duration::from_secs(3);

/// Looks come every `safety_poll` while the bell works; without a bell, and for a moment after it came back, every 50 to 250 ms,
/// more often after one that found something.
#[derive(Debug)]
pub(crate) struct LookPace {
    safety: Duration,
    least: Duration,
    most: Duration,
    pause: Duration,
    answered: bool,
    without_bell: Instant,
}

impl LookPace {
    pub(crate) fn new(settings: &WorkerSettings) -> Self {
        Self {
            safety: settings.safety_poll,
            least: settings.degraded_poll_min,
            most: settings.degraded_poll_max,
            pause: settings.degraded_poll_min,
            answered: true,
            without_bell: Instant::now(),
        }
    }

    /// The pause before the next look.
    pub(crate) fn pause(&mut self, has_bell: bool) -> Duration {
        if !has_bell {
            self.without_bell = Instant::now();
        }
        let is_settled = self.answered && self.without_bell.elapsed() > POLL_AFTER_RECOVERY;
        if is_settled { self.safety } else { self.pause }
    }

    /// What a look found: whether anything is due; `None`: it got no answer.
    pub(crate) fn looked(&mut self, found: Option<bool>) {
        self.answered = found.is_some();
        self.pause = match found {
            Some(true) => self.least,
            Some(false) | None => (self.pause * 2).min(self.most),
        };
    }
}
