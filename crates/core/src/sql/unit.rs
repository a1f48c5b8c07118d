//! One unit of work: what every use of the database goes through, on either dialect.
//!
//! [`run`] admits it, gives it up at its deadline or when the gate opens, tells the gate what came of it, and measures it.
//! The connection that the work takes reads the unit's name and bounds from the task ([`current`]), so that work
//! may be any future that begins its own transaction.
//!
//! # When it is given up
//! The future of the work is dropped, and with it the connection, which is then taken care of by the pool: its statement
//! is cancelled, and its place stays taken until the server is done with it. Whether the statement was applied is
//! unknown once a connection was had; before that nothing was sent.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Bounds;
use super::gate::{ASK_AGAIN, Gate, PATIENCE};
use super::measure;
use crate::breaker::Ticket;
use crate::failure::{FailureClass, classify_sql, sql_outage};
use crate::mode::{DegradedReason, Mode};

/// How much longer than the server the client waits: the server's answer shall arrive first.
const LATER: Duration = Duration::from_millis(500);

/// Why a unit of work failed.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The gate is open: nothing was sent. Transient.
    #[error("the database is unavailable ({reason})")]
    Unavailable { reason: DegradedReason },
    /// No answer in time, or none until the gate opened. Transient; whether it was applied is unknown.
    #[error("the database did not answer within {} ms", after.as_millis())]
    TimedOut { after: Duration },
    /// The driver or the server reported an error.
    #[error("the database failed")]
    Sql(#[from] sqlx::Error),
}

impl UnitError {
    /// Whether the same work may succeed later.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } => FailureClass::Transient,
            Self::Sql(source) => classify_sql(source).class,
        }
    }
}

tokio::task_local! {
    static UNIT: Unit;
}

/// How far a unit has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has not asked for a connection, or for one that does not depend on the gate (SQLite's readers).
    Free = 0,
    /// It waits for a connection, or for the lock of SQLite's file.
    Waiting = 1,
    /// It has a connection, and may have sent something.
    Sent = 2,
}

struct Unit {
    operation: &'static str,
    bounds: Bounds,
    stage: AtomicU8,
    admission: Mutex<Admission>,
    /// Its work runs at this moment, rather than waiting.
    is_running: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
enum Admission {
    Unasked,
    Admitted(Ticket),
    Refused(DegradedReason),
}

impl Unit {
    fn admission(&self) -> Admission {
        *self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Free,
            1 => Stage::Waiting,
            _ => Stage::Sent,
        }
    }

    fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }
}

/// The name and the bounds of the unit that this task is in.
pub(super) fn current() -> (&'static str, Bounds) {
    UNIT.try_with(|unit| (unit.operation, unit.bounds))
        .unwrap_or(("use the database", Bounds::SETTINGS))
}

/// Asks the gate on behalf of the unit that this task is in; outside of one everything is admitted.
pub(super) fn admit(gate: &Gate) -> Result<(), sqlx::Error> {
    UNIT.try_with(|unit| {
        let admission = match gate.admit() {
            Ok(ticket) => Admission::Admitted(ticket),
            Err(reason) => Admission::Refused(reason),
        };
        *unit.admission.lock().unwrap_or_else(PoisonError::into_inner) = admission;
        unit.reach(Stage::Waiting);
        match admission {
            Admission::Refused(_) => Err(sqlx::Error::PoolTimedOut),
            _ => Ok(()),
        }
    })
    .unwrap_or(Ok(()))
}

/// A connection could not be opened: reports an outage to the gate.
pub(super) fn connecting_failed(gate: &Gate, reason: DegradedReason) {
    let ticket = UNIT.try_with(|unit| match unit.admission() {
        Admission::Admitted(ticket) => Some(ticket),
        _ => None,
    });
    if let Ok(Some(ticket)) = ticket {
        gate.failed(ticket, reason);
    }
}

/// The unit of this task has its connection.
pub(super) fn sending() {
    let _outside_of_a_unit = UNIT.try_with(|unit| unit.reach(Stage::Sent));
}

/// Whether what is dropped now was given up from outside, in the middle of whatever it waited for. What the work itself
/// drops, after an error for instance, was not.
pub(super) fn is_given_up() -> bool {
    UNIT.try_with(|unit| !unit.is_running.load(Ordering::Relaxed))
        .unwrap_or(false)
}

