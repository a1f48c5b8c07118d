//! How far a service has come: waiting for its database, or at work. Reported by the service, read by its health.

use std::sync::Arc;

use tokio::sync::watch;

/// Holds a view on the work once it has begun. Cheap to clone; all clones report on the same service.
#[derive(Debug, Clone)]
pub struct Progress<T>(Arc<watch::Sender<Option<T>>>);

impl<T> Default for Progress<T> {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl<T: Clone> Progress<T> {
    /// Returns once the work has begun, immediately if it has.
    pub async fn begun(&self) {
        // The sender lives as long as `self`, so the wait can only end with the beginning.
        self.0.subscribe().wait_for(Option::is_some).await.ok();
    }

    /// The view on the work; `None` before it has begun.
    pub fn view(&self) -> Option<T> {
        self.0.borrow().clone()
    }

    pub(crate) fn begin(&self, view: T) {
        self.0.send_replace(Some(view));
    }
}
