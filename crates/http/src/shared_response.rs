//! An answer that is made once and served for a while, whoever asks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::runtime::Handle;
use tokio::time::Instant;

/// Whoever asks while one is being made gets that one: a thousand callers cost one look. It is made on the process' own
/// runtime: each HTTP thread has one of its own, which no pooled connection may belong to.
pub(crate) struct SharedResponse<T> {
    period: Duration,
    runtime: Handle,
    state: Mutex<Option<PendingAnswer<T>>>,
}

type Answer<T> = Shared<BoxFuture<'static, Option<Arc<T>>>>;

struct PendingAnswer<T> {
    begun: Instant,
    answer: Answer<T>,
}

impl<T: Send + Sync + 'static> SharedResponse<T> {
    /// Call it inside tokio.
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period,
            runtime: Handle::current(),
            state: Mutex::new(None),
        }
    }

    /// The one that is kept or being made, or a new one. `None`: making it panicked, or the runtime is shutting down.
    pub(crate) fn get<F>(&self, make: impl FnOnce() -> F) -> Answer<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(making) = &*state
            && making.begun.elapsed() < self.period
        {
            return making.answer.clone();
        }
        // A task of its own: whoever asked first may hang up, and the others still get their answer.
        let task = self.runtime.spawn(make());
        let answer = async move { task.await.ok().map(Arc::new) }.boxed().shared();
        *state = Some(PendingAnswer {
            begun: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }
}

impl<T> fmt::Debug for SharedResponse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedResponse")
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}
