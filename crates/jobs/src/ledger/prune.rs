//! How far the pruner has come among completed and cancelled jobs.
//!
//! They are found by the primary key, which is the order of creation: an index of their ends would cost every finish a
//! tenth. What stands before them and is kept (dead letters for 30 days, a job scheduled for next year) would be read again
//! by each step, and so would the entries of deleted rows that no vacuum may remove yet. So a step goes on from a cursor and
//! reads [`WINDOW`] rows at most. Once the cursor has come to the newest row that can be deleted it stays there, and follows
//! the clock; [`RESTART`] later the walk begins again, for what ended long after it was created. A step that the server
//! ended for taking too long is tried again from halfway to the newest row; what lies before is left to a later walk.
//!
//! The cursor is in the memory of each process, decides nothing, and is lost without harm.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::clock;
use tokio::time::Instant;

use super::Retention;
use crate::id::JobId;

/// Rows that one step reads at most.
pub(super) const WINDOW: i64 = 20_000;

/// From the end of one walk to the beginning of the next.
const RESTART: Duration = Duration::from_mins(10);

/// Jobs are taken to end within this time after their creation, or within their retention if that is shorter. What ends
/// later is found by the next walk.
const SLACK: Duration = Duration::from_mins(1);

/// Where a walk goes on that takes too long from its beginning, at most so long ago.
const FAR_BACK_MS: u64 = 366 * 24 * 3_600 * 1_000;

#[derive(Debug, Default)]
pub(super) struct PruneCursor(Mutex<Cursor>);

#[derive(Debug, Default)]
struct Cursor {
    /// `None`: at the beginning.
    at: Option<JobId>,
    ended: Option<Instant>,
}

impl PruneCursor {
    /// A step looks at ids after the first and before the second of these.
    pub(super) fn next(&self, retention: &Retention) -> (JobId, JobId) {
        let mut cursor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cursor.ended.is_some_and(|at| at.elapsed() >= RESTART) {
            *cursor = Cursor::default();
        }
        let age = u64::try_from((retention.completed + SLACK.min(retention.completed)).as_millis())
            .unwrap_or(u64::MAX);
        let newest = JobId::first_of_ms(clock::unix_millis().saturating_sub(age));
        (cursor.at.unwrap_or(JobId::first_of_ms(0)), newest)
    }

    /// A step has read up to `at`; `None`: up to the newest.
    pub(super) fn read_up_to(&self, at: Option<JobId>) {
        let mut cursor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match at {
            Some(at) => cursor.at = cursor.at.max(Some(at)),
            None => {
                cursor.ended.get_or_insert_with(Instant::now);
            }
        }
    }

    /// A step between the two took too long.
    pub(super) fn took_too_long(&self, (after, newest): (JobId, JobId)) {
        let (newest, after) = (newest.created_ms(), after.created_ms());
        let begin = after.max(newest.saturating_sub(FAR_BACK_MS));
        let halfway = begin + newest.saturating_sub(begin).div_ceil(2);
        self.read_up_to(Some(JobId::first_of_ms(halfway)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Retention = Retention {
        completed: Duration::from_hours(1),
        discarded: Duration::from_hours(2),
    };

    #[tokio::test(start_paused = true)]
    async fn steps_go_on_from_the_cursor_and_a_walk_begins_again_after_its_end() {
        let cursor = PruneCursor::default();
        let beginning = JobId::first_of_ms(0);
        assert_eq!(cursor.next(&RETENTION).0, beginning);
        let read = JobId::first_of_ms(77);
        cursor.read_up_to(Some(read));
        tokio::time::advance(RESTART * 2).await;
        assert_eq!(
            cursor.next(&RETENTION).0,
            read,
            "a walk that has not ended goes on"
        );
        cursor.read_up_to(None);
        assert_eq!(cursor.next(&RETENTION).0, read, "and follows the clock");
        tokio::time::advance(RESTART).await;
        assert_eq!(cursor.next(&RETENTION).0, beginning);
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_that_takes_too_long_comes_near_the_newest_row_in_a_few_steps() {
        let cursor = PruneCursor::default();
        for _ in 0..36 {
            cursor.took_too_long(cursor.next(&RETENTION));
        }
        let (after, newest) = cursor.next(&RETENTION);
        assert!(newest.created_ms().saturating_sub(after.created_ms()) < 5_000);
    }
}
