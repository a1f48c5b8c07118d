//! Lanes: long-lived multiplexed connections that all calls share. On a cluster a lane is one to each master.
//!
//! deadpool checks a connection with a PING at every checkout, a second round trip for each command. A lane is
//! checked out once, for its lifetime; a call clones its handle, and the replies are matched by order. So a
//! command costs one round trip, and few connections carry many calls.
//!
//! Invariants:
//! - there are never more lanes than the pool has places, less one for the probe;
//! - calls never open connections: they ask for a lane and wait, the keeper (see [`super::probe`]) opens it with
//!   the connect deadline, which may be longer than a call's. A thousand callers cannot start a connect storm;
//! - a lane that failed its caller is never lent again. Calls already on it keep it open until they end, so late
//!   replies meet the calls they belong to, or nobody;
//! - lanes opened before [`Lanes::clear`] do not appear after it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::PoolError;
use super::connect::{Connector, PooledConnection};
use super::connection::Connection;

/// With this many calls for each lane, another lane is opened. One lane keeps a server core busy long before; more
/// of them share the work of encoding and parsing, and keep a large reply from delaying all the others.
const CROWDED: usize = 32;
/// A lane that has carried nothing for this long is closed, or asked whether it lives if it is the last one: well
/// under the 300 s after which many servers close idle connections. See [`Lanes::sweep`].
pub const IDLE: Duration = Duration::from_mins(1);

pub(super) struct Lanes {
    connector: Arc<Connector>,
    max: usize,
    table: Mutex<Table>,
    opened: Notify,
    wanted: Notify,
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Table {
    lanes: Vec<Lane>,
    /// Lanes opened, ever.
    opened: u64,
    /// Times the lanes were cleared, ever.
    generation: u64,
}

struct Lane {
    id: LaneId,
    connection: PooledConnection,
    in_flight: Arc<AtomicUsize>,
    last_used: Instant,
}

impl Lane {
    fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId {
    generation: u64,
    number: u64,
}

/// A handle to a lane for one call.
pub(super) struct Loan {
    pub(super) lane: LaneId,
    connection: Connection,
    _place: Place,
}

impl Loan {
    pub(super) fn handle(&self) -> Connection {
        self.connection.clone()
    }
}

/// Counts as one call in flight until dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(super) fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        let max = connector.max_size().saturating_sub(1).max(1);
        Self {
            connector,
            max,
            table: Mutex::default(),
            opened: Notify::new(),
            wanted: Notify::new(),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// The lane with the fewest calls, if there is one. Asks for another lane if all are crowded.
    pub(super) fn lend(&self) -> Option<Loan> {
        let mut table = self.table();
        if table.is_crowded(self.max) {
            self.wanted.notify_one();
        }
        let lane = table.lanes.iter_mut().min_by_key(|lane| lane.load())?;
        lane.last_used = Instant::now();
        Some(Loan {
            lane: lane.id,
            connection: lane.connection.handle(),
            _place: Place::take(&lane.in_flight),
        })
    }

    /// Resolves when lanes were opened, or when waiting has become pointless. Look again after it.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.opened.notified()
    }

    /// Resolves when a lane is wanted.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether the keeper should open a lane now.
    pub(super) fn wants_another(&self) -> bool {
        self.table().is_crowded(self.max)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table().lanes.is_empty()
    }

    /// Opens one lane and wakes the callers who wait for it.
    pub(super) async fn open(&self, limit: Duration) -> Result<(), PoolError> {
        let _one_at_a_time = self.opening.lock().await;
        let generation = self.table().generation;
        let connection = self.connector.pooled(limit).await?;
        let mut table = self.table();
        if table.generation == generation {
            let id = LaneId {
                generation,
                number: table.opened,
            };
            table.opened += 1;
            table.lanes.push(Lane {
                id,
                connection,
                in_flight: Arc::default(),
                last_used: Instant::now(),
            });
        }
        drop(table);
        self.opened.notify_waiters();
        Ok(())
    }

    /// Never lends this lane again.
    pub(super) fn discard(&self, id: LaneId) {
        let mut table = self.table();
        table.lanes.retain(|lane| lane.id != id);
        if table.lanes.is_empty() {
            self.wanted.notify_one();
        }
    }

    /// Never lends this lane again, nor any that was opened before the trouble with it.
    pub(super) fn discard_with_siblings(&self, id: LaneId) {
        let mut table = self.table();
        if id.generation == table.generation {
            table.clear();
            self.wanted.notify_one();
        }
    }

    /// Forgets all lanes, and wakes whoever waits for one.
    pub(super) fn clear(&self) {
        self.table().clear();
        self.opened.notify_waiters();
    }

