//! The connections to PostgreSQL: a pool that knows what it gave up.
//!
//! # Invariants
//! - Every connection, in use or given up, holds a permit; connections at rest hold none, and a new one is opened only when
//!   none is at rest. So the server never has more than `database.max_connections` of this process, and one of the
//!   attendant's ([`super::attendant`]).
//! - A session that is dropped at rest goes back at once, without a round trip. One that is dropped in mid-statement is
//!   *abandoned*: its statement is cancelled on the server, its connection is closed, and its permit stays taken until the
//!   server has answered, or says that the session is gone, or cannot be reached and `statement_timeout` has certainly
//!   passed.
//! - No connection at rest is in a transaction. The driver does not know of one whose `BEGIN` was not answered when its caller left, so
//!   the session remembers that it was sent, and is rolled back before it rests: else the next user's writes, answered as
//!   written, would be part of it, and lost when the session ends.
//! - A connection that rested is tested before it is used again if it rested for [`TRUSTED_REST`], or since before a wire was
//!   found dead: whatever cut one wire without a word (a NAT that forgot) may have cut the others.
//!
//! # Direct, or behind a pooler
//! A direct connection carries the bounds as start-up options. A transaction pooler refuses those, and so does a server
//! that does not know one of them; then the pool connects without, remembers it, and every unit of work begins with the
//! message that sets its bounds ([`super::bounds`]). A proxy that ignores the options without a word is found
//! out when the first connection reads its bounds back. Behind a pooler nothing can be cancelled by process id: the pooler
//! ends what its client left, or `statement_timeout` does.

mod left_behind;
mod session;
mod upkeep;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use self::left_behind::LeftBehind;
use self::session::Condition;
pub use self::session::{PgSession, PgTx};
use super::bounds::{Bounds, ServerBounds};
use super::gate::Gate;
use super::unit::{self, UnitError};
use super::{SqlError, SqlPoolStats, attendant, postgres};
use crate::config::DatabaseSettings;
use crate::failure::sql_outage;
use crate::mode::{DegradedReason, Mode};

/// A connection that rested for less is handed out untested.
const TRUSTED_REST: Duration = Duration::from_secs(1);

/// Longest test of a connection that rested. Shorter than any acquire timeout, so that a black-holed connection leaves
/// time to open another.
const TEST_DEADLINE: Duration = Duration::from_millis(500);

/// A connection is replaced after this long, so that a new server behind a name gets its share.
const MAX_LIFETIME: Duration = Duration::from_mins(30);

/// How long one call tries to connect to a server that refuses.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// An open PostgreSQL database. Clones share the connections.
#[derive(Clone)]
pub struct PostgresDatabase(pub(super) Arc<Pool>);

/// See the module.
pub(super) struct Pool {
    pub(super) gate: Arc<Gate>,
    pub(super) bounds: ServerBounds,
    direct: PgConnectOptions,
    plain: PgConnectOptions,
    is_pooled: AtomicBool,
    max: usize,
    min: usize,
    acquire_timeout: Duration,
    idle_timeout: Duration,
    permits: Arc<Semaphore>,
    resting: Mutex<VecDeque<IdleConnection>>,
    /// A connection came to rest, or a permit is free.
    freed: Notify,
    /// Connections that exist, in use or at rest.
    open: AtomicUsize,
    abandoned: AtomicUsize,
    /// When a wire was last found dead.
    doubted: Mutex<Option<Instant>>,
    left_behind: Mutex<Vec<LeftBehind>>,
    is_closed: AtomicBool,
}

/// The server's session of a direct connection. The start makes it unique: process ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) pid: i32,
    /// Microseconds since the epoch, by the server's clock.
    pub(super) started: i64,
}

/// A connection and what is known about it.
struct Link {
    raw: PgConnection,
    backend: Option<Backend>,
    opened: Instant,
}

struct IdleConnection {
    link: Link,
    since: Instant,
}

