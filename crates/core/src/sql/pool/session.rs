//! A connection in use, and a transaction on it. What becomes of a session that is dropped: see the pool.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::OwnedSemaphorePermit;

use super::{Link, Pool};
use crate::failure::ended_session;
use crate::sql::Bounds;

pub(super) type Manager = <Postgres as sqlx::Database>::TransactionManager;

/// What is known about a session that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It may be in the middle of a statement or a transaction.
    Unknown,
    /// Its last statement was answered.
    Resting,
    /// The server ended it, or its wire broke.
    Broken,
}

/// A connection in use. What happens when it is dropped: see the module.
pub struct PgSession {
    pub(super) link: Option<Link>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) pool: Arc<Pool>,
    pub(super) operation: &'static str,
    pub(super) bounds: Bounds,
    pub(super) state: Condition,
    /// A `BEGIN` was sent whose answer did not arrive whole. The driver counts a transaction from the answer on, so a session that is
    /// dropped meanwhile, or whose `SET LOCAL` failed, is in a transaction of which the driver knows nothing.
    pub(super) may_have_begun: bool,
}

impl PgSession {
    /// Begins a transaction with the bounds of its unit of work.
    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let in_session = !self.pool.is_pooled.load(Ordering::Relaxed);
        let begin = self.pool.bounds.begin(self.bounds, in_session);
        self.may_have_begun = true;
        let begun = Manager::begin(self, Some(AssertSqlSafe(begin).into_sql_str())).await;
        self.may_have_begun = begun.is_err();
        self.note(begun)
    }

    /// Does the work in a transaction with the bounds of its unit, and commits, or rolls back if it fails.
    pub(super) async fn in_transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.begin().await?;
        match work(self).await {
            Ok(done) => {
                Manager::commit(self).await?;
                Ok(done)
            }
            Err(error) => {
                if !ended_session(&error) {
                    // A session that is not rolled back is settled when it is dropped; what failed is the work.
                    let _rolled_back = Manager::rollback(self).await;
                }
                Err(error)
            }
        }
    }

    /// The work on it has ended, so that nothing is under way.
    pub(in crate::sql) fn ended(&mut self, error: Option<&sqlx::Error>) {
        self.state = match error {
            Some(error) if ended_session(error) => Condition::Broken,
            _ if self.may_have_begun || Manager::get_transaction_depth(self) > 0 => Condition::Unknown,
            _ => Condition::Resting,
        };
    }

    fn note<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if let Err(error) = &result {
            self.ended(Some(error));
        }
        result
    }
}

impl Deref for PgSession {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "it is taken in `drop` alone")]
    fn deref(&self) -> &PgConnection {
        &self
            .link
            .as_ref()
            .expect("a session in use has its connection")
            .raw
    }
}

impl DerefMut for PgSession {
    #[expect(clippy::expect_used, reason = "it is taken in `drop` alone")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self
            .link
            .as_mut()
            .expect("a session in use has its connection")
            .raw
    }
}

impl fmt::Debug for PgSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSession")
            .field("operation", &self.operation)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Drop for PgSession {
    fn drop(&mut self) {
        let (Some(link), Some(permit)) = (self.link.take(), self.permit.take()) else {
            return;
        };
        let pool = &self.pool;
        match (self.state, tokio::runtime::Handle::try_current()) {
            (Condition::Broken, _) => pool.leave_behind(link, Some(permit)),
            (Condition::Resting, Ok(_)) => pool.put_back(link, permit),
            (Condition::Unknown, Ok(runtime)) => {
                let may_have_begun = self.may_have_begun;
                runtime.spawn(Arc::clone(pool).settle(link, permit, self.operation, may_have_begun));
            }
            // The runtime is gone, and the process with it.
            (_, Err(_)) => {}
        }
    }
}

/// A transaction of our own; rolled back when it is dropped.
#[derive(Debug)]
pub struct PgTx(PgSession);

impl PgTx {
    /// With the bounds of the session's unit of work.
    pub(super) async fn begin(mut session: PgSession) -> Result<Self, sqlx::Error> {
        session.begin().await?;
        Ok(Self(session))
    }

    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        let done = Manager::commit(&mut self.0).await;
        self.0.ended(done.as_ref().err());
        done
    }

    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let done = Manager::rollback(&mut self.0).await;
        self.0.ended(done.as_ref().err());
        done
    }
}

impl Deref for PgTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for PgTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
