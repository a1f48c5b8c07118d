//! How far the claims of a queue have come, so that a claim need not walk past what was claimed before it.
//!
//! The index that claims use keeps an entry of each job that was claimed, cancelled or deleted until a vacuum removes it,
//! and while any transaction of the database is old no vacuum may. A claim that always began at the head would walk past
//! them all: 0.25 to 5 µs for each, so seconds after a million jobs. So a claim begins where the claims before it came to,
//! for each priority: at the *frontier*. What comes to lie behind it is found by *looks*.
//!
//! # States of a queue
//! - *Whole*: a look at the whole queue ends within [`LOOK_BOUND`]. One of the claims is such a look every
//!   [`PAUSE`], or as seldom as keeps looks to a hundredth of the time, but every [`LONGEST_PAUSE`].
//! - *Sweep*: a whole look was ended by its bound. The frontier is kept. What lies behind it is looked at in slices; each
//!   slice is a statement with the same bound, and its width follows what the slices before it cost. A whole look is tried
//!   again, at least every [`WHOLE_AGAIN`](sweep::WHOLE_AGAIN); the first that ends in time ends the sweep.
//! - *Onward in slices*, beside either state: claims from the frontier on are themselves slow (this process has not claimed
//!   for long while others did; a million waiting jobs were cancelled). The frontier moves on slice by slice, oldest first,
//!   until it has come to the server's now.
//!
//! # The sweep
//! A *level* of depth d walks back from the frontier to d before the place that the frontier had when the level's last walk
//! began, and begins again after d. So a job that comes to lie a seconds behind the frontier is in the next walk of the
//! first level with d ≥ a, however far the frontier moves meanwhile: it is found after about d more seconds. Depths are four
//! times those of the level before (not twice: half the passes over the same entries), and the last level walks the whole
//! index. Levels take turns, so that a deep walk of many slices delays a shallow one by a turn and no more. A turn is
//! followed by a pause of [`SWEEP_SHARE`](sweep::SWEEP_SHARE) times what it took; beyond that budget all levels become slower alike.
//!
//! A process without a frontier takes the newest one that any process has published in `holdfast_frontiers`. If there is
//! none either, the frontier is put just behind the server's now, and all that lies before it is walked at once, for half of
//! the time.
//!
//! # Invariants
//! - A frontier saves work and decides nothing: each entry of the index is looked at again and again, by whole looks or by
//!   the walks of the last level. It may be wrong (published by another process, taken before the server's clock was set
//!   back); claims begin at least [`MARGIN`] behind the server's now all the same.
//! - It moves to what was claimed, and to [`MARGIN`] behind the server's now after a claim that took all that was due. An
//!   empty answer of a plain claim moves nothing: the queue may be paused, or the lease stale.
//! - [`MARGIN`] is for jobs that another transaction is about to commit: their time is up to its own length ago.
//! - No state is kept for a job. A slice that was ended by its bound is looked at again in narrower slices, down to a single
//!   position of the index, so every walk ends.
//!
//! # When things fail
//! The server ends a statement at its bound: nothing was applied, and it counts neither as an outage nor as a claim whose
//! outcome is unknown. Any other error is that of the claim.

mod sweep;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use self::sweep::{FIRST_WIDTH, Sweep, Walk, adapted, last_of, narrower};
use super::position::{From, Levels, Position, Span, Width};
use crate::ledger::{ClaimedJob, Priority};

/// How far behind the server's now a frontier stays. The claims' statements say the same.
const MARGIN: chrono::Duration = chrono::Duration::seconds(1);
/// Between two looks at a whole queue, where they cost little.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at a whole queue, whatever they cost: as the safety poll of a worker that hears no bell.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A whole look may take one part in this many of the time.
const SHARE: u32 = 100;
/// What one look may take on the server. A whole look this long every [`LONGEST_PAUSE`] is a twentieth of one connection's
/// time, and a delay that a waiting job does not notice beside the safety poll.
pub(super) const LOOK_BOUND: Duration = Duration::from_millis(250);

