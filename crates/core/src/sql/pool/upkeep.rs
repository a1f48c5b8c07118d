//! Closes connections that rested for too long, and opens those that are always to be there.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{IdleConnection, MAX_LIFETIME, Pool, lock};

/// Between looks for connections that rested for too long.
const UPKEEP: Duration = Duration::from_secs(30);

/// Closes what rested for too long and keeps `min_connections` open. Ends with the pool.
pub(super) async fn keep_up(pool: Weak<Pool>) {
    loop {
        let Some(pool_now) = pool.upgrade() else { return };
        let pause = (pool_now.idle_timeout / 2).min(UPKEEP);
        pool_now.close_rested().await;
        pool_now.open_missing().await;
        drop(pool_now);
        sleep(pause).await;
    }
}

impl Pool {
    async fn close_rested(&self) {
        let is_over = |rested: &IdleConnection| {
            rested.since.elapsed() > self.idle_timeout || rested.link.opened.elapsed() > MAX_LIFETIME
        };
        let over: VecDeque<IdleConnection> = {
            let mut resting = lock(&self.resting);
            let (over, still) = resting.drain(..).partition(is_over);
            *resting = still;
            over
        };
        for rested in over {
            self.close_link(rested.link).await;
        }
    }

    async fn open_missing(self: &Arc<Self>) {
        while self.open.load(Ordering::Relaxed) < self.min && !self.is_closed.load(Ordering::Relaxed) {
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                return;
            };
            match timeout(self.acquire_timeout, self.connect()).await {
                Ok(Ok(link)) => self.put_back(link, permit),
                _ => return,
            }
        }
    }
}
