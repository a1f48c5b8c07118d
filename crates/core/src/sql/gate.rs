//! The gate of a database: whether it serves this process, and what follows when it does not.
//!
//! The breaker is that of Redis ([`crate::breaker`]), with two differences: it starts closed, and nothing probes while
//! statements succeed or while there are none, so that a database that scales to zero may sleep.
//!
//! # What opens it
//! - consecutive outages ([`crate::failure::sql_outage`]): connections refused, no answer at all;
//! - a failed probe. The attendant probes over a connection of its own as soon as a call has waited
//!   [`PATIENCE`] for a connection or an answer, or has met an outage or lost its connection.
//!
//! A slow statement, a lock that cannot be had and a statement that the server ended are answers, not outages.
//!
//! # While it is open
//! Calls are refused in microseconds with the reason; those that were waiting are released when it opens. The attendant
//! probes every [`PROBE_PERIOD`], and the first success closes it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::breaker::{Breaker, BreakerState, Change, ProbeTicket, Purpose, Ticket, Verdict};
use crate::clock;
use crate::mode::{DegradedReason, Mode};
use crate::outage::Outage;
use crate::telemetry::catalogue;

/// Consecutive outages that open the gate.
const THRESHOLD: u32 = 3;

/// How long a call waits before the attendant asks whether the database serves.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);

/// Between two questions of the same call.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Between probes while the gate is open.
pub(super) const PROBE_PERIOD: Duration = Duration::from_millis(500);

/// Longest probe: connecting, logging in and one answer.
pub(super) const PROBE_DEADLINE: Duration = Duration::from_millis(700);

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    breaker: Mutex<Breaker>,
    mode: watch::Sender<Mode>,
    /// Wakes the attendant.
    suspicion: Notify,
    outage: Outage,
}

impl Gate {
    /// `server`: its address without credentials, by which the gates of a process share one report of an outage.
    pub(super) fn new(server: String) -> Self {
        Self {
            breaker: Mutex::new(Breaker::closed(THRESHOLD)),
            mode: watch::Sender::new(Mode::Normal),
            suspicion: Notify::new(),
            outage: Outage::new(server),
        }
    }

    pub(super) fn admit(&self) -> Result<Ticket, DegradedReason> {
        self.breaker().admit(Purpose::Any)
    }

    /// The server answered a call, be it with a refusal of that call alone.
    pub(super) fn answered(&self, ticket: Ticket) {
        self.breaker().answered(ticket);
    }

    /// The server's address without credentials.
    pub(super) fn server(&self) -> &str {
        self.outage.server()
    }

    /// A call met an outage.
    ///
    /// A lost connection says nothing about the next one: an administrator, a pooler or a failover may have closed it.
    /// So it only has the attendant look; connections that are then refused or not answered count.
    pub(super) fn failed(&self, ticket: Ticket, reason: DegradedReason) {
        if reason != DegradedReason::ConnectionLost {
            let mut breaker = self.breaker();
            if let Some(change) = breaker.failed(ticket, reason) {
                self.follow(change);
            }
        }
        self.suspect();
    }

    /// Has the attendant look at once.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    pub(super) async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    pub(super) fn probe_started(&self) -> ProbeTicket {
        self.breaker().probe_started()
    }

    pub(super) fn probe_succeeded(&self, probe: ProbeTicket) {
        let mut breaker = self.breaker();
        if let Verdict::Changed(change) = breaker.probe_succeeded(probe) {
            self.follow(change);
        }
    }

    pub(super) fn probe_failed(&self, probe: ProbeTicket, reason: DegradedReason) {
        let mut breaker = self.breaker();
        if let Verdict::Changed(change) = breaker.probe_failed(probe, reason) {
            self.follow(change);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.position() != BreakerState::Closed
    }

    pub(super) fn position(&self) -> BreakerState {
        self.breaker().state()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    /// Publishes what the breaker did. Called with the breaker locked, so that modes appear in their order.
    fn follow(&self, change: Change) {
        let before = *self.mode.borrow();
        let since = match before {
            Mode::Degraded { since, .. } => since,
            Mode::Normal | Mode::Absent => clock::now(),
        };
        match change {
            Change::Opened(reason) | Change::Reason(reason) => {
                self.mode.send_replace(Mode::Degraded { since, reason });
                if matches!(change, Change::Opened(_)) {
                    catalogue::SQL_MODE_CHANGES.with(["degraded"]).increment(1);
                }
                self.report_outage(change, reason);
            }
            Change::Closed => {
                self.mode.send_replace(Mode::Normal);
                catalogue::SQL_MODE_CHANGES.with(["normal"]).increment(1);
                let outage_ms = (clock::now() - since).num_milliseconds();
                if self.outage.ended() {
                    tracing::info!(outage_ms, "the database has recovered");
                }
            }
        }
    }

    fn report_outage(&self, change: Change, reason: DegradedReason) {
        let reason = reason.as_str();
        if matches!(change, Change::Opened(_)) && self.outage.began() {
            tracing::warn!(
                sql.reason = reason,
                "the database is unavailable: calls that need it fail until a probe is answered"
            );
        } else {
            tracing::debug!(sql.reason = reason, "the database is still unavailable");
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