/// Between two publications of a queue's frontier by one process.
const PUBLISH_EVERY: Duration = Duration::from_secs(10);
/// A frontier that has moved by less is not published. See `holdfast_frontiers`.
const PUBLISH_STEP: Width = Width::of_seconds(10);

/// What a claim is to look at before it goes on from the frontier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Whole,
    /// A slice behind the frontier.
    Slice(Levels<Span>),
}

/// Where a claim goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onward {
    /// From the frontier up to what is due, without a bound of its own.
    Plain(From),
    /// The next part of the way, with the bound of a look.
    Slice(Levels<Span>),
}

/// What a statement over spans has found.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpanResult<'a> {
    pub jobs: &'a [ClaimedJob],
    /// As many as it had room for: there may be more.
    pub is_full: bool,
    /// The server's clock.
    pub at: DateTime<Utc>,
    pub took: Duration,
}

/// How a bounded statement ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum LookResult<'a> {
    Ended(SpanResult<'a>),
    /// The queue is paused or limited, or the worker's lease is stale: nothing was looked at.
    Refused,
    /// The server ended it at its bound.
    TimedOut {
        took: Duration,
    },
}

/// The frontiers of the queues that this process claims from.
#[derive(Debug)]
pub(super) struct Frontiers {
    known: Mutex<HashMap<String, Frontier>>,
    /// What one look may take on the server.
    pub bound: Duration,
}

#[derive(Debug)]
struct Frontier {
    from: From,
    /// When a claim is to look at the whole queue again.
    whole_due: Instant,
    /// The last claim did not look at the whole queue.
    is_partial: bool,
    /// The last claim took what a look had found, or not all of its part: the next one is to follow immediately.
    is_interrupted: bool,
    /// The last claim took what a slice behind the frontier held: what is due beyond it has its turn before the next slice.
    is_onward_next: bool,
    sweep: Option<Sweep>,
    /// The width of the next slice, while claims from the frontier on are made in slices.
    onward: Option<Width>,
    /// The server's clock as last read, and when.
    clock: Option<(DateTime<Utc>, Instant)>,
    published: (Instant, From),
}

impl Frontiers {
    pub(super) fn new(bound: Duration) -> Self {
        Self {
            known: Mutex::default(),
            bound,
        }
    }

    /// Whether nothing is known of the queue yet: then [`Self::load`] is to follow.
    pub(super) fn is_new(&self, queue: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        !known.contains_key(queue)
    }

    /// Takes over what other processes have published, where it is further.
    pub(super) fn load(&self, queue: &str, published: From) {
        self.with(queue, |frontier| {
            for (own, published) in frontier.from.iter_mut().zip(published) {
                *own = published.max(*own);
            }
        });
    }

    /// Where a peek begins: at the frontier, or at the beginning when the whole queue is to be looked at.
    pub(super) fn peek_from(&self, queue: &str) -> From {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(queue) {
            Some(frontier) if !frontier.is_whole_due() || frontier.sweep.is_some() => frontier.from,
            _ => From::default(),
        }
    }

