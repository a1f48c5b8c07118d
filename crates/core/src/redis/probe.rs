//! The two background tasks of a gate.
//!
//! The *prober* asks the server every probe interval, whatever the traffic, whether it serves: PING, a write, and
//! TIME, in one round trip. A replica, a full server, or one that cannot persist answers PING and refuses the write.
//! The write is a `SET … XX` of a key that does not exist: the server admits it as it would admit any other, and
//! then changes nothing. So probing leaves no key behind, and starts no snapshot of an idle data set.
//! The prober alone closes the breaker, and it has a fresh lane opened before it does.
//!
//! The *keeper* opens lanes when calls want them and closes those that nobody uses.
//!
//! Deadlines, which bound how long an outage goes unnoticed: while the breaker is closed a probe takes at most the
//! command timeout, so that a server that hangs is noticed after interval + timeout; if its own connection was
//! closed, one more to connect and one to ask again. While the breaker is open, connecting takes as long as the
//! connect timeout, which may have to be longer.
//!
//! Both tasks end when the last handle of the gate is dropped.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::RedisError;
use redis::aio::ConnectionLike as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::PooledConnection;
use super::connection::{Connection, Master};
use super::error::timed_out;
use super::mistaken::check_server;
use crate::breaker::{BreakerState, Purpose};

use super::lanes::IDLE;
use super::shared::{GateState, ServerClock};
use crate::failure::{RedisFailure, classify_connect, classify_pool, classify_redis};
use crate::mode::DegradedReason;

/// However many calls fail, the probe asks no more often than this.
const LEAST_GAP: Duration = Duration::from_millis(50);
/// How often idle lanes are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Pause of the keeper after a lane could not be opened.
const KEEPER_PAUSE: Duration = Duration::from_millis(100);

/// Starts both tasks; they end when `stop` is cancelled.
pub(super) fn spawn(shared: &Arc<GateState>, stop: &CancellationToken) {
    let prober = Prober::new(Arc::clone(shared));
    let keeper = Arc::clone(shared);
    let (prober_stop, keeper_stop) = (stop.clone(), stop.clone());
    tokio::spawn(async move { prober_stop.run_until_cancelled(prober.run()).await });
    tokio::spawn(async move { keeper_stop.run_until_cancelled(keep_lanes(&keeper)).await });
}

/// When the next probe is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// After the probe interval.
    InTime,
    /// The last one proved nothing.
    AtOnce,
}

struct Prober {
    shared: Arc<GateState>,
    connection: Option<PooledConnection>,
}

impl Prober {
    fn new(shared: Arc<GateState>) -> Self {
        Self {
            shared,
            connection: None,
        }
    }

    async fn run(mut self) {
        loop {
            let started = Instant::now();
            let gap = match self.probe().await {
                Again::AtOnce => LEAST_GAP,
                Again::InTime => self.shared.settings.probe_interval,
            };
            self.pause(started, started + gap).await;
        }
    }

    /// Waits for the next probe's time, or for a suspicion.
    async fn pause(&self, started: Instant, next: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = self.shared.suspicion.notified() => tokio::time::sleep_until(started + LEAST_GAP).await,
        }
    }

    /// One probe and its verdict.
    async fn probe(&mut self) -> Again {
        let ticket = self.shared.probe_started();
        match self.attempt().await {
            Ok(()) => self.shared.probe_succeeded(ticket),
            Err(failure) => {
                self.connection = None;
                let reason = failure.outage.unwrap_or(DegradedReason::Unexpected);
                self.shared.probe_failed(ticket, reason)
            }
        }
    }

    async fn attempt(&mut self) -> Result<(), RedisFailure> {
        let was_closed = self.shared.position() == BreakerState::Closed;
        self.ask_or_reconnect(was_closed).await?;
        if !was_closed {
            // Traffic starts on a connection to the server that answered, and does not wait for it.
            self.shared.lanes.clear();
            let opened = self.shared.lanes.open(self.shared.settings.connect_timeout).await;
            opened.map_err(|error| classify_pool(&error))?;
        }
        Ok(())
    }

    async fn ask_or_reconnect(&mut self, was_closed: bool) -> Result<(), RedisFailure> {
        let Some(connection) = &self.connection else {
            return self.ask_anew(was_closed).await;
        };
        match self.ask(connection.handle()).await {
            Err(failure) if failure.outage == Some(DegradedReason::ConnectionLost) => {
                // The server may have restarted, or closed one idle connection: that alone is no outage.
                self.connection = None;
                self.ask_anew(was_closed).await
            }
            verdict => verdict,
        }
    }

    async fn ask_anew(&mut self, was_closed: bool) -> Result<(), RedisFailure> {
        let settings = &self.shared.settings;
        let limit = if was_closed {
            settings.command_timeout
        } else {
            settings.connect_timeout
        };
        let connection = self
            .shared
            .lanes
            .connector()
            .pooled(limit)
            .await
            .map_err(|error| classify_pool(&error))?;
        let handle = connection.handle();
        self.connection = Some(connection);
        if self.shared.lanes.connector().wants_single_server() {
            self.is_single_server(&handle).await?;
        }
        self.ask(handle).await
    }

    /// Whether a new connection leads to what the URL of a single server promises.
    async fn is_single_server(&self, connection: &Connection) -> Result<(), RedisFailure> {
        for mut master in connection.masters() {
            let checking = timeout(
                self.shared.settings.command_timeout,
                check_server(&mut master.connection),
            );
            let checked = checking.await.unwrap_or_else(|_elapsed| Err(timed_out()));
            checked.map_err(|error| classify_connect(&error))?;
        }
        Ok(())
    }

    /// The probe's one round trip, to every master at once.
    async fn ask(&mut self, connection: Connection) -> Result<(), RedisFailure> {
        let limit = self.shared.settings.command_timeout;
        let asked = connection.masters().into_iter().map(|master| async move {
            let asked = timeout(limit, ask_master(master)).await;
            asked.unwrap_or_else(|_elapsed| Err(timed_out()))
        });
        let mut clocks = Vec::new();
        let mut has_moved = false;
        for answer in join_all(asked).await {
            let (clock, moved) = answer.map_err(|error| classify_connect(&error))?;
            clocks.push(clock);
            has_moved |= moved;
        }
        if has_moved {
            // Its layout is out of date: the next probe asks for the new one.
            self.connection = None;
        }
        if let Some(clock) = clocks.into_iter().min_by_key(ServerClock::now_micros) {
            self.shared.set_clock(clock);
        }
        Ok(())
    }
}

