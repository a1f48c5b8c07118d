//! How far a beat has come: waiting for its database, or ticking. Told by the beat, read by its health.

use std::sync::Arc;

use holdfast_jobs::schedules::Vitals;
use tokio::sync::watch;

/// Cheap to clone; all clones tell of the same beat.
#[derive(Debug, Clone)]
pub struct Progress(Arc<watch::Sender<Option<Vitals>>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Progress {
    /// Returns once the beat has begun to tick, at once if it has.
    pub async fn begun(&self) {
        // The sender is in our hands, so the wait can only end with what is waited for.
        self.0.subscribe().wait_for(Option::is_some).await.ok();
    }

    /// How the ticking beat does; `None` before it has begun.
    pub fn vitals(&self) -> Option<Vitals> {
        self.0.borrow().clone()
    }

    pub(crate) fn begin(&self, vitals: Vitals) {
        self.0.send_replace(Some(vitals));
    }
}