    /// What a peek from there on came to. One at the whole queue that found nothing due counts as a look; after one that did,
    /// it is for the claim to look there, too.
    pub(super) fn peeked(&self, queue: &str, from: From, is_due: bool, took: Duration) {
        if from != From::default() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frontier) = known.get_mut(queue) {
            if is_due {
                frontier.whole_due = Instant::now();
            } else {
                frontier.whole_ended(took);
            }
        }
    }

    /// The look that a claim has to make first. `None`: none is due.
    pub(super) fn next_look(&self, queue: &str) -> Option<Look> {
        self.with(queue, |frontier| {
            if frontier.is_whole_due() {
                return Some(Look::Whole);
            }
            if std::mem::take(&mut frontier.is_onward_next) {
                return None;
            }
            let from = frontier.from;
            frontier.sweep.as_mut()?.next_slice(from).map(Look::Slice)
        })
    }

    /// Where a claim goes on after its look.
    pub(super) fn onward(&self, queue: &str) -> Onward {
        self.with(queue, |frontier| match frontier.onward {
            None => Onward::Plain(frontier.from),
            Some(width) => Onward::Slice(frontier.onward_spans(width)),
        })
    }

    /// How a look at the whole queue ended. `at` is the server's clock.
    pub(super) fn looked_at_whole(&self, queue: &str, looked: LookResult<'_>, at: DateTime<Utc>) {
        self.with(queue, |frontier| match looked {
            LookResult::Ended(found) => {
                frontier.move_to(found);
                frontier.whole_ended(found.took);
                frontier.onward = None;
                // What it had no room for comes next, from the place it came to.
                frontier.is_interrupted = found.is_full;
            }
            LookResult::Refused => frontier.whole_due = Instant::now() + PAUSE,
            LookResult::TimedOut { .. } => {
                frontier.clock = Some((at, Instant::now()));
                frontier.is_partial = true;
                let again = frontier.begin_sweep(at).next_whole();
                frontier.whole_due = Instant::now() + again;
            }
        });
    }

    /// How a slice behind the frontier ended.
    pub(super) fn looked_behind(&self, queue: &str, spans: Levels<Span>, looked: LookResult<'_>) {
        let bound = self.bound;
        self.with(queue, |frontier| {
            frontier.is_partial = true;
            if let LookResult::Ended(found) = looked {
                frontier.clock = Some((found.at, Instant::now()));
                frontier.is_interrupted = !found.jobs.is_empty();
                frontier.is_onward_next = frontier.is_interrupted;
            }
            if let Some(sweep) = &mut frontier.sweep {
                sweep.looked(spans, looked, bound);
            }
        });
    }

    /// What a plain claim from there on came to. `at` is the server's clock then, known if it found anything.
    pub(super) fn claimed(
        &self,
        queue: &str,
        jobs: &[ClaimedJob],
        is_full: bool,
        at: Option<DateTime<Utc>>,
        took: Duration,
    ) {
        let bound = self.bound;
        self.with(queue, |frontier| {
            frontier.is_partial = true;
            frontier.is_interrupted = false;
            match at {
                Some(at) => frontier.move_to(SpanResult {
                    jobs,
                    is_full,
                    at,
                    took,
                }),
                // It has walked past much and cannot move the frontier, so the next one would do it again.
                None if took > bound => {
                    frontier.onward = Some(FIRST_WIDTH);
                    frontier.is_interrupted = true;
                }
                None => {}
            }
        });
    }

    /// The server has ended a plain claim: claims go on in slices, from what other processes have `published` if that is
    /// further.
    pub(super) fn stalled(&self, queue: &str, published: From, at: DateTime<Utc>) {
        self.load(queue, published);
        self.with(queue, |frontier| {
            frontier.clock = Some((at, Instant::now()));
            frontier.is_partial = true;
            frontier.is_interrupted = true;
            if frontier.from.iter().any(Option::is_none) {
                frontier.begin_sweep(at);
            }
            frontier.onward = Some(FIRST_WIDTH);
        });
    }

    /// How a slice of the way onward ended.
    pub(super) fn went_on(&self, queue: &str, spans: Levels<Span>, looked: LookResult<'_>) {
        let bound = self.bound;
        self.with(queue, |frontier| {
            frontier.is_partial = true;
            frontier.is_interrupted = true;
            let Some(width) = &mut frontier.onward else { return };
            match looked {
                LookResult::Refused => frontier.is_interrupted = false,
                LookResult::TimedOut { .. } => *width = narrower(*width),
                LookResult::Ended(found) => {
                    *width = adapted(*width, found.took, bound);
                    if found.is_full {
                        frontier.move_to(found);
                        return;
                    }
                    frontier.clock = Some((found.at, Instant::now()));
                    if spans.iter().all(|span| span.until.is_none()) {
                        frontier.move_to(found);
                        frontier.onward = None;
                        frontier.is_interrupted = false;
                        return;
                    }
                    let newest = Position::at(found.at - MARGIN);
                    for (from, span) in frontier.from.iter_mut().zip(spans) {
                        *from = Some(span.until.unwrap_or(newest).min(newest));
                    }
                }
            }
        });
    }

    /// Jobs of any queue were put back: the next claims look at everything.
    pub(super) fn forget(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for frontier in known.values_mut() {
            frontier.whole_due = Instant::now();
        }
    }

    /// When to claim again even if nothing rings. `None`: the last claim has looked at the whole queue.
    pub(super) fn look_again_in(&self, queue: &str) -> Option<Duration> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let frontier = known.get(queue)?;
        if frontier.is_interrupted {
            return Some(Duration::ZERO);
        }
        let due = match &frontier.sweep {
            Some(sweep) => sweep.due().min(frontier.whole_due),
            None if frontier.is_partial => frontier.whole_due,
            None => return None,
        };
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Whether the next claim is to come now, for a look behind the frontier.
    pub(super) fn is_look_due(&self, queue: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(queue).is_some_and(|frontier| {
            let sweep_due = |sweep: &Sweep| sweep.due() <= Instant::now();
            frontier.sweep.as_ref().is_some_and(sweep_due)
        })
    }

    /// The frontier, if other processes are to know of it now.
    pub(super) fn to_publish(&self, queue: &str) -> Option<From> {
        self.with(queue, |frontier| {
            let (at, published) = frontier.published;
            let moved = |(own, published): (Option<Position>, Option<Position>)| {
                own.is_some_and(|own| published.is_none_or(|published| own >= published.plus(PUBLISH_STEP)))
            };
            let news = at.elapsed() >= PUBLISH_EVERY && frontier.from.into_iter().zip(published).any(moved);
            news.then(|| {
                frontier.published = (Instant::now(), frontier.from);
                frontier.from
            })
        })
    }

    fn with<T>(&self, queue: &str, on: impl FnOnce(&mut Frontier) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frontier) = known.get_mut(queue) {
            return on(frontier);
        }
        on(known.entry(queue.to_owned()).or_insert_with(Frontier::new))
    }
}

