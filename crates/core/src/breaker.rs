//! The breaker: a state machine without clock, lock or I/O.
//!
//! ```text
//!            threshold consecutive outages, or a failed probe
//!   closed ────────────────────────────────────────────────────▶ open
//!     ▲                                                         │  ▲
//!     │ probe succeeded                           probe started │  │ probe failed
//!     └───────────────────────────── half-open ◀────────────────┘──┘
//! ```
//!
//! Invariants:
//! - the breaker of Redis starts open ([`Breaker::new`]), that of the database closed ([`Breaker::closed`]: a database that
//!   sleeps must not be woken by a probe); once open, only a successful probe closes it;
//! - open and half-open admit nobody but the probe, save that calls which free memory pass while memory is all
//!   that the server lacks (else a full queue could never be emptied);
//! - calls and probes count only in the epoch in which they started: what was sent before an outage says nothing
//!   about the server that comes back after it.

use crate::mode::DegradedReason;

/// The position of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Traffic flows.
    Closed,
    /// Traffic is refused.
    Open,
    /// Traffic is refused while a probe asks the server.
    HalfOpen,
}

impl BreakerState {
    /// The word that metrics and JSON use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Any,
    /// It makes room on a server that is out of memory.
    FreesMemory,
}

/// Leave for one call, bound to the epoch that gave it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    epoch: u64,
}

/// What was known when a probe started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeTicket {
    epoch: u64,
    successes: u64,
}

/// A transition that the mode must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Opened(DegradedReason),
    /// Still open, for another reason.
    Reason(DegradedReason),
    Closed,
}

/// What a probe led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Changed(Change),
    Unchanged,
    /// It proves nothing: it succeeded, but the breaker opened meanwhile; or it timed out while calls succeeded, so
    /// that we were slow, or lost one connection. Ask again at once.
    Inconclusive,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    threshold: u32,
    state: State,
    epoch: u64,
    /// Calls that succeeded, ever. Wraps.
    successes: u64,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { reason: DegradedReason, probing: bool },
}

impl Breaker {
    pub(crate) fn new(threshold: u32) -> Self {
        Self {
            threshold: threshold.max(1),
            state: State::Open {
                reason: DegradedReason::Connecting,
                probing: false,
            },
            epoch: 0,
            successes: 0,
        }
    }

    /// A breaker that lets traffic through until it fails.
    pub(crate) fn closed(threshold: u32) -> Self {
        Self {
            state: State::Closed { failures: 0 },
            ..Self::new(threshold)
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { probing: false, .. } => BreakerState::Open,
            State::Open { probing: true, .. } => BreakerState::HalfOpen,
        }
    }

    /// Lets a call through, or says why not.
    pub(crate) fn admit(&self, purpose: Purpose) -> Result<Ticket, DegradedReason> {
        match (&self.state, purpose) {
            (State::Closed { .. }, _)
            | (
                State::Open {
                    reason: DegradedReason::OutOfMemory,
                    ..
                },
                Purpose::FreesMemory,
            ) => Ok(Ticket { epoch: self.epoch }),
            (State::Open { reason, .. }, _) => Err(*reason),
        }
    }

