//! Recurrence rules, followed within bounds.
//!
//! # How
//! Rules run in local time without a zone: an event at eight is at eight, winter and summer. A rule is read ([`Rule`]),
//! measured, and then walked period by period ([`walk`]): a period is the year, month, week, day, hour, minute or second of
//! its `FREQ`, and every moment of it is offered in order. The walk begins at the window, not at `DTSTART`, wherever the
//! rule's `COUNT` does not require counting from the first occurrence.
//!
//! The `rrule` crate is not used outside the tests: it collects whole periods (31 million moments of a year, for 599 bytes of
//! calendar) and cannot be interrupted inside `next`. The tests compare both over random rules.
//!
//! # Invariants
//! - A rule that could name more than [`MAX_PERIOD`] moments in one period is refused before anything is expanded.
//! - Every period, day and moment that is looked at is charged to a [`Meter`]: [`MAX_STEPS`] of one rule,
//!   [`MAX_ALL_STEPS`] of a document. The meter also notices that the parse was cancelled or has taken too long.
//! - Memory: the moments of one period, and [`MAX_OCCURRENCES`] results.

mod rule;
#[cfg(test)]
mod tests;
mod walk;

use std::cell::Cell;
use std::ops::ControlFlow;

use chrono::NaiveDateTime;

use self::rule::Rule;
use crate::discovery::parse::Stop;

/// Steps of one rule: every day of 300 years, twice.
pub const MAX_STEPS: usize = 250_000;

/// Steps of everything in one document; a fraction of a second.
pub const MAX_ALL_STEPS: usize = 5_000_000;

/// Occurrences of one event within the window.
pub const MAX_OCCURRENCES: usize = 1_000;

/// Moments that a rule may name in one of its periods: every hour of a year, or every minute of six days.
pub const MAX_PERIOD: u64 = 10_000;

/// Longest rule, in bytes: every value of every part, once, takes less.
const MAX_RULE: usize = 16_384;

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: usize = 256;

/// What a document may still cost.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    left: Cell<usize>,
    until_look: Cell<usize>,
    stopped: Cell<bool>,
    stop: &'a Stop,
}

/// Why a walk ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// The steps of the document are spent.
    Spent,
    /// The parse was cancelled, or has taken too long.
    Stopped,
}

impl<'a> Meter<'a> {
    pub(super) fn new(stop: &'a Stop) -> Self {
        Self::with(MAX_ALL_STEPS, stop)
    }

    fn with(steps: usize, stop: &'a Stop) -> Self {
        Self {
            left: Cell::new(steps),
            until_look: Cell::new(0),
            stopped: Cell::new(false),
            stop,
        }
    }

    /// Charges steps.
    ///
    /// # Errors
    /// The document has spent its steps or its time.
    pub(super) fn charge(&self, steps: usize) -> Result<(), Halt> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(steps));
        match self.until_look.get().checked_sub(steps) {
            Some(rest) => self.until_look.set(rest),
            None if self.is_stopped() => return Err(Halt::Stopped),
            None => self.until_look.set(STEPS_PER_LOOK),
        }
        if left < steps { Err(Halt::Spent) } else { Ok(()) }
    }

    /// Whether the parse has to end now.
    pub(super) fn is_stopped(&self) -> bool {
        if !self.stopped.get() {
            self.stopped.set(self.stop.is_due());
        }
        self.stopped.get()
    }
}

/// Where a rule led.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RuleDates {
    /// Within the window, in their order.
    pub(super) dates: Vec<NaiveDateTime>,
    /// There are more than [`MAX_OCCURRENCES`] of them; these are the first.
    pub(super) cut: bool,
}

/// When a series begins, by its own clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) local: NaiveDateTime,
    pub(super) whole_day: bool,
}

/// What is asked of a rule, by the series' own clock; both ends belong to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: NaiveDateTime,
    pub(super) until: NaiveDateTime,
}

/// Follows a rule from `start`, and returns what lies in the window. `to_local` converts `UNTIL`, which is in UTC.
///
/// # Errors
/// Why the rule cannot be followed.
pub(super) fn follow(
    text: &str,
    start: Start,
    to_local: &dyn Fn(NaiveDateTime) -> NaiveDateTime,
    window: Window,
    meter: &Meter<'_>,
) -> Result<RuleDates, String> {
    let fault = |reason: &dyn std::fmt::Display| {
        let begins: String = text.chars().take(80).collect();
        format!("its rule {begins:?} cannot be used: {reason}")
    };
    if text.len() > MAX_RULE {
        return Err(fault(&format!("it is longer than {MAX_RULE} bytes")));
    }
    let rule = Rule::parse(text, start, to_local).map_err(|reason| fault(&reason))?;
    let moments = rule.moments_per_period();
    if moments > MAX_PERIOD {
        let reason = format!("it may name {moments} moments in one period, more than {MAX_PERIOD}");
        return Err(fault(&reason));
    }
    let mut followed = RuleDates::default();
    let mut steps = 0;
    let mut charge = |count: usize| {
        steps += count;
        if steps > MAX_STEPS {
            return Err(format!("it takes more than {MAX_STEPS} steps"));
        }
        meter.charge(count).map_err(|halt| match halt {
            Halt::Spent => format!("the calendar's rules take more than {MAX_ALL_STEPS} steps together"),
            Halt::Stopped => "the calendar takes too long to read".to_owned(),
        })
    };
    walk::walk(&rule, start.local, window, &mut charge, &mut |moment| {
        if followed.dates.len() == MAX_OCCURRENCES {
            followed.cut = true;
            return ControlFlow::Break(());
        }
        followed.dates.push(moment);
        ControlFlow::Continue(())
    })
    .map_err(|reason| fault(&reason))?;
    Ok(followed)
}
