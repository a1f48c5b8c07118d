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
//!   again, at least every [`WHOLE_AGAIN`]; the first that ends in time ends the sweep.
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
//! followed by a pause of [`SWEEP_SHARE`] times what it took; beyond that budget all levels become slower alike.
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

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

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

/// During a sweep: between two tries of a whole look, each of which may cost [`LOOK_BOUND`]. The first try comes soon, since
/// the server may merely have been busy; each later one after twice the time.
const WHOLE_AGAIN: Duration = Duration::from_secs(30);
const WHOLE_AGAIN_FIRST: Duration = Duration::from_secs(2);
/// A turn of a sweep is followed by a pause of this many times what it took: looks take a twenty-fifth of the time.
const SWEEP_SHARE: u32 = 25;
/// Depth of the first level.
const SHALLOWEST: i64 = 2;
/// How much deeper each level is than the one before.
const DEEPER: i64 = 4;
/// Levels of a known depth: 2 s, 8 s, … 2 h 16 min.
const DEPTHS: usize = 7;
/// Between two walks over the whole index.
const WHOLE_WALK: Duration = Duration::from_hours(4);
/// The first slice; later ones follow their cost.
const FIRST_WIDTH: Width = Width::of_seconds(1);

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

/// The looks behind the frontier, while no look at the whole queue ends in time.
#[derive(Debug)]
struct Sweep {
    /// The next turn.
    due: Instant,
    width: Width,
    levels: Vec<Level>,
    /// What no claim of any known process has passed: to be walked before anything else.
    unknown: Option<Walk>,
    /// The level of the turn under way; `None`: the unknown part.
    turn: Option<usize>,
    turns: u64,
    /// How long after the last whole look that failed the next one comes.
    whole_again: Duration,
}

#[derive(Debug)]
struct Level {
    /// `None`: down to the beginning.
    depth: Option<Width>,
    period: Duration,
    /// When its last walk that came to its end began, and where the frontier was then.
    began: Option<Instant>,
    mark: From,
    walk: Option<Walk>,
    /// The turn that it had last.
    served: u64,
}

/// A way back from the frontier.
#[derive(Debug)]
struct Walk {
    began: Instant,
    /// Where the frontier was when it began.
    mark: From,
    /// How far back it has come; `None`: to its end.
    next: From,
    floor: From,
    /// What is left of a slice in which there was more than the claim had room for.
    rest: Option<Levels<Span>>,
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

impl Sweep {
    fn new(from: From) -> Self {
        let now = Instant::now();
        let mut levels = Vec::with_capacity(DEPTHS + 1);
        let mut depth = SHALLOWEST;
        for _ in 0..DEPTHS {
            levels.push(Level {
                depth: Some(Width::of_seconds(depth)),
                period: Duration::from_secs(depth.unsigned_abs()),
                began: Some(now),
                mark: from,
                walk: None,
                served: 0,
            });
            depth *= DEEPER;
        }
        levels.push(Level {
            depth: None,
            period: WHOLE_WALK,
            began: None,
            mark: from,
            walk: None,
            served: 0,
        });
        Self {
            due: now,
            width: FIRST_WIDTH,
            levels,
            unknown: None,
            turn: None,
            turns: 0,
            whole_again: WHOLE_AGAIN_FIRST,
        }
    }

    /// How long until a whole look is tried again, after one that failed.
    fn next_whole(&mut self) -> Duration {
        let again = self.whole_again;
        self.whole_again = (again * 2).min(WHOLE_AGAIN);
        again
    }

    /// When the next turn is due: after the pause, and once a level has something to do.
    fn due(&self) -> Instant {
        if self.unknown.is_some() {
            return self.due;
        }
        let next = self.levels.iter().map(Level::due).min();
        next.map_or(self.due, |next| next.max(self.due))
    }