impl Frontier {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            from: From::default(),
            whole_due: now,
            is_partial: false,
            is_interrupted: false,
            is_onward_next: false,
            sweep: None,
            onward: None,
            clock: None,
            published: (now, From::default()),
        }
    }

    fn is_whole_due(&self) -> bool {
        Instant::now() >= self.whole_due
    }

    fn whole_ended(&mut self, took: Duration) {
        self.sweep = None;
        self.is_partial = false;
        self.is_interrupted = false;
        self.whole_due = Instant::now() + (took * SHARE).clamp(PAUSE, LONGEST_PAUSE);
    }

    /// To what was claimed; or, where that was all that was due, to the server's now.
    fn move_to(&mut self, found: SpanResult<'_>) {
        self.clock = Some((found.at, Instant::now()));
        let newest = Position::at(found.at - MARGIN);
        if !found.is_full {
            self.from = [Some(newest); Priority::ALL.len()];
            return;
        }
        for (from, last) in self.from.iter_mut().zip(last_of(found.jobs)) {
            if let Some(last) = last {
                *from = Some(last.min(newest));
            }
        }
    }

    fn begin_sweep(&mut self, at: DateTime<Utc>) -> &mut Sweep {
        let newest = Position::at(at - MARGIN);
        let unknown = self.from.map(|from| from.is_none().then_some(newest));
        for from in &mut self.from {
            from.get_or_insert(newest);
        }
        let from = self.from;
        let sweep = self.sweep.get_or_insert_with(|| Sweep::new(from));
        if sweep.unknown.is_none() && unknown.iter().any(Option::is_some) {
            sweep.unknown = Some(Walk {
                began: Instant::now(),
                mark: from,
                next: unknown,
                floor: From::default(),
                rest: None,
            });
        }
        sweep
    }

    /// The next part of the way from the frontier to the server's now.
    fn onward_spans(&self, width: Width) -> Levels<Span> {
        let now = self.clock.map(|(at, read)| {
            let since = chrono::Duration::from_std(read.elapsed()).unwrap_or_default();
            Position::at(at + since - MARGIN)
        });
        self.from.map(|since| {
            let until = since.map(|since| since.plus(width));
            Span {
                since,
                until: until.filter(|until| now.is_some_and(|now| *until < now)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
