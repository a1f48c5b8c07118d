//! How far the claims of a queue have come, so that a claim need not walk past what was claimed before.
//!
//! The index that claims go by keeps an entry of each job that was claimed until a vacuum takes it away, and while any
//! transaction in the database is old no vacuum may. A claim that always began at the head would walk past them all:
//! slower with each job of a backlog, and slow for hours beside one long report. So it begins where the claims before it
//! came to, queue by queue and priority by priority: at the *frontier*.
//!
//! # States
//! None yet (every claim looks at the whole queue), or a time for each priority at which something was claimed.
//!
//! # Invariants
//! - A frontier moves by what was claimed alone: an empty answer may mean a paused queue or a stale lease.
//! - It stays [`MARGIN`] behind the server's clock as it was at that claim: a job that another transaction is about to
//!   commit has a time of up to its own length ago.
//! - It saves work and decides nothing. A job may come to lie before it: committed later than that, enqueued for a time
//!   long past, put back with the time that it had, left by a claim that was rolled back. So one of the claims looks at
//!   the whole queue every [`REST`], or as seldom as keeps that to a hundredth of the time, but every [`LONGEST_REST`];
//!   after one that did not, [`Frontiers::look_again_in`] says when the next has to, though nothing rings. A peek at the
//!   whole queue that finds nothing due is as good.
//! - A whole look sets the frontiers anew, back too. What puts jobs back in this process makes the next look a whole one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::ledger::{ClaimedJob, Priority};

/// How far behind the newest claim a frontier stays.
const MARGIN: chrono::Duration = chrono::Duration::seconds(1);
/// Between two looks at a whole queue, where they cost little.
const REST: Duration = Duration::from_secs(1);
/// Between two looks at a whole queue, whatever they cost: as the safety poll of a worker that hears no bell.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// A whole look may take one part in this many of the time.
const SHARE: u32 = 100;

/// The earliest times that a claim looks at, for each priority; from the beginning where there is none.
pub(super) type From = [Option<DateTime<Utc>>; Priority::ALL.len()];

pub(super) const WHOLE: From = [None; Priority::ALL.len()];

/// The frontiers of the queues that this process claims from.
#[derive(Debug, Default)]
pub(super) struct Frontiers(Mutex<HashMap<String, Frontier>>);

#[derive(Debug)]
struct Frontier {
    from: From,
    /// When a claim is to look at the whole queue again.
    whole_due: Instant,
    /// The last claim did not look at the whole queue.
    partial: bool,
}

impl Frontier {
    fn new() -> Self {
        Self {
            from: WHOLE,
            whole_due: Instant::now(),
            partial: false,
        }
    }

    fn rest_after(&mut self, took: Duration) {
        self.whole_due = Instant::now() + (took * SHARE).clamp(REST, LONGEST_REST);
    }
}

impl Frontiers {
    /// Where the next claim begins.
    pub(super) fn of(&self, queue: &str) -> From {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(queue) {
            Some(frontier) if Instant::now() < frontier.whole_due => frontier.from,
            _ => WHOLE,
        }
    }

    /// What a claim from there on found. `at` is the server's clock then; `took` is how long the claim was at it.
    pub(super) fn claimed(
        &self,
        queue: &str,
        from: From,
        jobs: &[ClaimedJob],
        at: Option<DateTime<Utc>>,
        took: Duration,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if at.is_some() && !known.contains_key(queue) {
            known.insert(queue.to_owned(), Frontier::new());
        }
        let Some(frontier) = known.get_mut(queue) else {
            return;
        };
        frontier.partial = from != WHOLE;
        if !frontier.partial {
            frontier.rest_after(took);
        }
        let Some(newest) = at.map(|at| at - MARGIN) else {
            return;
        };
        for (priority, from) in Priority::ALL.into_iter().zip(&mut frontier.from) {
            let times = jobs.iter().filter(|job| job.priority == priority);
            if let Some(last) = times.map(|job| job.run_at).max() {
                *from = Some(last.min(newest));
            }
        }
    }

    /// What a look from there on came to. One at the whole queue that found nothing due counts; after one that did, it is for
    /// the claim to look there, too.
    pub(super) fn peeked(&self, queue: &str, from: From, is_due: bool, took: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if from == WHOLE
            && let Some(frontier) = known.get_mut(queue)
        {
            if is_due {
                frontier.whole_due = Instant::now();
            } else {
                frontier.partial = false;
                frontier.rest_after(took);
            }
        }
    }