    fn next_slice(&mut self, from: From) -> Option<Levels<Span>> {
        let now = Instant::now();
        if self.due() > now {
            return None;
        }
        if let Some(walk) = &self.unknown {
            self.turn = None;
            return Some(walk.next_slice(self.width));
        }
        let waiting = self
            .levels
            .iter()
            .enumerate()
            .filter(|(_, level)| level.due() <= now);
        let (turn, _) = waiting.min_by_key(|(_, level)| level.served)?;
        self.turns += 1;
        self.turn = Some(turn);
        let level = &mut self.levels[turn];
        level.served = self.turns;
        Some(level.walk(from).next_slice(self.width))
    }

    fn looked(&mut self, spans: Levels<Span>, looked: LookResult<'_>, bound: Duration) {
        let share = if self.unknown.is_some() { 1 } else { SWEEP_SHARE };
        let now = Instant::now();
        self.due = match looked {
            LookResult::Refused => now + PAUSE,
            LookResult::TimedOut { took } => now + took * share,
            LookResult::Ended(found) if found.jobs.is_empty() => now + found.took * share,
            LookResult::Ended(_) => now,
        };
        match looked {
            LookResult::Refused => return,
            LookResult::TimedOut { .. } => self.width = narrower(self.width),
            LookResult::Ended(found) => self.width = adapted(self.width, found.took, bound),
        }
        let walk = match self.turn {
            None => self.unknown.as_mut(),
            Some(turn) => self.levels[turn].walk.as_mut(),
        };
        let Some(walk) = walk else { return };
        walk.looked(spans, looked);
        if walk.is_done() {
            match self.turn {
                None => self.unknown = None,
                Some(turn) => self.levels[turn].ended(),
            }
        }
    }
}

impl Level {
    fn due(&self) -> Instant {
        match (&self.walk, self.began) {
            (None, Some(began)) => began + self.period,
            (walk, _) => walk.as_ref().map_or_else(Instant::now, |walk| walk.began),
        }
    }

    /// The walk under way, or a new one back from the frontier.
    fn walk(&mut self, from: From) -> &Walk {
        let floor = match self.depth {
            None => From::default(),
            Some(depth) => self.mark.map(|mark| mark.and_then(|mark| mark.minus(depth))),
        };
        self.walk.get_or_insert_with(|| Walk {
            began: Instant::now(),
            mark: from,
            next: from,
            floor,
            rest: None,
        })
    }

    fn ended(&mut self) {
        if let Some(walk) = self.walk.take() {
            self.began = Some(walk.began);
            self.mark = walk.mark;
        }
    }
}

impl Walk {
    fn next_slice(&self, width: Width) -> Levels<Span> {
        if let Some(rest) = self.rest {
            return rest;
        }
        let mut spans = [Span::NOTHING; Priority::ALL.len()];
        for ((span, next), floor) in spans.iter_mut().zip(self.next).zip(self.floor) {
            if let Some(until) = next {
                *span = Span {
                    since: until.minus(width).max(floor),
                    until: Some(until),
                };
            }
        }
        spans
    }

    fn looked(&mut self, spans: Levels<Span>, looked: LookResult<'_>) {
        self.rest = None;
        let LookResult::Ended(found) = looked else { return };
        if found.is_full {
            let mut rest = spans;
            for (span, last) in rest.iter_mut().zip(last_of(found.jobs)) {
                span.since = last.or(span.since);
            }
            self.rest = Some(rest);
            return;
        }
        for ((next, floor), span) in self.next.iter_mut().zip(self.floor).zip(spans) {
            if next.is_some() {
                *next = span.since.filter(|since| Some(*since) > floor);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.next.iter().all(Option::is_none)
    }
}

/// The last position of each priority among them.
fn last_of(jobs: &[ClaimedJob]) -> From {
    Priority::ALL.map(|priority| {
        let of_it = jobs.iter().filter(|job| job.priority == priority);
        of_it.map(|job| Position::of(job.run_at, job.id)).max()
    })
}

fn narrower(width: Width) -> Width {
    width.divided(4)
}

/// So that a slice takes a fifth to a half of what it may.
fn adapted(width: Width, took: Duration, bound: Duration) -> Width {
    if took < bound / 25 {
        width.times(4)
    } else if took < bound / 5 {
        width.times(2)
    } else if took > bound / 2 {
        width.divided(2)
    } else {
        width
    }
}

#[cfg(test)]
mod tests;