/// The clock of a master that takes writes, and whether the slot of the probe's key has left it.
async fn ask_master(mut master: Master) -> Result<(ServerClock, bool), RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("PING");
    pipeline.cmd("SET").arg(&master.probe_key).arg("").arg("XX");
    pipeline.cmd("TIME");
    let sent = Instant::now();
    let replies = master.connection.req_packed_commands(&pipeline, 0, 3).await?;
    // The server read its clock somewhere between sending and now; half-way is the best guess.
    let at = sent + sent.elapsed() / 2;
    let [pong, written, time] = <[redis::Value; 3]>::try_from(replies)
        .map_err(|_| RedisError::from((redis::ErrorKind::UnexpectedReturnType, "probe")))?;
    pong.extract_error()?;
    let moved = match written.extract_error() {
        Err(error) if master.is_of_cluster && is_elsewhere(&error) => true,
        written => written.map(|_| false)?,
    };
    let (seconds, micros): (i64, i64) = redis::from_redis_value(time.extract_error()?)?;
    let unix_micros = seconds.saturating_mul(1_000_000).saturating_add(micros);
    Ok((ServerClock { unix_micros, at }, moved))
}

/// The master serves, and only says that another one serves this slot, or soon will.
fn is_elsewhere(error: &RedisError) -> bool {
    use redis::ServerErrorKind::{Ask, Moved, TryAgain};
    matches!(error.kind(), redis::ErrorKind::Server(Moved | Ask | TryAgain))
}

/// Opens lanes on demand and closes idle ones.
async fn keep_lanes(shared: &GateState) {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.lanes.wanted() => open_wanted(shared).await,
            _ = sweep.tick() => sweep_idle(shared).await,
        }
    }
}

async fn open_wanted(shared: &GateState) {
    let lanes = &shared.lanes;
    while lanes.wants_another() {
        let Ok(ticket) = shared.admit(Purpose::FreesMemory) else {
            return;
        };
        let Err(error) = lanes.open(shared.settings.connect_timeout).await else {
            continue;
        };
        let failure = classify_pool(&error);
        tracing::debug!(redis.role = shared.role.as_str(), error = %error, "a Redis connection could not be opened");
        // With lanes left the server serves, and only grants no more connections.
        if lanes.is_empty() {
            shared.count(ticket, failure);
        }
        sleep(KEEPER_PAUSE).await;
    }
}

/// Closes idle lanes, and asks the last one whether it lives.
async fn sweep_idle(shared: &GateState) {
    let Some(loan) = shared.lanes.sweep(IDLE) else {
        return;
    };
    let (mut connection, limit) = (loan.handle(), shared.settings.command_timeout);
    let ping = redis::cmd("PING");
    let answer = timeout(limit, ping.query_async::<()>(&mut connection)).await;
    let answer = answer.unwrap_or_else(|_elapsed| Err(timed_out()));
    if answer.is_err_and(|error| classify_redis(&error).discard_connection) {
        shared.lanes.discard(loan.lane);
    }
}
