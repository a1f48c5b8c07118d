//! How many bytes of request bodies a process holds, over all of its requests.
//!
//! # Invariants
//! - Bytes are taken from the budget as they arrive, not by `Content-Length`: a declaration costs nothing.
//! - They are returned when the request ends, because the parsed body lives as long.
//! - The first [`HEAD`] bytes of every body come from a share of their own, so that a few large bodies do not block small ones.
//!
//! # When it is exhausted
//! The request is answered 503 with `Retry-After` immediately: a body that waited for others would hold its own bytes meanwhile.

use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Problem, RETRY_AFTER};

/// The first bytes of a body, which come from the share for heads.
const HEAD: usize = 65_536;

/// One part in this many is the share for heads.
const HEADS_SHARE: usize = 4;

/// Bytes of one permit: a semaphore's largest count is below the largest budget in bytes.
const UNIT: usize = 1_024;

/// The budget of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    heads: Arc<Semaphore>,
    rest: Arc<Semaphore>,
}

/// The bytes that one body has taken, returned on drop.
#[derive(Debug, Default)]
pub(super) struct BodyPermit {
    bytes: usize,
    units: [usize; 2],
    permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Keeps the permit with the request until it ends.
struct HeldBody {
    _taken: BodyPermit,
}

impl BodyBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let heads = (bytes / HEADS_SHARE).max(HEAD) / UNIT;
        let rest = bytes.saturating_sub(heads * UNIT) / UNIT;
        Self {
            heads: Arc::new(Semaphore::new(heads)),
            rest: Arc::new(Semaphore::new(rest)),
        }
    }

    /// Takes `further` bytes of a body from the budget.
    ///
    /// # Errors
    /// The budget is exhausted: 503.
    pub(super) fn take(&self, taken: &mut BodyPermit, further: usize) -> Result<(), Problem> {
        taken.bytes += further;
        let shares = [taken.bytes.min(HEAD), taken.bytes.saturating_sub(HEAD)];
        for (place, (share, budget)) in shares.into_iter().zip([&self.heads, &self.rest]).enumerate() {
            let units = share.div_ceil(UNIT);
            let missing = u32::try_from(units - taken.units[place]).unwrap_or(u32::MAX);
            if missing == 0 {
                continue;
            }
            let permit = Arc::clone(budget)
                .try_acquire_many_owned(missing)
                .map_err(|_| exhausted())?;
            match &mut taken.permits[place] {
                Some(permits) => permits.merge(permit),
                none => *none = Some(permit),
            }
            taken.units[place] = units;
        }
        Ok(())
    }
}

impl BodyPermit {
    /// Holds the bytes until the request ends.
    pub(super) fn hold_with(self, request: &HttpRequest) {
        request.extensions_mut().insert(HeldBody { _taken: self });
    }
}

fn exhausted() -> Problem {
    Problem::unavailable(
        "the bodies of other requests fill server.max_body_bytes_in_flight; try again",
        RETRY_AFTER,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1_048_576;

    #[test]
    fn large_bodies_leave_room_for_small_ones_and_give_theirs_back() {
        let budget = BodyBudget::new(8 * MIB);
        let mut large = BodyPermit::default();
        budget.take(&mut large, 6 * MIB).unwrap();
        let mut second = BodyPermit::default();
        assert!(budget.take(&mut second, MIB).is_err());
        drop(second);
        let mut small: Vec<BodyPermit> = (0..16).map(|_| BodyPermit::default()).collect();
        for one in &mut small {
            budget.take(one, HEAD).unwrap();
        }
        drop((large, small));
        assert_eq!(
            budget.heads.available_permits() + budget.rest.available_permits(),
            8 * MIB / UNIT
        );
    }

    #[test]
    fn a_body_that_comes_in_pieces_takes_no_more_than_its_bytes() {
        let budget = BodyBudget::new(8 * MIB);
        let mut taken = BodyPermit::default();
        for _ in 0..2_048 {
            budget.take(&mut taken, 100).unwrap();
        }
        assert_eq!(taken.units, [64, 136]);
    }
}
