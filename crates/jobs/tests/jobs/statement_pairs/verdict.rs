//! What must hold after every pair.
//!
//! At once: no row is running under a worker without a row (but those that were so from the beginning), no fence was given
//! twice, nothing left a final state but a dead letter that was put back, what was asked to cancel did not become available
//! again, and a batch's counts and its pending rows make its total.
//!
//! After a fresh worker has rescued, claimed and finished until nothing is left: every job has ended, every batch has ended with
//! one callback, one job follows the completed job of a chain, what was accepted is there, and no unique key is blocked.

use std::time::{Duration, Instant};

use holdfast_jobs::JobId;
use holdfast_jobs::follow_ups::{self, FollowedOutcome};
use holdfast_jobs::ledger::{ClaimedJob, IdRange, InsertOutcome, Insertion, LedgerError, NewJob, Outcome};
use holdfast_jobs::limits::ClaimRequest;

use crate::statement_pairs::stops::{Arena, run_sql};
use crate::statement_pairs::world::{LIMITED, Side};
use crate::support::{LOST_AFTER, new_job, report};

/// A look that a claim leaves for later comes sooner.
const QUIET: Duration = Duration::from_secs(30);

pub(crate) async fn of(arena: &mut Arena, accepted: &[JobId]) -> Vec<String> {
    let mut faults = faults(arena, false).await;
    faults.extend(missing(arena, accepted).await);
    let fresh = arena.b.with_fresh_ledger();
    run_sql(&mut arena.control, "call pairs_leave()").await;
    match bring_to_an_end(arena, &fresh).await {
        Ok(()) => faults.extend(blocked_keys(&fresh).await),
        Err(error) => faults.push(format!("a fresh worker could not go on: {error:?}")),
    }
    faults.extend(self::faults(arena, true).await);
    faults.sort();
    faults.dedup();
    faults
}

async fn faults(arena: &mut Arena, ended: bool) -> Vec<String> {
    sqlx::query_scalar("select * from pairs_faults($1)")
        .bind(ended)
        .fetch_all(&mut arena.control)
        .await
        .unwrap()
}

async fn missing(arena: &mut Arena, accepted: &[JobId]) -> Vec<String> {
    let mut gone = Vec::new();
    for id in accepted {
        let there: bool = sqlx::query_scalar("select exists (select from holdfast_jobs where id = $1)")
            .bind(id.as_uuid())
            .fetch_one(&mut arena.control)
            .await
            .unwrap();
        if !there {
            gone.push(format!("{id} was accepted, and is not there"));
        }
    }
    gone
}

/// Rescues, claims and finishes as a worker and its maintenance do.
async fn bring_to_an_end(arena: &mut Arena, fresh: &Side) -> Result<(), LedgerError> {
    fresh.ledger.register(&report(fresh.worker)).await?;
    let began = Instant::now();
    while began.elapsed() < QUIET {
        fresh.ledger.rescue(LOST_AFTER, 3, 100).await?;
        fresh.ledger.rescue_orphans(IdRange::ALL, 3, 100).await?;
        let asked = ClaimRequest {
            queue: LIMITED,
            worker: fresh.worker,
            room: 100,
            lost_after: LOST_AFTER,
        };
        let mut claimed = fresh
            .ledger
            .claim("default", fresh.worker, 100, LOST_AFTER)
            .await?;
        claimed.extend(fresh.limits.claim(asked).await?.jobs);
        finish(fresh, &claimed).await?;
        fresh.jobs.batches().sweep(10).await?;
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from holdfast_jobs where state in ('available', 'running'))
                  + (select count(*) from holdfast_batches where ended_at is null)",
        )
        .fetch_one(&mut arena.control)
        .await
        .unwrap();
        if left == 0 {
            return Ok(());
        }
        if claimed.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

async fn finish(fresh: &Side, claimed: &[ClaimedJob]) -> Result<(), LedgerError> {
    let outcomes: Vec<(Outcome, Option<FollowedOutcome>)> = claimed
        .iter()
        .map(|job| {
            let outcome = Outcome::Completed {
                fence: job.fence(),
                result: None,
            };
            let tied = FollowedOutcome::of(job, &outcome);
            (outcome, tied)
        })
        .collect();
    let (tied, plain): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, tied)| tied.is_some());
    let plain: Vec<Outcome> = plain.into_iter().map(|(outcome, _)| outcome).collect();
    let tied: Vec<FollowedOutcome> = tied.into_iter().filter_map(|(_, tied)| tied).collect();
    if !plain.is_empty() {
        fresh.ledger.finish(fresh.worker, &plain).await?;
    }
    if !tied.is_empty() {
        follow_ups::finish(&fresh.sql, fresh.worker, &tied).await?;
    }
    Ok(())
}

/// Keys that a new job cannot have although nothing waits or runs under them.
async fn blocked_keys(fresh: &Side) -> Vec<String> {
    let mut blocked = Vec::new();
    for key in ["waiting", "running", "dead", "new"] {
        let job = NewJob {
            unique_key: Some(key.to_owned()),
            discarded: false,
            ..new_job()
        };
        let dry = Insertion {
            dry: true,
            ..Insertion::WHOLE
        };
        match fresh.ledger.insert_as(&[job], dry).await.as_deref() {
            Ok([InsertOutcome::New(_)]) => {}
            other => blocked.push(format!("the unique key {key:?} is blocked: {other:?}")),
        }
    }
    blocked
}
