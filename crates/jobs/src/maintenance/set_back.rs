//! Jobs that were accepted without a delay run without one, also if the server's clock was set back since.
//!
//! Such a job is due at the server's now. If that clock is then set back by ten minutes (somebody corrects it, or a primary with
//! another clock takes over), the time of the job lies ten minutes ahead, and claims leave it where it is.
//!
//! # States
//! - *In step*: the clock shows the latest time that it has shown, as far as this process knows from its own readings and from
//!   the times when workers were seen.
//! - *Set back*: it shows an earlier one. A *pass* walks from now to that latest time, in spans, and makes due what has no delay.
//!   Passes go on until the clock has come to where it was, because a transaction that began before the step may commit its jobs
//!   at any time after it. They take one part in [`SHARE`] of the time.
//!
//! # Invariants
//! - A job with a delay, a retry, or a time of its own keeps its time: after a step back by ten minutes a delay that was counted
//!   before it ends up to ten minutes late.
//! - Every process may do this concurrently, and a statement may commit after its client has given it up: a job that is due
//!   becomes due once more.
//! - One statement looks at one span. A span that the server ended at the statement's bound is halved; the next one after a span
//!   that ended in time is twice as wide.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::ledger::{ServerClock, TimeSpan};
use crate::meters::maintained;
use crate::worker::WorkerState;
use crate::worker::heartbeat::wake;

/// Jobs made due in one statement.
const BATCH: usize = 500;

/// A pass is followed by a pause of this many times what it took.
const SHARE: u32 = 100;

/// A turn of a pass ends after this time; the other duties have theirs before it goes on.
const TURN: Duration = Duration::from_secs(1);

/// The widest span, in milliseconds: more than any clock is set back.
const WIDEST: i64 = 366 * 24 * 3_600 * 1_000;

#[derive(Debug)]
pub(super) struct SetBack {
    clock: Option<ServerClock>,
    read_at: Instant,
    /// How far the pass under way has come.
    cursor: Option<DateTime<Utc>>,
    /// Milliseconds of the next span.
    width: i64,
    /// What the pass under way has taken.
    took: Duration,
    next_pass: Option<Instant>,
}

impl Default for SetBack {
    fn default() -> Self {
        Self {
            clock: None,
            read_at: Instant::now(),
            cursor: None,
            width: WIDEST,
            took: Duration::ZERO,
            next_pass: None,
        }
    }
}

/// How the search of one span ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpanOutcome {
    /// It has found as many jobs as one statement moves: there may be more.
    Full,
    Searched,
    /// The server ended it at its bound.
    TimedOut,
}

impl SetBack {
    /// The clock was read. Jobs may have been accepted since it was read before, or since a worker was seen (`lost_after` ago at
    /// most, if it is alive): so it has shown a time later than those by as much.
    pub(super) fn observe(&mut self, clock: ServerClock, lost_after: Duration) {
        let now = Instant::now();
        let mut latest = clock.latest;
        if clock.is_set_back() {
            latest = later(latest, lost_after);
        }
        if let Some(known) = self.clock {
            let expected = later(known.now, now.duration_since(self.read_at));
            latest = latest.max(known.latest).max(expected);
        }
        self.clock = Some(ServerClock { latest, ..clock });
        self.read_at = now;
    }

    /// Goes on with the pass, for [`TURN`] at most.
    pub(super) async fn make_due(&mut self, shared: &WorkerState) {
        let queues: Vec<String> = shared.lanes.keys().map(ToString::to_string).collect();
        let began = Instant::now();
        while began.elapsed() < TURN {
            let Some(span) = self.next_span() else { return };
            let asked = Instant::now();
            let moved = shared.jobs.ledger().make_due(&queues, span, BATCH).await;
            maintained("make_due", &moved, |moved| moved.values().sum());
            let outcome = match moved {
                Ok(moved) => {
                    wake(shared, &moved);
                    for (queue, jobs) in &moved {
                        tracing::warn!(queue = %queue, jobs, "the database's clock was set back: jobs without a delay are due now");
                    }
                    let is_full = moved.values().sum::<u64>() >= BATCH as u64;
                    if is_full {
                        SpanOutcome::Full
                    } else {
                        SpanOutcome::Searched
                    }
                }
                Err(error) if error.is_statement_timeout() => SpanOutcome::TimedOut,
                Err(error) => {
                    tracing::debug!(error = ?error, "cannot make jobs due");
                    return;
                }
            };
            self.ended(span, outcome, asked.elapsed());
        }
    }

