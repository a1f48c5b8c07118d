//! What the gate of a role counts: its calls, how long they took, and its changes of mode.

use metrics::{Counter, Histogram};
use tokio::time::Instant;

use super::{GateError, Role};
use crate::breaker::Change;
use crate::telemetry::catalogue;

pub(super) struct Meter {
    role: Role,
    duration: Histogram,
    ok: Counter,
    failed: Counter,
    timed_out: Counter,
    saturated: Counter,
    unavailable: Counter,
}

impl Meter {
    pub(super) fn new(role: Role) -> Self {
        let calls = |outcome| catalogue::REDIS_CALLS.with([role.as_str(), outcome]);
        Self {
            role,
            duration: catalogue::REDIS_DURATION.with([role.as_str()]),
            ok: calls("ok"),
            failed: calls("failed"),
            timed_out: calls("timed_out"),
            saturated: calls("saturated"),
            unavailable: calls("unavailable"),
        }
    }

    /// A call that an open breaker refused was not sent, and has no duration.
    pub(super) fn count(&self, started: Instant, result: Result<(), &GateError>) {
        let counter = match result {
            Ok(()) => &self.ok,
            Err(GateError::TimedOut { .. }) => &self.timed_out,
            Err(GateError::Saturated { .. }) => &self.saturated,
            Err(GateError::Unavailable { .. } | GateError::NotConfigured) => {
                return self.unavailable.increment(1);
            }
            Err(_) => &self.failed,
        };
        counter.increment(1);
        self.duration.record(started.elapsed());
    }

    pub(super) fn changed(&self, change: Change) {
        let to = match change {
            Change::Opened(_) => "degraded",
            Change::Closed => "normal",
            Change::Reason(_) => return,
        };
        catalogue::REDIS_MODE_CHANGES
            .with([self.role.as_str(), to])
            .increment(1);
    }
}
