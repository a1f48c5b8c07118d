//! How long events last.

use chrono::{DateTime, TimeDelta, Utc};

use super::when::Span;
use super::zone::Begin;

/// How long an event, or each of its occurrences, lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Unknown,
    /// Days by the local clock, which may have 23 or 25 hours, and then elapsed time. RFC 5545 reads `DURATION` so; the time
    /// between `DTSTART` and `DTEND` is elapsed time, unless both are days.
    Known(Span),
}

impl Length {
    pub(super) fn days(days: i64) -> Self {
        Self::Known(Span { days, seconds: 0 })
    }

    pub(super) fn elapsed(span: TimeDelta) -> Self {
        Self::Known(Span {
            days: 0,
            seconds: span.num_seconds(),
        })
    }

    pub(super) fn end(self, begin: &Begin) -> Option<DateTime<Utc>> {
        let Self::Known(span) = self else { return None };
        let seconds = TimeDelta::try_seconds(span.seconds)?;
        if span.days == 0 {
            return begin.utc().checked_add_signed(seconds);
        }
        let local = begin.local.checked_add_signed(TimeDelta::try_days(span.days)?)?;
        begin.zone.to_utc(local).checked_add_signed(seconds)
    }

    /// At most, about.
    pub(super) fn span(self) -> TimeDelta {
        match self {
            Self::Unknown => TimeDelta::zero(),
            // A day may be longer by an hour or so.
            Self::Known(span) => span.about() + TimeDelta::days(span.days.signum()),
        }
    }
}