    /// `None`: the clock is in step, or the pause after a pass lasts.
    fn next_span(&mut self) -> Option<TimeSpan> {
        let clock = self.clock?;
        if !clock.is_set_back() {
            self.cursor = None;
            return None;
        }
        if self.next_pass.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let after = self.cursor.unwrap_or(clock.now);
        let until = after
            .checked_add_signed(chrono::Duration::milliseconds(self.width))
            .map_or(clock.latest, |until| until.min(clock.latest));
        Some(TimeSpan { after, until })
    }

    fn ended(&mut self, span: TimeSpan, outcome: SpanOutcome, took: Duration) {
        self.took += took;
        match outcome {
            SpanOutcome::Full => return,
            SpanOutcome::TimedOut if self.width > 1 => {
                let asked = (span.until - span.after).num_milliseconds();
                self.width = (self.width.min(asked) / 2).max(1);
                return;
            }
            SpanOutcome::TimedOut => tracing::warn!(
                at = %span.after,
                "too many jobs wait for one millisecond to look for those without a delay"
            ),
            SpanOutcome::Searched => self.width = self.width.saturating_mul(2).min(WIDEST),
        }
        self.cursor = Some(span.until);
        if self.clock.is_none_or(|clock| span.until >= clock.latest) {
            self.next_pass = Some(Instant::now() + self.took * SHARE);
            self.cursor = None;
            self.took = Duration::ZERO;
        }
    }
}

fn later(time: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    let by = chrono::Duration::from_std(by).unwrap_or(chrono::Duration::MAX);
    time.checked_add_signed(by).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(15);

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn shows(now: i64, latest: i64) -> ServerClock {
        ServerClock {
            now: at(now),
            latest: at(latest),
        }
    }

    fn span(after: i64, until: i64) -> TimeSpan {
        TimeSpan {
            after: at(after),
            until: at(until),
        }
    }

    fn read(set_back: &mut SetBack, now: i64) {
        set_back.observe(shows(now, now), LOST_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn passes_go_on_until_the_clock_has_come_to_where_it_was() {
        let mut set_back = SetBack::default();
        assert_eq!(set_back.next_span(), None, "not read yet");
        read(&mut set_back, 998);
        assert_eq!(set_back.next_span(), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        read(&mut set_back, 400);
        let whole = span(400, 1_000);
        assert_eq!(
            set_back.next_span(),
            Some(whole),
            "with what was accepted after the last reading"
        );
        let took = Duration::from_millis(5);
        set_back.ended(whole, SpanOutcome::Full, took);
        assert_eq!(set_back.next_span(), Some(whole), "there may be more");
        set_back.ended(whole, SpanOutcome::Searched, took);
        assert_eq!(set_back.next_span(), None, "the pause");
        tokio::time::advance(took * 2 * SHARE).await;
        read(&mut set_back, 401);
        assert_eq!(set_back.next_span(), Some(span(401, 1_000)));
        read(&mut set_back, 1_000);
        assert_eq!(set_back.next_span(), None, "in step again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_process_learns_of_the_step_from_the_heartbeats() {
        let mut set_back = SetBack::default();
        set_back.observe(shows(400, 985), LOST_AFTER);
        read(&mut set_back, 401);
        assert_eq!(
            set_back.next_span(),
            Some(span(401, 1_000)),
            "the heartbeats were mended"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_that_takes_too_long_is_halved_until_it_is_one_millisecond() {
        let mut set_back = SetBack::default();
        read(&mut set_back, 1_000);
        read(&mut set_back, 400);
        let took = Duration::from_secs(1);
        set_back.ended(span(400, 1_000), SpanOutcome::TimedOut, took);
        assert_eq!(set_back.next_span(), Some(span(400, 700)));
        set_back.ended(span(400, 700), SpanOutcome::Searched, took);
        assert_eq!(
            set_back.next_span(),
            Some(span(700, 1_000)),
            "twice as wide, up to the end"
        );
        while set_back.width > 1 {
            let span = set_back.next_span().unwrap();
            set_back.ended(span, SpanOutcome::TimedOut, took);
        }
        let moment = set_back.next_span().unwrap();
        assert_eq!((moment.until - moment.after).num_milliseconds(), 1);
        set_back.ended(moment, SpanOutcome::TimedOut, took);
        assert_eq!(
            set_back.next_span().unwrap().after,
            moment.until,
            "it is passed over"
        );
    }
}
