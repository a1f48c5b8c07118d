//! The looks behind the frontier, level by level: see "The sweep" in the module above.

use std::time::Duration;

use tokio::time::Instant;

use super::{LookResult, PAUSE};
use crate::ledger::postgres::position::{From, Levels, Position, Span, Width};
use crate::ledger::{ClaimedJob, Priority};

/// During a sweep: between two tries of a whole look, each of which may cost [`LOOK_BOUND`](super::LOOK_BOUND). The first try comes soon, since
/// the server may merely have been busy; each later one after twice the time.
pub(super) const WHOLE_AGAIN: Duration = Duration::from_secs(30);
const WHOLE_AGAIN_FIRST: Duration = Duration::from_secs(2);
/// A turn of a sweep is followed by a pause of this many times what it took: looks take a twenty-fifth of the time.
pub(super) const SWEEP_SHARE: u32 = 25;
/// Depth of the first level.
const SHALLOWEST: i64 = 2;
/// How much deeper each level is than the one before.
const DEEPER: i64 = 4;
/// Levels of a known depth: 2 s, 8 s, … 2 h 16 min.
const DEPTHS: usize = 7;
/// Between two walks over the whole index.
const WHOLE_WALK: Duration = Duration::from_hours(4);
/// The first slice; later ones follow their cost.
pub(super) const FIRST_WIDTH: Width = Width::of_seconds(1);

/// The looks behind the frontier, while no look at the whole queue ends in time.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The next turn.
    due: Instant,
    width: Width,
    pub(super) levels: Vec<Level>,
    /// What no claim of any known process has passed: to be walked before anything else.
    pub(super) unknown: Option<Walk>,
    /// The level of the turn under way; `None`: the unknown part.
    turn: Option<usize>,
    turns: u64,
    /// How long after the last whole look that failed the next one comes.
    whole_again: Duration,
}

#[derive(Debug)]
pub(super) struct Level {
    /// `None`: down to the beginning.
    depth: Option<Width>,
    period: Duration,
    /// When its last walk that came to its end began, and where the frontier was then.
    began: Option<Instant>,
    mark: From,
    walk: Option<Walk>,
    /// The turn that it had last.
    pub(super) served: u64,
}

/// A way back from the frontier.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) began: Instant,
    /// Where the frontier was when it began.
    pub(super) mark: From,
    /// How far back it has come; `None`: to its end.
    pub(super) next: From,
    pub(super) floor: From,
    /// What is left of a slice in which there was more than the claim had room for.
    pub(super) rest: Option<Levels<Span>>,
}

impl Sweep {
    pub(super) fn new(from: From) -> Self {
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
    pub(super) fn next_whole(&mut self) -> Duration {
        let again = self.whole_again;
        self.whole_again = (again * 2).min(WHOLE_AGAIN);
        again
    }

    /// When the next turn is due: after the pause, and once a level has something to do.
    pub(super) fn due(&self) -> Instant {
        if self.unknown.is_some() {
            return self.due;
        }
        let next = self.levels.iter().map(Level::due).min();
        next.map_or(self.due, |next| next.max(self.due))
    }

    pub(super) fn next_slice(&mut self, from: From) -> Option<Levels<Span>> {
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

    pub(super) fn looked(&mut self, spans: Levels<Span>, looked: LookResult<'_>, bound: Duration) {
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
pub(super) fn last_of(jobs: &[ClaimedJob]) -> From {
    Priority::ALL.map(|priority| {
        let of_it = jobs.iter().filter(|job| job.priority == priority);
        of_it.map(|job| Position::of(job.run_at, job.id)).max()
    })
}

pub(super) fn narrower(width: Width) -> Width {
    width.divided(4)
}

/// So that a slice takes a fifth to a half of what it may.
pub(super) fn adapted(width: Width, took: Duration, bound: Duration) -> Width {
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
