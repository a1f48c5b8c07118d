//! How far a worker has come: waiting for its database, or working. Told by the worker, read by whoever embeds it.

use std::sync::Arc;

use holdfast_jobs::worker::Watchdog;
use tokio::sync::watch;

/// Cheap to clone; all clones tell of the same worker.
#[derive(Debug, Clone)]
pub struct Progress(Arc<watch::Sender<Option<Watchdog>>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Progress {
    /// Returns once the worker has begun to work, at once if it has.
    pub async fn begun(&self) {
        // The sender is in our hands, so the wait can only end with what is waited for.
        self.0.subscribe().wait_for(Option::is_some).await.ok();
    }

    /// The view on the working worker; `None` before it has begun.
    pub fn watchdog(&self) -> Option<Watchdog> {
        self.0.borrow().clone()
    }

    pub(crate) fn begin(&self, watchdog: Watchdog) {
        self.0.send_replace(Some(watchdog));
    }
}
