//! What callers and background tasks share: admission, the calls, the verdicts, and the mode that follows them.
//!
//! The breaker's lock is held for a few instructions at a time and never across a wait. Whoever holds it may take
//! the lanes' lock, never the other way round.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::connect::Connector;
use super::connection::Connection;
use super::error::timed_out;
use super::lanes::{LaneId, Lanes, Loan, Place};
use super::meter::Meter;
use super::probe::Again;
use super::{GateError, PoolStats, Role, Subscription};
use crate::breaker::{Breaker, BreakerState, Change, ProbeTicket, Purpose, Ticket, Verdict};
use crate::clock;
use crate::config::RedisSettings;
use crate::failure::{Certainty, RedisFailure, classify_connect, classify_redis};
use crate::mode::{DegradedReason, Mode};
use crate::outage::Outage;

/// Calls in flight for each lane there may be. More only queue inside the process; let them wait where the deadline
/// is watched.
const IN_FLIGHT_PER_LANE: usize = 64;

/// What callers and background tasks share.
pub(super) struct GateState {
    pub(super) role: Role,
    pub(super) settings: RedisSettings,
    pub(super) lanes: Lanes,
    /// Wakes the probe before its time.
    pub(super) suspicion: Notify,
    breaker: Mutex<Breaker>,
    mode: watch::Sender<Mode>,
    calls: Semaphore,
    waiting: Arc<AtomicUsize>,
    clock: Mutex<Option<ServerClock>>,
    meter: Meter,
    outage: Outage,
}

/// A reading of the server's clock, and when it was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerClock {
    pub(super) unix_micros: i64,
    pub(super) at: Instant,
}