impl PostgresDatabase {
    /// Prepares the pool without connecting: the server may come later. Must run inside a tokio runtime.
    pub(super) fn open(settings: &DatabaseSettings) -> Result<Self, SqlError> {
        let plain = postgres::connect_options(&settings.url)?;
        let bounds = ServerBounds::new(settings);
        let max = settings.max_connections as usize;
        let pool = Arc::new(Pool {
            gate: Arc::new(Gate::new(postgres::server(&plain))),
            direct: plain.clone().options(bounds.startup_options()),
            plain,
            bounds,
            is_pooled: AtomicBool::new(false),
            max,
            min: settings.min_connections as usize,
            acquire_timeout: settings.acquire_timeout,
            idle_timeout: settings.idle_timeout,
            permits: Arc::new(Semaphore::new(max)),
            resting: Mutex::default(),
            freed: Notify::new(),
            open: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            doubted: Mutex::default(),
            left_behind: Mutex::default(),
            is_closed: AtomicBool::new(false),
        });
        tokio::spawn(upkeep::keep_up(Arc::downgrade(&pool)));
        tokio::spawn(attendant::attend_postgres(Arc::downgrade(&pool)));
        Ok(Self(pool))
    }

    /// Runs one unit of work on a connection: as it is where the session has the bounds that the unit wants, else inside a
    /// transaction that sets them.
    ///
    /// `named`: whether statements are prepared by name; unnamed ones need a transaction behind a pooler, which
    /// keeps their two halves on one session of the server.
    pub async fn run<T>(
        &self,
        operation: &'static str,
        bounds: Bounds,
        named: bool,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, UnitError> {
        let in_session = async {
            let mut session = self.acquire().await?;
            let as_it_is = named && bounds == Bounds::SETTINGS && !self.is_pooled();
            let done = if as_it_is {
                work(&mut session).await
            } else {
                session.in_transaction(work).await
            };
            session.ended(done.as_ref().err());
            done
        };
        self.run_any(operation, bounds, in_session).await
    }

    /// Runs one unit of work that begins its own transactions, with [`Self::begin`].
    pub async fn run_any<T>(
        &self,
        operation: &'static str,
        bounds: Bounds,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, UnitError> {
        unit::run(&self.0.gate, operation, bounds, self.0.bounds.statement, work).await
    }

    /// A transaction with the bounds of the unit of work that this task is in.
    pub async fn begin(&self) -> Result<PgTx, sqlx::Error> {
        let session = self.acquire().await?;
        PgTx::begin(session).await
    }

    /// The statements that set these bounds in a message of several statements, which is a transaction of its own. Empty
    /// where the session has them.
    pub fn bounds_in_message(&self, bounds: Bounds) -> String {
        let set = self.0.bounds.set_local(bounds, !self.is_pooled());
        set.into_iter().fold(String::new(), |all, one| all + &one + "; ")
    }

    /// A connection. Inside a unit of work the gate decides; outside of one it is asked for in any case.
    ///
    /// Errors with `PoolTimedOut` if none is free in time.
    pub async fn acquire(&self) -> Result<PgSession, sqlx::Error> {
        unit::admit(&self.0.gate)?;
        let acquired = timeout(self.0.acquire_timeout, self.0.acquire()).await;
        let session = acquired.map_err(|_elapsed| sqlx::Error::PoolTimedOut)??;
        unit::sending();
        Ok(session)
    }

    /// Whether the bounds travel with each transaction, because the server's sessions are lent by a pooler.
    pub fn is_pooled(&self) -> bool {
        self.0.is_pooled.load(Ordering::Relaxed)
    }

    /// Follows whether the database serves.
    pub fn watch(&self) -> watch::Receiver<Mode> {
        self.0.gate.watch()
    }

    /// Connections whose statement was given up and that the server is not known to be done with.
    pub fn abandoned(&self) -> usize {
        self.0.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn stats(&self) -> SqlPoolStats {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        SqlPoolStats {
            size: count(self.0.open.load(Ordering::Relaxed)),
            idle: count(lock(&self.0.resting).len()),
            max: count(self.0.max),
        }
    }

    /// Closes every connection, waiting for those in use.
    pub(super) async fn close(&self) {
        self.0.is_closed.store(true, Ordering::Relaxed);
        let everything = u32::try_from(self.0.max).unwrap_or(u32::MAX);
        let _closed_already = self.0.permits.acquire_many(everything).await.map(|permits| {
            permits.forget();
            self.0.permits.close();
        });
        let resting: Vec<_> = lock(&self.0.resting).drain(..).collect();
        for rested in resting {
            self.0.close_link(rested.link).await;
        }
    }
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDatabase")
            .field("pool", &self.stats())
            .field("is_pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

impl Pool {
    async fn acquire(self: &Arc<Self>) -> Result<PgSession, sqlx::Error> {
        let give_up = Instant::now() + CONNECT_PATIENCE;
        let permits = Arc::clone(&self.permits);
        let permit = permits
            .acquire_owned()
            .await
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let link = loop {
            if self.is_closed.load(Ordering::Relaxed) {
                return Err(sqlx::Error::PoolClosed);
            }
            if let Some(link) = self.take_rested().await {
                break link;
            }
            let error = match self.connect().await {
                Ok(link) => break link,
                Err(error) => error,
            };
            let Some(reason) = sql_outage(&error) else {
                return Err(error);
            };
            if reason == DegradedReason::TooManyConnections && self.open.load(Ordering::Relaxed) > 0 {
                // The server serves, and only grants no more: one of ours will be free.
                let _freed_or_not = timeout(CONNECT_PAUSE, self.freed.notified()).await;
                continue;
            }
            unit::connecting_failed(&self.gate, reason);
            if Instant::now() >= give_up || reason == DegradedReason::Unauthorized {
                return Err(error);
            }
            sleep(CONNECT_PAUSE).await;
        };
        Ok(PgSession {
            link: Some(link),
            permit: Some(permit),
            pool: Arc::clone(self),
            operation: unit::current().0,
            bounds: unit::current().1,
            state: Condition::Unknown,
            may_have_begun: false,
        })
    }

    /// The connection that came to rest last, if it still answers.
    async fn take_rested(self: &Arc<Self>) -> Option<Link> {
        loop {
            let IdleConnection { mut link, since } = lock(&self.resting).pop_back()?;
            let doubted = lock(&self.doubted).is_some_and(|at| since < at);
            if since.elapsed() < TRUSTED_REST && !doubted {
                return Some(link);
            }
            // Until it has answered it belongs to nobody; a caller that leaves meanwhile drops it.
            let untested = ConnectionUnderTest::new(self, &link);
            let answered = timeout(TEST_DEADLINE, link.raw.ping()).await;
            untested.was_tested();
            match answered {
                Ok(Ok(())) => return Some(link),
                Ok(Err(_)) => self.leave_behind(link, None),
                Err(_silence) => {
                    self.doubt_wires();
                    self.leave_behind(link, None);
                }
            }
        }
    }

    /// Opens a connection: with the bounds as its options, or without them once something on the way has refused them.
    async fn connect(&self) -> Result<Link, sqlx::Error> {
        if !self.is_pooled.load(Ordering::Relaxed) {
            match PgConnection::connect_with(&self.direct).await {
                Ok(raw) => return self.identify(raw).await,
                Err(error) if refuses_options(&error) => self.switch_to_pooled("refuses start-up options"),
                Err(error) => return Err(error),
            }
        }
        let raw = PgConnection::connect_with(&self.plain).await?;
        Ok(self.link(raw, None))
    }

    /// Reads back who serves the connection, and whether its bounds are in force.
    async fn identify(&self, mut raw: PgConnection) -> Result<Link, sqlx::Error> {
        const WHO: &str = "select pg_backend_pid(), (extract(epoch from backend_start) * 1000000)::bigint, \
                           (extract(epoch from current_setting('statement_timeout')::interval) * 1000)::bigint \
                           from pg_stat_get_activity(pg_backend_pid())";
        let row = sqlx::raw_sql(WHO).fetch_one(&mut raw).await?;
        let backend = Backend {
            pid: row.try_get(0)?,
            started: row.try_get(1)?,
        };
        let in_force: i64 = row.try_get(2)?;
        if u128::try_from(in_force).ok() == Some(self.bounds.statement.as_millis().max(1)) {
            return Ok(self.link(raw, Some(backend)));
        }
        self.switch_to_pooled("ignores start-up options");
        Ok(self.link(raw, None))
    }

    fn switch_to_pooled(&self, what: &'static str) {
        if !self.is_pooled.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "the database, or a pooler before it, {what}: bounds are set for each transaction"
            );
        }
    }

    fn link(&self, raw: PgConnection, backend: Option<Backend>) -> Link {
        self.open.fetch_add(1, Ordering::Relaxed);
        Link {
            raw,
            backend,
            opened: Instant::now(),
        }
    }

    /// Every wire that rests since before now is tested before it is used.
    pub(super) fn doubt_wires(&self) {
        *lock(&self.doubted) = Some(Instant::now());
    }

    fn put_back(self: &Arc<Self>, link: Link, permit: OwnedSemaphorePermit) {
        if self.is_closed.load(Ordering::Relaxed) || link.opened.elapsed() > MAX_LIFETIME {
            let pool = Arc::clone(self);
            tokio::spawn(async move {
                pool.close_link(link).await;
                drop(permit);
            });
            return;
        }
        let since = Instant::now();
        lock(&self.resting).push_back(IdleConnection { link, since });
        drop(permit);
        self.freed.notify_one();
    }

    /// Says goodbye to the server, which then closes its session.
    async fn close_link(&self, link: Link) {
        let goodbye = timeout(TEST_DEADLINE, link.raw.close()).await;
        if !matches!(goodbye, Ok(Ok(()))) {
            tracing::debug!("a database connection did not close cleanly");
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn stats_of_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Options for connections of the attendant.
    pub(super) fn attendant_options(&self) -> &PgConnectOptions {
        if self.is_pooled.load(Ordering::Relaxed) {
            &self.plain
        } else {
            &self.direct
        }
    }

    pub(super) fn attendant_was_refused(&self, error: &sqlx::Error) -> bool {
        let refused = !self.is_pooled.load(Ordering::Relaxed) && refuses_options(error);
        if refused {
            self.switch_to_pooled("refuses start-up options");
        }
        refused
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The attendant finds the pool gone, and ends.
        self.gate.suspect();
    }
}

/// A connection under test: a caller that leaves in the middle of the test drops it, and it counts no more.
struct ConnectionUnderTest<'a> {
    pool: &'a Pool,
    backend: Option<Backend>,
    is_pending: bool,
}

impl<'a> ConnectionUnderTest<'a> {
    fn new(pool: &'a Pool, link: &Link) -> Self {
        Self {
            pool,
            backend: link.backend,
            is_pending: true,
        }
    }

    fn was_tested(mut self) {
        self.is_pending = false;
    }
}

impl Drop for ConnectionUnderTest<'_> {
    fn drop(&mut self) {
        if !self.is_pending {
            return;
        }
        self.pool.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(backend) = self.backend {
            self.pool.ask_to_end(backend, false, None);
        }
    }
}

/// PgBouncer answers `08P01` to start-up options, a server that does not know one `42704`, and one whose platform
/// cannot do what it asks for `22023`.
fn refuses_options(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(reply) = error else {
        return false;
    };
    matches!(reply.code().as_deref(), Some("08P01" | "42704" | "22023"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
