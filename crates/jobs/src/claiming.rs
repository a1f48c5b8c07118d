//! One claim of a queue, within its limits if it has any: the same for Rust workers and for those that pull over HTTP.

use std::time::Duration;

use crate::client::Jobs;
use crate::ledger::{ClaimedJob, LedgerError};
use crate::limits::ClaimRequest;

/// What a claim gave.
#[derive(Debug)]
pub(crate) struct QueueClaim {
    pub jobs: Vec<ClaimedJob>,
    /// As many as were asked for: more may wait.
    pub more: bool,
    /// When another claim may give more although nothing rings.
    pub again_in: Option<Duration>,
    /// Whether the queue has limits. If that is not what the caller believed, nothing was claimed: it asks again.
    pub limited: bool,
}

/// A claim that failed.
#[derive(Debug)]
pub(crate) struct ClaimFailure {
    pub error: LedgerError,
    /// It was the claim itself, and not the question whether there are limits.
    pub while_claiming: bool,
}

fn claiming(error: LedgerError) -> ClaimFailure {
    ClaimFailure {
        error,
        while_claiming: true,
    }
}

fn asking(error: LedgerError) -> ClaimFailure {
    ClaimFailure {
        error,
        while_claiming: false,
    }
}

/// Claims up to `asked.room` jobs; `limited` is what the caller was told last.
pub(crate) async fn claim(
    jobs: &Jobs,
    asked: ClaimRequest<'_>,
    limited: bool,
) -> Result<QueueClaim, ClaimFailure> {
    if limited {
        let claimed = jobs.limits().claim(asked).await.map_err(claiming)?;
        return Ok(QueueClaim {
            more: claimed.jobs.len() >= asked.room,
            jobs: claimed.jobs,
            again_in: claimed.again_in,
            limited: claimed.limited,
        });
    }
    let ledger = jobs.ledger();
    let claimed = ledger
        .claim(asked.queue, asked.worker, asked.room, asked.lost_after)
        .await
        .map_err(claiming)?;
    let limited = claimed.is_empty() && jobs.limits().is_limited(asked.queue).await.map_err(asking)?;
    let more = claimed.len() >= asked.room;
    Ok(QueueClaim {
        jobs: claimed,
        more,
        again_in: if more {
            None
        } else {
            ledger.look_again_in(asked.queue)
        },
        limited,
    })
}