    /// The server answered an admitted call, be it with a refusal of that call alone.
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        if let State::Closed { failures } = &mut self.state
            && ticket.epoch == self.epoch
        {
            *failures = 0;
            self.successes = self.successes.wrapping_add(1);
        }
    }

    /// An admitted call met an outage.
    pub(crate) fn failed(&mut self, ticket: Ticket, reason: DegradedReason) -> Option<Change> {
        let State::Closed { failures } = &mut self.state else {
            return None;
        };
        if ticket.epoch != self.epoch {
            return None;
        }
        *failures += 1;
        (*failures >= self.threshold).then(|| self.open(reason))
    }

    pub(crate) fn probe_started(&mut self) -> ProbeTicket {
        if let State::Open { probing, .. } = &mut self.state {
            *probing = true;
        }
        ProbeTicket {
            epoch: self.epoch,
            successes: self.successes,
        }
    }

    pub(crate) fn probe_succeeded(&mut self, probe: ProbeTicket) -> Verdict {
        match self.state {
            State::Closed { .. } => Verdict::Unchanged,
            State::Open { .. } if probe.epoch != self.epoch => Verdict::Inconclusive,
            State::Open { .. } => {
                self.state = State::Closed { failures: 0 };
                self.epoch += 1;
                Verdict::Changed(Change::Closed)
            }
        }
    }

    pub(crate) fn probe_failed(&mut self, probe: ProbeTicket, reason: DegradedReason) -> Verdict {
        match &mut self.state {
            State::Closed { .. } => {
                let traffic_flows = self.successes != probe.successes;
                if reason == DegradedReason::TimedOut && traffic_flows {
                    Verdict::Inconclusive
                } else {
                    Verdict::Changed(self.open(reason))
                }
            }
            State::Open {
                reason: known,
                probing,
            } => {
                *probing = false;
                match std::mem::replace(known, reason) {
                    DegradedReason::Connecting => Verdict::Changed(Change::Opened(reason)),
                    before if before != reason => Verdict::Changed(Change::Reason(reason)),
                    _ => Verdict::Unchanged,
                }
            }
        }
    }

    fn open(&mut self, reason: DegradedReason) -> Change {
        self.state = State::Open {
            reason,
            probing: false,
        };
        self.epoch += 1;
        Change::Opened(reason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn closed(threshold: u32) -> Breaker {
        let mut breaker = Breaker::new(threshold);
        assert_eq!(probe_succeeds(&mut breaker), Verdict::Changed(Change::Closed));
        breaker
    }

    fn probe_succeeds(breaker: &mut Breaker) -> Verdict {
        let probe = breaker.probe_started();
        breaker.probe_succeeded(probe)
    }

    fn admit(breaker: &Breaker) -> Ticket {
        breaker.admit(Purpose::Any).unwrap()
    }

    #[test]
    fn starts_open_and_closes_on_the_first_successful_probe() {
        let mut breaker = Breaker::new(3);
        assert_eq!(
            breaker.admit(Purpose::Any).unwrap_err(),
            DegradedReason::Connecting
        );
        let probe = breaker.probe_started();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(
            breaker.admit(Purpose::Any).unwrap_err(),
            DegradedReason::Connecting
        );
        assert_eq!(breaker.probe_succeeded(probe), Verdict::Changed(Change::Closed));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_probe_from_before_the_outage_does_not_end_it() {
        let mut breaker = closed(1);
        let probe = breaker.probe_started();
        breaker.failed(admit(&breaker), DegradedReason::ReadOnly);
        assert_eq!(breaker.probe_succeeded(probe), Verdict::Inconclusive);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(probe_succeeds(&mut breaker), Verdict::Changed(Change::Closed));
    }

    #[test]
    fn opens_at_the_threshold_of_consecutive_outages() {
        let mut breaker = closed(3);
        let ticket = admit(&breaker);
        assert_eq!(breaker.failed(ticket, DegradedReason::TimedOut), None);
        assert_eq!(breaker.failed(ticket, DegradedReason::TimedOut), None);
        breaker.answered(ticket);
        assert_eq!(breaker.failed(ticket, DegradedReason::TimedOut), None);
        assert_eq!(breaker.failed(ticket, DegradedReason::TimedOut), None);
        assert_eq!(
            breaker.failed(ticket, DegradedReason::ConnectionLost),
            Some(Change::Opened(DegradedReason::ConnectionLost))
        );
        assert_eq!(
            breaker.admit(Purpose::Any).unwrap_err(),
            DegradedReason::ConnectionLost
        );
    }

    #[test]
    fn calls_of_an_earlier_epoch_do_not_count() {
        let mut breaker = closed(1);
        let before = admit(&breaker);
        breaker.failed(before, DegradedReason::TimedOut);
        probe_succeeds(&mut breaker);
        assert_eq!(breaker.failed(before, DegradedReason::TimedOut), None);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn one_failed_probe_opens_without_any_traffic() {
        let mut breaker = closed(3);
        let probe = breaker.probe_started();
        assert_eq!(
            breaker.probe_failed(probe, DegradedReason::TimedOut),
            Verdict::Changed(Change::Opened(DegradedReason::TimedOut))
        );
    }

    #[test]
    fn a_slow_probe_beside_flowing_traffic_proves_nothing() {
        let mut breaker = closed(3);
        let probe = breaker.probe_started();
        breaker.answered(admit(&breaker));
        assert_eq!(
            breaker.probe_failed(probe, DegradedReason::TimedOut),
            Verdict::Inconclusive
        );
        let probe = breaker.probe_started();
        breaker.answered(admit(&breaker));
        assert_eq!(
            breaker.probe_failed(probe, DegradedReason::ReadOnly),
            Verdict::Changed(Change::Opened(DegradedReason::ReadOnly)),
            "a refused write is proof"
        );
    }

    #[test]
    fn a_new_reason_is_told_once() {
        let mut breaker = Breaker::new(3);
        let probe = breaker.probe_started();
        assert_eq!(
            breaker.probe_failed(probe, DegradedReason::Refused),
            Verdict::Changed(Change::Opened(DegradedReason::Refused))
        );
        assert_eq!(
            breaker.probe_failed(probe, DegradedReason::Refused),
            Verdict::Unchanged
        );
        assert_eq!(
            breaker.probe_failed(probe, DegradedReason::Loading),
            Verdict::Changed(Change::Reason(DegradedReason::Loading))
        );
    }

    #[test]
    fn only_calls_that_free_memory_pass_while_memory_is_short() {
        let mut breaker = closed(1);
        breaker.failed(admit(&breaker), DegradedReason::OutOfMemory);
        assert!(breaker.admit(Purpose::FreesMemory).is_ok());
        assert!(breaker.admit(Purpose::Any).is_err());
        let probe = breaker.probe_started();
        breaker.probe_failed(probe, DegradedReason::Refused);
        assert!(breaker.admit(Purpose::FreesMemory).is_err());
    }

    #[derive(Debug, Clone)]
    enum Event {
        Admit,
        Answered(usize),
        Failed(usize),
        ProbeStarted,
        ProbeSucceeded,
        ProbeFailed,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Admit),
            any::<usize>().prop_map(Event::Answered),
            any::<usize>().prop_map(Event::Failed),
            Just(Event::ProbeStarted),
            Just(Event::ProbeSucceeded),
            Just(Event::ProbeFailed),
        ]
    }

    proptest! {
        /// Against a model that keeps only whether it is open, and the consecutive outages of the current epoch.
        #[test]
        fn every_history_keeps_the_invariants(threshold in 1u32..5, events in prop::collection::vec(event(), 0..200)) {
            let mut breaker = Breaker::new(threshold);
            let mut tickets = vec![];
            let mut probe = breaker.probe_started();
            // Whether the breaker has stayed as it was since the probe started.
            let mut current = true;
            let (mut open, mut consecutive, mut first) = (true, 0u32, 0usize);
            for event in events {
                match event {
                    Event::Admit => match breaker.admit(Purpose::Any) {
                        Ok(ticket) => {
                            prop_assert!(!open, "an open breaker admits nobody");
                            tickets.push(ticket);
                        }
                        Err(_) => prop_assert!(open, "a closed breaker admits everybody"),
                    },
                    Event::Answered(index) if !tickets.is_empty() => {
                        let index = index % tickets.len();
                        breaker.answered(tickets[index]);
                        if !open && index >= first {
                            consecutive = 0;
                        }
                    }
                    Event::Failed(index) if !tickets.is_empty() => {
                        let index = index % tickets.len();
                        let change = breaker.failed(tickets[index], DegradedReason::TimedOut);
                        let counts = !open && index >= first;
                        consecutive += u32::from(counts);
                        let opens = counts && consecutive >= threshold;
                        prop_assert_eq!(change.is_some(), opens);
                        open |= opens;
                        current &= !opens;
                    }
                    Event::Answered(_) | Event::Failed(_) => {}
                    Event::ProbeStarted => (probe, current) = (breaker.probe_started(), true),
                    Event::ProbeSucceeded => {
                        let closes = open && current;
                        let closed = breaker.probe_succeeded(probe) == Verdict::Changed(Change::Closed);
                        prop_assert_eq!(closed, closes);
                        if closes {
                            (open, consecutive, first, current) = (false, 0, tickets.len(), false);
                        }
                    }
                    Event::ProbeFailed => {
                        let verdict = breaker.probe_failed(probe, DegradedReason::Refused);
                        prop_assert_ne!(verdict, Verdict::Inconclusive, "a refused connection is proof");
                        current &= open;
                        open = true;
                    }
                }
                prop_assert_eq!(breaker.state() == BreakerState::Closed, !open);
            }
        }
    }
}
