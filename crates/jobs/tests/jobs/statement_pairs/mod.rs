//! Every pair of the ledger's operations on PostgreSQL: one is stopped at each of its steps while the other runs to its end,
//! then its client gives it up, then it goes on.
//!
//! # How
//! Triggers on every table stop the first operation (A): before each statement that writes, before the first and the second
//! row of each, and at the commit. They wait in a loop and not for a lock, so that no lock timeout ends the stop.
//! Meanwhile the second operation (B) runs in a process of its own, as far as the ledger is concerned: it ends, or it is told
//! of contention. Then A goes on; in every other pair its client has dropped it before. With `HOLDFAST_TEST_PAIRS=both` each pair
//! meets twice, with a client that waits and with one that gives up: nightly, since it takes twice as long.
//!
//! # What is checked
//! [`verdict`] has the invariants. They are read from the rows, and from a log of every change of a job that a trigger keeps.
//! At last a fresh worker must be able to bring every job to its end.
//!
//! # Complete
//! [`operations::Operation::ALL`] is held against the methods of the trait `Ledger` and against the names under which units of
//! work are run in `crates/jobs/src`: a new one fails the test until it is in the pairs or named as one that only reads. The
//! executor's own list of what it has run must agree with both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

mod complete;
mod operations;
mod stops;
mod verdict;
mod world;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::statement_pairs::operations::Operation;
use crate::statement_pairs::stops::Arena;
use crate::statement_pairs::world::Hall;

/// Arenas at work at once. Most of their time is waiting for locks that B cannot have.
const ARENAS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_stopped_in_its_middle_and_goes_on_later_breaks_no_invariant() {
    let hall = Arc::new(Hall::open().await);
    let room = Arc::new(Semaphore::new(ARENAS));
    let mut groups = JoinSet::new();
    for first in Operation::ALL {
        let (hall, room) = (Arc::clone(&hall), Arc::clone(&room));
        groups.spawn(async move {
            let _place = room.acquire().await.unwrap();
            let arena = Arena::open(&hall, first).await;
            arena.meet_all().await
        });
    }
    let reports = groups.join_all().await;
    let pairs: usize = reports.iter().map(|report| report.runs).sum();
    let contended: usize = reports.iter().map(|report| report.contended).sum();
    let broken: Vec<String> = reports.into_iter().flat_map(|report| report.broken).collect();
    println!(
        "{pairs} runs, {contended} of them with a B that was told to try later, {} broken",
        broken.len()
    );
    assert!(
        pairs > Operation::ALL.len() * Operation::ALL.len(),
        "{pairs} runs are not every pair"
    );
    complete::check_against_the_executor();
    assert!(
        broken.is_empty(),
        "{} broken:\n{}",
        broken.len(),
        broken.join("\n")
    );
}