    /// Closes lanes that nobody has used for as long as `idle_for`. Returns the last one if it is idle too: the
    /// server may have dropped it, and the caller shall ask.
    pub(super) fn sweep(&self, idle_for: Duration) -> Option<Loan> {
        let mut table = self.table();
        let now = Instant::now();
        let idle = |lane: &Lane| lane.load() == 0 && now.duration_since(lane.last_used) >= idle_for;
        let mut left = table.lanes.len();
        table.lanes.retain(|lane| {
            let close = left > 1 && idle(lane);
            left -= usize::from(close);
            !close
        });
        let last_is_idle = table.lanes.first().is_some_and(idle);
        drop(table);
        if last_is_idle { self.lend() } else { None }
    }

    /// Lanes with calls on them.
    pub(super) fn busy(&self) -> usize {
        self.table().lanes.iter().filter(|lane| lane.load() > 0).count()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn clear(&mut self) {
        self.generation += 1;
        self.lanes.clear();
    }

    /// The lanes are crowded on average (or there are none), and there is a place for another.
    fn is_crowded(&self, max: usize) -> bool {
        let calls: usize = self.lanes.iter().map(Lane::load).sum();
        self.lanes.len() < max && calls >= CROWDED * self.lanes.len()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_testkit::{RedisOptions, RedisServer, eventually};

    use super::*;
    use crate::config::{RedisEndpoint, RedisSettings};
    use crate::redis::Role;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn lanes() -> (RedisServer, Lanes) {
        let server = RedisServer::start(RedisOptions::default()).await.unwrap();
        let settings = RedisSettings {
            queue: None,
            cache: None,
            ca_certificate: None,
            max_connections: 4,
            connect_timeout: LIMIT,
            command_timeout: LIMIT,
            probe_interval: LIMIT,
            failure_threshold: 3,
        };
        let endpoint = RedisEndpoint {
            url: server.url().into(),
        };
        let connector = Connector::new(Role::Queue, &endpoint, &settings).unwrap();
        (server, Lanes::new(connector))
    }

    #[tokio::test]
    async fn the_least_busy_lane_is_lent() {
        let (_server, lanes) = lanes().await;
        lanes.open(LIMIT).await.unwrap();
        lanes.open(LIMIT).await.unwrap();
        let first = lanes.lend().unwrap();
        let second = lanes.lend().unwrap();
        assert_ne!(first.lane, second.lane);
        drop(first);
        assert_ne!(lanes.lend().unwrap().lane, second.lane);
        assert_eq!(lanes.busy(), 1);
    }

    #[tokio::test]
    async fn a_sweep_closes_idle_lanes_but_the_last_and_those_in_use() {
        let (_server, lanes) = lanes().await;
        for _ in 0..3 {
            lanes.open(LIMIT).await.unwrap();
        }
        assert!(lanes.sweep(LIMIT).is_none(), "none has been idle for so long");
        assert_eq!(lanes.connector().size(), 3);
        let used = lanes.lend().unwrap();
        assert!(lanes.sweep(Duration::ZERO).is_none(), "the last one is in use");
        assert_eq!(lanes.connector().size(), 1);
        let lane = used.lane;
        drop(used);
        assert_eq!(lanes.sweep(Duration::ZERO).unwrap().lane, lane);
        assert_eq!(lanes.connector().size(), 1);
    }

    #[tokio::test]
    async fn a_lane_opened_before_a_clearing_does_not_appear_after_it() {
        let (server, lanes) = lanes().await;
        server.sigstop().await.unwrap();
        let opening = lanes.open(LIMIT);
        let clearing = async {
            eventually(
                "the attempt to be under way",
                LIMIT,
                Duration::from_millis(1),
                || async { lanes.opening.try_lock().is_err().then_some(()) },
            )
            .await
            .unwrap();
            lanes.clear();
            server.sigcont().await.unwrap();
        };
        let (opened, ()) = tokio::join!(opening, clearing);
        opened.unwrap();
        assert!(lanes.is_empty());
        assert_eq!(lanes.connector().size(), 0);
    }

    #[tokio::test]
    async fn trouble_with_an_old_lane_leaves_newer_ones_alone() {
        let (_server, lanes) = lanes().await;
        lanes.open(LIMIT).await.unwrap();
        let old = lanes.lend().unwrap().lane;
        lanes.clear();
        lanes.open(LIMIT).await.unwrap();
        lanes.discard_with_siblings(old);
        lanes.discard(old);
        assert!(!lanes.is_empty());
    }
}
