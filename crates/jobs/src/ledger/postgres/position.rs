//! Places in the order of the claim's index, and ranges of them.
//!
//! The index orders the jobs of a queue and a priority by time, then by id. Jobs that were enqueued by one statement, or
//! scheduled for one moment, have the same time by the hundred thousand, so a place is both.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use uuid::Uuid;

use crate::id::JobId;
use crate::ledger::Priority;

/// Bits of a position that are the upper half of the id. Ids that share it were made in one millisecond.
const ID_BITS: u32 = 64;

/// One value for each priority.
pub(super) type Levels<T> = [T; Priority::ALL.len()];

/// A time in microseconds since the epoch, then the upper half of an id, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(i128);

/// A distance between two positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Width(i128);

/// Where a claim begins for each priority; `None`: at the beginning of the index.
pub(super) type From = Levels<Option<Position>>;

/// Where a claim looks for jobs of one priority: from `since` up to and without `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// `None`: from the beginning.
    pub since: Option<Position>,
    /// `None`: up to what is due.
    pub until: Option<Position>,
}

impl Position {
    pub(super) fn of(run_at: DateTime<Utc>, id: JobId) -> Self {
        let half = (id.as_uuid().as_u128() >> ID_BITS) as u64;
        Self((i128::from(run_at.timestamp_micros()) << ID_BITS) | i128::from(half))
    }

    /// Before every job of that time.
    pub(super) fn at(time: DateTime<Utc>) -> Self {
        Self(i128::from(time.timestamp_micros()) << ID_BITS)
    }

    pub(super) fn time(self) -> DateTime<Utc> {
        let micros = i64::try_from(self.0 >> ID_BITS).unwrap_or_default();
        DateTime::from_timestamp_micros(micros).unwrap_or_default()
    }

    /// The smallest id at this position.
    pub(super) fn id(self) -> Uuid {
        Uuid::from_u128(u128::from(self.0 as u64) << ID_BITS)
    }

    /// So far before this one; `None` where that is before 1970, when no job was due.
    pub(super) fn minus(self, width: Width) -> Option<Self> {
        let before = self.0.saturating_sub(width.0);
        (before > 0).then_some(Self(before))
    }

    pub(super) fn plus(self, width: Width) -> Self {
        // Bounded, so that it is a time that both chrono and PostgreSQL can hold.
        Self(self.0.saturating_add(width.0).min(Width::LARGEST.0 * 2))
    }
}

impl Width {
    /// A single position.
    const SMALLEST: Self = Self(1);
    /// A thousand years.
    const LARGEST: Self = Self::of_seconds(1_000 * 366 * 86_400);

    pub(super) const fn of_seconds(seconds: i64) -> Self {
        Self((seconds as i128 * 1_000_000) << ID_BITS)
    }

    pub(super) fn times(self, factor: i128) -> Self {
        Self(self.0.saturating_mul(factor).min(Self::LARGEST.0))
    }

    pub(super) fn divided(self, by: i128) -> Self {
        Self((self.0 / by).max(Self::SMALLEST.0))
    }
}

impl Span {
    pub(super) const WHOLE: Self = Self {
        since: None,
        until: None,
    };

    /// Before the first job that can be.
    pub(super) const NOTHING: Self = Self {
        since: None,
        until: Some(Position(0)),
    };
}

/// Binds where a claim begins: for each priority a time and an id.
pub(super) fn bind_since(
    query: Query<'_, Postgres, PgArguments>,
    from: From,
) -> Query<'_, Postgres, PgArguments> {
    from.into_iter().fold(query, |query, position| {
        query
            .bind(position.map(Position::time))
            .bind(position.map(Position::id))
    })
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock;

    use super::*;

    #[test]
    fn positions_order_as_the_index_does_and_give_back_what_they_were_made_of() {
        let now = DateTime::from_timestamp_micros(clock::now().timestamp_micros()).unwrap();
        let later = now + chrono::Duration::microseconds(1);
        let (first, second) = (JobId::first_of_ms(1), JobId::first_of_ms(2));
        let order = [
            Position::at(now),
            Position::of(now, first),
            Position::of(now, second),
            Position::at(later),
            Position::of(later, first),
        ];
        assert!(order.is_sorted());
        assert_eq!((order[2].time(), order[2].id()), (now, second.as_uuid()));
        assert_eq!(order[3].id(), Uuid::nil());
    }

    #[test]
    fn a_step_back_from_any_width_comes_to_the_beginning_and_never_beyond() {
        let now = Position::at(clock::now());
        assert_eq!(now.minus(Width::LARGEST), None);
        assert_eq!(
            now.minus(Width::of_seconds(1))
                .map(|at| at.plus(Width::of_seconds(1))),
            Some(now)
        );
        let small = Width::of_seconds(1).divided(i128::MAX);
        assert!(now.minus(small).unwrap() < now);
        assert!(now.plus(Width::LARGEST.times(9)).time() > clock::now());
    }
}