impl ServerClock {
    pub(super) fn now_micros(&self) -> i64 {
        self.unix_micros
            .saturating_add(i64::try_from(self.at.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// What a call holds while it is under way.
struct Entry<'a> {
    ticket: Ticket,
    loan: Loan,
    _place: Option<SemaphorePermit<'a>>,
}

impl GateState {
    pub(super) fn new(
        role: Role,
        settings: RedisSettings,
        connector: Arc<Connector>,
        mode: watch::Sender<Mode>,
    ) -> Self {
        let outage = Outage::new(connector.server());
        let lanes = Lanes::new(connector);
        Self {
            role,
            suspicion: Notify::new(),
            breaker: Mutex::new(Breaker::new(settings.failure_threshold)),
            mode,
            calls: Semaphore::new(lanes.max() * IN_FLIGHT_PER_LANE),
            waiting: Arc::default(),
            clock: Mutex::default(),
            meter: Meter::new(role),
            outage,
            lanes,
            settings,
        }
    }

    /// One call, all of it within the command timeout.
    pub(super) async fn call<T, F, Fut>(
        &self,
        purpose: Purpose,
        op: &'static str,
        f: F,
    ) -> Result<T, GateError>
    where
        F: FnOnce(Connection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        let started = Instant::now();
        let result = self.attempt(purpose, op, f).await;
        self.meter.count(started, result.as_ref().map(|_| ()));
        result
    }

    async fn attempt<T, F, Fut>(&self, purpose: Purpose, op: &'static str, f: F) -> Result<T, GateError>
    where
        F: FnOnce(Connection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        self.admit(purpose)?;
        let deadline = Instant::now() + self.settings.command_timeout;
        let Entry { ticket, loan, .. } = &self.enter(purpose, op, deadline).await?;
        let outcome = timeout_at(deadline, f(loan.handle())).await;
        match outcome.unwrap_or_else(|_elapsed| Err(timed_out())) {
            Ok(answer) => {
                self.breaker().answered(*ticket);
                Ok(answer)
            }
            Err(error) => Err(self.judge(op, *ticket, loan.lane, error)),
        }
    }

    /// A place among the calls in flight, and a lane. Nothing is sent yet.
    async fn enter(
        &self,
        purpose: Purpose,
        op: &'static str,
        deadline: Instant,
    ) -> Result<Entry<'_>, GateError> {
        let after = self.settings.command_timeout;
        let Ok(place) = timeout_at(deadline, self.place()).await else {
            return Err(GateError::Saturated { op, after });
        };
        let Ok(lane) = timeout_at(deadline, self.lane(purpose)).await else {
            let certainty = Certainty::NotApplied;
            return Err(GateError::TimedOut { op, after, certainty });
        };
        let (ticket, loan) = lane?;
        Ok(Entry {
            ticket,
            loan,
            _place: place,
        })
    }

    /// Draws the consequences of a failed call.
    fn judge(&self, op: &'static str, ticket: Ticket, lane: LaneId, error: RedisError) -> GateError {
        let failure = classify_redis(&error);
        if failure.outage == Some(DegradedReason::ConnectionLost) {
            // It seldom dies alone: spare the next callers the same surprise.
            self.lanes.discard_with_siblings(lane);
        } else if failure.discard_connection {
            self.lanes.discard(lane);
        }
        self.count(ticket, failure);
        if failure.outage == Some(DegradedReason::TimedOut) {
            let (after, certainty) = (self.settings.command_timeout, failure.certainty);
            return GateError::TimedOut { op, after, certainty };
        }
        GateError::failed(op, failure, error)
    }

    pub(super) async fn dedicated(
        &self,
        key: &str,
        response_timeout: Duration,
    ) -> Result<MultiplexedConnection, GateError> {
        let ticket = self.admit(Purpose::FreesMemory)?;
        self.lanes
            .connector()
            .dedicated(key, response_timeout)
            .await
            .map_err(|error| {
                let failure = classify_connect(&error);
                self.count(ticket, failure);
                GateError::failed("connect", failure, error)
            })
    }

    pub(super) async fn subscribe(&self, channel: &str) -> Result<Subscription, GateError> {
        let ticket = self.admit(Purpose::FreesMemory)?;
        match self.lanes.connector().subscribed(channel).await {
            Ok(connection) => Ok(Subscription::new(connection)),
            Err(error) => {
                let failure = classify_connect(&error);
                self.count(ticket, failure);
                Err(GateError::failed("subscribe", failure, error))
            }
        }
    }

    /// A place among the calls in flight. (`None` would be a closed semaphore; nobody closes it.)
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.calls.try_acquire() {
            return Some(permit);
        }
        let _waiting = Place::take(&self.waiting);
        self.calls.acquire().await.ok()
    }

    /// A lane, as long as the breaker lets calls through.
    async fn lane(&self, purpose: Purpose) -> Result<(Ticket, Loan), GateError> {
        let ticket = self.admit(purpose)?;
        if let Some(loan) = self.lanes.lend() {
            return Ok((ticket, loan));
        }
        let _waiting = Place::take(&self.waiting);
        loop {
            let mut changed = pin!(self.lanes.changed());
            // Registered before looking, so that a lane which opens in between is not missed.
            changed.as_mut().enable();
            let ticket = self.admit(purpose)?;
            if let Some(loan) = self.lanes.lend() {
                return Ok((ticket, loan));
            }
            changed.await;
        }
    }

    pub(super) fn admit(&self, purpose: Purpose) -> Result<Ticket, GateError> {
        self.breaker()
            .admit(purpose)
            .map_err(|reason| GateError::Unavailable { reason })
    }

    /// Tells the breaker how an admitted call failed, and lets the probe look at once if it was an outage.
    pub(super) fn count(&self, ticket: Ticket, failure: RedisFailure) {
        let mut breaker = self.breaker();
        match failure.outage {
            Some(reason) => {
                if let Some(change) = breaker.failed(ticket, reason) {
                    self.follow(change);
                }
                if breaker.state() == BreakerState::Closed {
                    self.suspicion.notify_one();
                }
            }
            // The server lives: it refused this one call.
            None if !failure.discard_connection => breaker.answered(ticket),
            None => {}
        }
    }

    pub(super) fn probe_started(&self) -> ProbeTicket {
        self.breaker().probe_started()
    }

    pub(super) fn probe_succeeded(&self, probe: ProbeTicket) -> Again {
        let mut breaker = self.breaker();
        let verdict = breaker.probe_succeeded(probe);
        self.follow_verdict(verdict)
    }

    pub(super) fn probe_failed(&self, probe: ProbeTicket, reason: DegradedReason) -> Again {
        let mut breaker = self.breaker();
        let verdict = breaker.probe_failed(probe, reason);
        self.follow_verdict(verdict)
    }

    /// Called with the breaker locked, as [`Self::follow`].
    fn follow_verdict(&self, verdict: Verdict) -> Again {
        match verdict {
            Verdict::Changed(change) => self.follow(change),
            Verdict::Unchanged => {}
            Verdict::Inconclusive => return Again::AtOnce,
        }
        Again::InTime
    }

    /// The breaker's position.
    pub(super) fn position(&self) -> BreakerState {
        self.breaker().state()
    }

    /// The last reading of the server's clock.
    pub(super) fn clock(&self) -> Option<ServerClock> {
        *self.clock_cell()
    }

    pub(super) fn set_clock(&self, reading: ServerClock) {
        *self.clock_cell() = Some(reading);
    }

    /// Publishes what the breaker did. Called with the breaker locked, so that modes appear in their order.
    fn follow(&self, change: Change) {
        let before = *self.mode.borrow();
        let since = match before {
            Mode::Degraded { since, .. } => since,
            Mode::Normal | Mode::Absent => clock::now(),
        };
        let after = match change {
            Change::Closed => Mode::Normal,
            Change::Opened(reason) | Change::Reason(reason) => Mode::Degraded { since, reason },
        };
        if !after.is_normal() {
            self.lanes.clear();
        }
        self.mode.send_replace(after);
        self.meter.changed(change);
        self.report(change, before);
    }

    /// One warning when the server goes away and one line when it is back; what other gates told already is for who
    /// debugs.
    fn report(&self, change: Change, before: Mode) {
        let role = self.role.as_str();
        match (change, before) {
            (Change::Opened(reason), _) if self.outage.began() => {
                let (reason, hint) = (reason.as_str(), reason.hint());
                tracing::warn!(
                    redis.role = role,
                    redis.reason = reason,
                    "Redis is unavailable: {hint}"
                );
            }
            (Change::Opened(reason) | Change::Reason(reason), _) => {
                let reason = reason.as_str();
                tracing::debug!(
                    redis.role = role,
                    redis.reason = reason,
                    "Redis is still unavailable"
                );
            }
            (Change::Closed, Mode::Degraded { since, reason }) if reason != DegradedReason::Connecting => {
                let (reason, outage_ms) = (reason.as_str(), (clock::now() - since).num_milliseconds());
                if self.outage.ended() {
                    tracing::info!(
                        redis.role = role,
                        redis.reason = reason,
                        outage_ms,
                        "Redis has recovered"
                    );
                } else {
                    tracing::debug!(redis.role = role, outage_ms, "Redis has recovered for one role");
                }
            }
            (Change::Closed, _) => tracing::info!(redis.role = role, "Redis is connected"),
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let size = self.lanes.connector().size();
        let in_use = self.lanes.busy().min(size);
        PoolStats {
            size,
            available: size - in_use,
            in_use,
            waiting: self.waiting.load(Ordering::Relaxed),
            max: self.lanes.connector().max_size(),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock_cell(&self) -> MutexGuard<'_, Option<ServerClock>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
