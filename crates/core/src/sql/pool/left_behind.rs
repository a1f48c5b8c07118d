//! What the pool gave up: sessions that the server has to end, and the permits that they hold until it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Connection;
use sqlx_core::transaction::TransactionManager;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::session::Manager;
use super::{Backend, Link, Pool, lock};
use crate::sql::measure;

/// How long a session that was dropped without an end may take to come to rest before it counts as abandoned.
const COMES_TO_REST: Duration = Duration::from_millis(250);

/// How long a cancelled statement may take to answer before its wire is taken for dead.
const ANSWERS_CANCEL: Duration = Duration::from_secs(1);

/// Added to `statement_timeout`: after both a statement has ended even if the server could not be asked.
const CERTAINLY: Duration = Duration::from_secs(1);

/// A session of the server whose connection is closed or given up on this side.
pub(super) struct LeftBehind {
    backend: Backend,
    /// Only its statement is to be cancelled: the connection still waits for the answer.
    only_cancel: bool,
    permit: Option<OwnedSemaphorePermit>,
    /// When the permit is given back even if the server could not be asked.
    certain_at: Instant,
}

impl Pool {
    /// Drops a connection that broke. Its session may live on at the server: the attendant has it ended, and gives the
    /// permit back when it is.
    pub(super) fn leave_behind(&self, link: Link, permit: Option<OwnedSemaphorePermit>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        let Link { raw, backend, .. } = link;
        drop(raw);
        if let Some(backend) = backend {
            self.ask_to_end(backend, false, permit);
        }
    }

    pub(super) fn ask_to_end(
        &self,
        backend: Backend,
        only_cancel: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let mut left_behind = lock(&self.left_behind);
        if left_behind.len() >= self.max * 4 {
            left_behind.remove(0);
        }
        left_behind.push(LeftBehind {
            backend,
            only_cancel,
            permit,
            certain_at: Instant::now() + self.bounds.statement + CERTAINLY,
        });
        drop(left_behind);
        self.gate.suspect();
    }

    /// What the attendant has to end; permits whose time is certainly over are given back.
    pub(in crate::sql) fn to_be_ended(&self) -> Vec<(Backend, bool)> {
        let now = Instant::now();
        let mut left_behind = lock(&self.left_behind);
        for one in left_behind.iter_mut().filter(|one| one.certain_at <= now) {
            one.permit = None;
        }
        left_behind
            .iter()
            .map(|one| (one.backend, one.only_cancel))
            .collect()
    }

    /// The server was asked: these sessions are there still, the others that were asked about are not.
    pub(in crate::sql) fn were_ended(&self, asked: &[(Backend, bool)], remaining: &[Backend]) {
        let mut left_behind = lock(&self.left_behind);
        left_behind.retain_mut(|one| {
            if !asked.contains(&(one.backend, one.only_cancel)) {
                return true;
            }
            let is_there = remaining.contains(&one.backend);
            if is_there {
                // It can be asked about: only its end is certain.
                one.certain_at = Instant::now() + self.bounds.statement + CERTAINLY;
            }
            is_there && !one.only_cancel
        });
        drop(left_behind);
        self.freed.notify_one();
    }

    pub(in crate::sql) fn has_left_behind(&self) -> bool {
        !lock(&self.left_behind).is_empty()
    }

    /// Brings a session that was dropped before its end to rest, or sees to it that the server ends it.
    pub(super) async fn settle(
        self: Arc<Self>,
        mut link: Link,
        permit: OwnedSemaphorePermit,
        operation: &'static str,
        may_have_begun: bool,
    ) {
        while Manager::get_transaction_depth(&link.raw) > 0 {
            Manager::start_rollback(&mut link.raw);
        }
        let comes_to_rest = async {
            link.raw.flush().await?;
            if may_have_begun {
                sqlx::raw_sql("ROLLBACK").execute(&mut link.raw).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        match timeout(COMES_TO_REST, comes_to_rest).await {
            Ok(Ok(())) => self.put_back(link, permit),
            Ok(Err(_)) => self.leave_behind(link, Some(permit)),
            Err(_still_busy) => {
                measure::record_abandoned(operation);
                let _counted = AbandonedConnection::count(&self);
                self.abandon(link, permit, operation).await;
            }
        }
    }

    async fn abandon(&self, mut link: Link, permit: OwnedSemaphorePermit, operation: &'static str) {
        let certain = self.bounds.statement + CERTAINLY;
        let patience = match link.backend {
            Some(backend) => {
                self.ask_to_end(backend, true, None);
                ANSWERS_CANCEL
            }
            None => certain,
        };
        tracing::debug!(
            sql.operation = operation,
            "a statement was given up and cancelled"
        );
        match timeout(patience, link.raw.flush()).await {
            // It was interrupted in the middle of whatever it did: the next user shall not depend on that.
            Ok(Ok(())) => {
                self.close_link(link).await;
                drop(permit);
            }
            Ok(Err(_)) => self.leave_behind(link, Some(permit)),
            Err(_silence) => {
                self.doubt_wires();
                let backend = link.backend;
                self.leave_behind(link, Some(permit));
                if let Some(backend) = backend {
                    self.wait_for_end_of(backend).await;
                }
            }
        }
    }

    /// For the count of abandoned connections.
    async fn wait_for_end_of(&self, backend: Backend) {
        while lock(&self.left_behind)
            .iter()
            .any(|one| one.backend == backend && one.permit.is_some())
        {
            sleep(COMES_TO_REST).await;
        }
    }
}

/// An abandoned connection, as long as its place is taken.
struct AbandonedConnection<'a>(&'a Pool);

impl<'a> AbandonedConnection<'a> {
    fn count(pool: &'a Pool) -> Self {
        pool.abandoned.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for AbandonedConnection<'_> {
    fn drop(&mut self) {
        self.0.abandoned.fetch_sub(1, Ordering::Relaxed);
    }
}