/// Runs one unit of work. `operation` says what it does (`claim jobs`); `statement_timeout` is that of the settings.
pub(super) async fn run<T>(
    gate: &Gate,
    operation: &'static str,
    bounds: Bounds,
    statement_timeout: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, UnitError> {
    let unit = Unit {
        operation,
        bounds,
        stage: AtomicU8::new(Stage::Free as u8),
        admission: Mutex::new(Admission::Unasked),
        is_running: AtomicBool::new(false),
    };
    let in_unit = UNIT.scope(unit, async {
        let started = Instant::now();
        let ended = {
            let mut work = pin!(work);
            let working = poll_fn(|context| {
                UNIT.with(|unit| unit.is_running.store(true, Ordering::Relaxed));
                let polled = work.as_mut().poll(context);
                UNIT.with(|unit| unit.is_running.store(false, Ordering::Relaxed));
                polled
            });
            tokio::select! {
                biased;
                done = working => UnitEnd::Done(done),
                () = released(gate) => UnitEnd::Released,
                () = sleep(statement_timeout + LATER) => UnitEnd::Late,
            }
        };
        let result = UNIT.with(|unit| conclude(gate, unit, started.elapsed(), ended));
        measure::record(operation, started.elapsed(), &result);
        result
    });
    in_unit.await
}

/// How the work of a unit came to its end.
enum UnitEnd<T> {
    Done(Result<T, sqlx::Error>),
    /// The gate opened.
    Released,
    /// The deadline passed.
    Late,
}

/// Tells the gate, and makes the error that callers see.
fn conclude<T>(gate: &Gate, unit: &Unit, after: Duration, ended: UnitEnd<T>) -> Result<T, UnitError> {
    let sent = unit.stage() == Stage::Sent;
    let ticket = match unit.admission() {
        // A second connection of the same unit was refused: what the first one did stands.
        Admission::Refused(_) if sent => return Err(UnitError::TimedOut { after }),
        Admission::Refused(reason) => return Err(UnitError::Unavailable { reason }),
        Admission::Admitted(ticket) => Some(ticket),
        Admission::Unasked => None,
    };
    match ended {
        UnitEnd::Done(Ok(done)) => {
            if let Some(ticket) = ticket {
                gate.answered(ticket);
            }
            Ok(done)
        }
        UnitEnd::Done(Err(error)) => {
            let refused = gate.admit().err();
            match (ticket, refused) {
                // What made the gate open is why this unit got no connection.
                (Some(_), Some(reason)) if !sent => return Err(UnitError::Unavailable { reason }),
                (Some(ticket), _) if sent => match sql_outage(&error) {
                    Some(reason) => gate.failed(ticket, reason),
                    None => gate.answered(ticket),
                },
                _ => {}
            }
            Err(error.into())
        }
        UnitEnd::Released if sent => Err(UnitError::TimedOut { after }),
        UnitEnd::Released => {
            let reason = gate.admit().err().unwrap_or(DegradedReason::TimedOut);
            Err(UnitError::Unavailable { reason })
        }
        UnitEnd::Late => {
            if let Some(ticket) = ticket.filter(|_| sent) {
                gate.failed(ticket, DegradedReason::TimedOut);
            }
            Err(UnitError::TimedOut { after })
        }
    }
}

/// Returns when the gate opens while this unit depends on it; has the attendant ask while the unit waits.
async fn released(gate: &Gate) {
    let opened = async {
        let mut mode = gate.watch();
        loop {
            let is_open = matches!(*mode.borrow_and_update(), Mode::Degraded { .. });
            if is_open && depends_on_gate() {
                return;
            }
            if mode.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let doubts = async {
        sleep(PATIENCE).await;
        loop {
            if depends_on_gate() {
                gate.suspect();
            }
            sleep(ASK_AGAIN).await;
        }
    };
    tokio::select! {
        () = opened => {}
        () = doubts => {}
    }
}

fn depends_on_gate() -> bool {
    UNIT.try_with(|unit| unit.stage() != Stage::Free).unwrap_or(false)
}