    /// Jobs of any queue were put back: the next claims look at everything.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// When to claim again even if nothing rings. `None`: the last claim has looked at the whole queue.
    pub(super) fn look_again_in(&self, queue: &str) -> Option<Duration> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let frontier = known.get(queue).filter(|frontier| frontier.partial)?;
        Some(frontier.whole_due.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock;
    use serde_json::value::RawValue;

    use super::*;
    use crate::id::JobId;
    use crate::ledger::Options;

    const QUEUE: &str = "default";
    const QUICK: Duration = Duration::from_millis(1);

    fn job(priority: Priority, run_at: DateTime<Utc>) -> ClaimedJob {
        ClaimedJob {
            id: JobId::generate(),
            kind: "test".to_owned(),
            payload: RawValue::NULL.to_owned(),
            attempt: 0,
            crashes: 0,
            max_attempts: 1,
            timeout: QUICK,
            options: Options::default(),
            batch: None,
            priority,
            run_at,
            snoozes: 0,
            doubtful: false,
        }
    }

    fn ago(seconds: i64) -> DateTime<Utc> {
        clock::now() - chrono::Duration::seconds(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn each_priority_goes_on_from_its_last_claim_and_stays_behind_the_clock() {
        let frontiers = Frontiers::default();
        assert_eq!(frontiers.of(QUEUE), WHOLE);
        let (high, now) = (ago(90), clock::now());
        let jobs = [
            job(Priority::High, high),
            job(Priority::High, ago(100)),
            job(Priority::Normal, now),
        ];
        frontiers.claimed(QUEUE, WHOLE, &jobs, Some(now), QUICK);
        let expected = [Some(high), Some(now - MARGIN), None];
        assert_eq!(frontiers.of(QUEUE), expected);
        assert_eq!(frontiers.of("other"), WHOLE);
        assert_eq!(
            frontiers.look_again_in(QUEUE),
            None,
            "it has looked at everything"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_found_moves_nothing() {
        let frontiers = Frontiers::default();
        frontiers.claimed(QUEUE, WHOLE, &[], None, QUICK);
        assert_eq!(frontiers.of(QUEUE), WHOLE);
        let at = ago(50);
        frontiers.claimed(QUEUE, WHOLE, &[job(Priority::Low, at)], Some(clock::now()), QUICK);
        frontiers.claimed(QUEUE, WHOLE, &[], None, QUICK);
        assert_eq!(frontiers.of(QUEUE), [None, None, Some(at)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_queue_is_looked_at_again_and_again() {
        let frontiers = Frontiers::default();
        let claim = |from: From, took: Duration| {
            frontiers.claimed(
                QUEUE,
                from,
                &[job(Priority::Normal, ago(9))],
                Some(clock::now()),
                took,
            );
        };
        claim(WHOLE, QUICK);
        tokio::time::advance(REST / 2).await;
        claim(frontiers.of(QUEUE), QUICK);
        assert_eq!(frontiers.look_again_in(QUEUE), Some(REST / 2));
        tokio::time::advance(REST / 2).await;
        assert_eq!(frontiers.of(QUEUE), WHOLE);
        assert_eq!(frontiers.look_again_in(QUEUE), Some(Duration::ZERO));
        // The dearer, the seldomer; and in the end all the same.
        for (took, rest) in [
            (REST * 2 / SHARE, REST * 2),
            (Duration::from_hours(1), LONGEST_REST),
        ] {
            claim(WHOLE, took);
            tokio::time::advance(rest / 10 * 9).await;
            assert_ne!(frontiers.of(QUEUE), WHOLE);
            tokio::time::advance(rest / 10).await;
            assert_eq!(frontiers.of(QUEUE), WHOLE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peek_at_the_whole_queue_counts_unless_it_found_something() {
        let frontiers = Frontiers::default();
        let at = ago(9);
        frontiers.peeked(QUEUE, WHOLE, false, QUICK);
        assert_eq!(frontiers.of(QUEUE), WHOLE, "nothing is known of it yet");
        frontiers.claimed(
            QUEUE,
            WHOLE,
            &[job(Priority::Normal, at)],
            Some(clock::now()),
            QUICK,
        );
        let from = frontiers.of(QUEUE);
        frontiers.peeked(QUEUE, from, true, QUICK);
        assert_eq!(frontiers.of(QUEUE), from, "the claim finds it there");
        frontiers.claimed(QUEUE, from, &[], None, QUICK);
        tokio::time::advance(REST).await;
        frontiers.peeked(QUEUE, WHOLE, false, QUICK);
        assert_eq!(
            (frontiers.of(QUEUE), frontiers.look_again_in(QUEUE)),
            (from, None)
        );
        tokio::time::advance(REST).await;
        frontiers.peeked(QUEUE, WHOLE, true, QUICK);
        assert_eq!(frontiers.of(QUEUE), WHOLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_look_sets_the_frontier_back_to_what_it_found() {
        let frontiers = Frontiers::default();
        let claim = |from, at| {
            let jobs = [job(Priority::Normal, at)];
            frontiers.claimed(QUEUE, from, &jobs, Some(clock::now()), QUICK);
        };
        claim(WHOLE, ago(10));
        let late = ago(500);
        claim(WHOLE, late);
        assert_eq!(frontiers.of(QUEUE), [None, Some(late), None]);
    }
}
