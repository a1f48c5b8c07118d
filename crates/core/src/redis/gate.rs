//! The gate itself: what callers hold. What it does for them is in `shared.rs`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::Connector;
use super::connection::Connection;
use super::shared::{GateState, ServerClock};
use super::{GateError, OpenError, Role, Subscription, probe};
use crate::breaker::{BreakerState, Purpose};
use crate::clock;
use crate::config::{RedisEndpoint, RedisSettings};
use crate::mode::{DegradedReason, Mode};

/// The one way to a Redis role. Cheap to clone; all clones share connections, breaker and mode.
///
/// The background tasks run until the last clone is dropped, so that jobs which finish during a shutdown's grace
/// period still reach Redis.
#[derive(Clone)]
pub struct RedisGate {
    role: Role,
    settings: RedisSettings,
    mode: watch::Receiver<Mode>,
    side: Side,
}

#[derive(Clone)]
enum Side {
    Configured(Arc<Active>),
    /// Keeps the channel open, so that those who watch an absent Redis wait instead of spinning.
    Absent(#[expect(dead_code, reason = "held, never used")] Arc<watch::Sender<Mode>>),
}

struct Active {
    shared: Arc<GateState>,
    _stop_tasks: DropGuard,
}

/// The connections of a gate. Connections made by [`RedisGate::dedicated`] are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PoolStats {
    /// Open connections: the lanes, and one of the probe's own. In a cluster: those to one master.
    pub size: usize,
    /// Open connections that carry no call at the moment.
    pub available: usize,
    /// Lanes that carry at least one call.
    pub in_use: usize,
    /// Calls that wait for a place among the calls in flight, or for a lane.
    pub waiting: usize,
    /// Connections there may be, `max_connections` (two at least).
    pub max: usize,
}

impl RedisGate {
    /// Opens the gate of one role. It returns at once, whether or not the server is there; the first probe starts
    /// at once too, and until its verdict the mode is `Degraded { reason: Connecting }`. Without an endpoint the
    /// mode is `Absent` for ever.
    ///
    /// Call it inside the tokio runtime. Errors only if the URL is not a Redis URL.
    pub fn open(
        role: Role,
        endpoint: Option<&RedisEndpoint>,
        settings: &RedisSettings,
    ) -> Result<Self, OpenError> {
        let settings = &role.settings(settings);
        let Some(endpoint) = endpoint else {
            return Ok(Self::absent(role, settings));
        };
        let connector = Connector::new(role, endpoint, settings)?;
        let connecting = Mode::Degraded {
            since: clock::now(),
            reason: DegradedReason::Connecting,
        };
        let (sender, mode) = watch::channel(connecting);
        let shared = Arc::new(GateState::new(role, settings.clone(), connector, sender));
        let stop = CancellationToken::new();
        probe::spawn(&shared, &stop);
        let active = Arc::new(Active {
            shared,
            _stop_tasks: stop.drop_guard(),
        });
        Ok(Self {
            role,
            settings: settings.clone(),
            mode,
            side: Side::Configured(active),
        })
    }

    fn absent(role: Role, settings: &RedisSettings) -> Self {
        let (sender, mode) = watch::channel(Mode::Absent);
        Self {
            role,
            settings: settings.clone(),
            mode,
            side: Side::Absent(Arc::new(sender)),
        }
    }

    /// Runs one command, pipeline or script on a shared connection.
    ///
    /// The whole call, waiting for a place included, takes at most the command timeout. While the breaker is open
    /// it fails within microseconds. `f` gets a handle that it may use for several commands, and shall wait for
    /// nothing but Redis: its time counts as the server's. Blocking commands, `MULTI` over several round trips, and
    /// subscriptions need [`dedicated`](Self::dedicated).
    pub async fn run<T, F, Fut>(&self, op: &'static str, f: F) -> Result<T, GateError>
    where
        F: FnOnce(Connection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        self.shared()?.call(Purpose::Any, op, f).await
    }

    /// As [`run`](Self::run), for calls that make room: they also pass while memory is the only thing that the
    /// server lacks. The script must allow that itself (`#!lua flags=allow-oom`) if it writes.
    pub async fn run_freeing<T, F, Fut>(&self, op: &'static str, f: F) -> Result<T, GateError>
    where
        F: FnOnce(Connection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        self.shared()?.call(Purpose::FreesMemory, op, f).await
    }

    /// A connection of one's own to the server that owns `key`, for commands that block there: `response_timeout` must exceed the time
    /// they may block. Refused while the breaker is open (except for want of memory: a pop makes room); connecting
    /// takes at most the connect timeout.
    ///
    /// It does not reconnect and does not follow the breaker: drop it after an error, or when the mode changes.
    pub async fn dedicated(
        &self,
        key: &str,
        response_timeout: Duration,
    ) -> Result<MultiplexedConnection, GateError> {
        self.shared()?.dedicated(key, response_timeout).await
    }

    /// A channel heard on a connection of its own: refused, and to be dropped, as with [`dedicated`](Self::dedicated).
    pub async fn subscribe(&self, channel: &str) -> Result<Subscription, GateError> {
        self.shared()?.subscribe(channel).await
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn settings(&self) -> &RedisSettings {
        &self.settings
    }

    /// Whether this role has a Redis at all.
    pub fn is_configured(&self) -> bool {
        matches!(self.side, Side::Configured(_))
    }

    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Follows the mode, as long as a clone of the gate lives. An absent Redis never changes.
    pub fn watch(&self) -> watch::Receiver<Mode> {
        let mut changes = self.mode.clone();
        // A clone would call every change new that came before it.
        changes.mark_unchanged();
        changes
    }

    /// The mode after the first verdict, or whatever it is when `limit` has passed.
    pub async fn wait_ready(&self, limit: Duration) -> Mode {
        let mut mode = self.watch();
        let verdict = mode.wait_for(|mode| mode.reason() != Some(DegradedReason::Connecting));
        let _no_verdict_in_time = timeout(limit, verdict).await.is_err();
        self.mode()
    }

    /// The breaker's position; `None` without Redis.
    pub fn breaker(&self) -> Option<BreakerState> {
        self.shared().ok().map(|shared| shared.position())
    }

    /// Zeroes without Redis.
    pub fn stats(&self) -> PoolStats {
        self.shared().map(|shared| shared.stats()).unwrap_or_default()
    }

    /// Milliseconds since the Unix epoch by the server's clock: its `TIME` at the last successful probe, and what has
    /// passed since. `None` before the first. On a cluster: of the clock that is furthest behind, so that a deadline by it
    /// has passed on every master once it has passed here.
    pub fn server_now_ms(&self) -> Option<u64> {
        self.server_clock()
            .and_then(|clock| u64::try_from(clock.now_micros() / 1000).ok())
    }

    /// How many microseconds the server's clock is ahead of this host's.
    pub fn server_time_offset(&self) -> Option<i64> {
        self.server_clock()
            .map(|server| server.now_micros() - clock::now().timestamp_micros())
    }

    fn server_clock(&self) -> Option<ServerClock> {
        self.shared().ok().and_then(|shared| shared.clock())
    }

    fn shared(&self) -> Result<&Arc<GateState>, GateError> {
        match &self.side {
            Side::Configured(active) => Ok(&active.shared),
            Side::Absent(_) => Err(GateError::NotConfigured),
        }
    }
}

impl fmt::Debug for RedisGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisGate")
            .field("role", &self.role)
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}
