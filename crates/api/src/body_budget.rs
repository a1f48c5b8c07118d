//! How many bytes of bodies a process holds at once, over all of its requests.
//!
//! # Invariants
//! - A body's bytes are taken from the budget as they arrive, not as its head declares them: a declaration costs nothing.
//! - What is taken is given back when the request ends, since what is made of a body lives as long.
//! - The first [`HEAD`] bytes of every body come from a share of their own: a few large bodies do not keep the many small ones out.
//!
//! # When it is spent
//! The request is answered 503 with `Retry-After`, at once: to wait for others' bodies would hold one's own.

use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Problem, RETRY_AFTER};

/// The beginning of a body, in bytes, which has a share of its own.
const HEAD: usize = 65_536;

/// One part in so many is for the beginnings.
const HEADS_SHARE: usize = 4;

/// What a permit is of: a semaphore counts fewer of them than a large budget has bytes.
const UNIT: usize = 1_024;

/// The budget of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget {
    heads: Arc<Semaphore>,
    rest: Arc<Semaphore>,
}

/// What one body has taken; given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    bytes: usize,
    units: [usize; 2],
    permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Kept with the request until it ends.
struct Held {
    _taken: Taken,
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

    /// Takes what these further bytes of a body need.
    ///
    /// # Errors
    /// The budget is spent.
    pub(crate) fn take(&self, taken: &mut Taken, further: usize) -> Result<(), Problem> {
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
                .map_err(|_| spent())?;
            match &mut taken.permits[place] {
                Some(permits) => permits.merge(permit),
                none => *none = Some(permit),
            }
            taken.units[place] = units;
        }
        Ok(())
    }
}

impl Taken {
    /// Until the request ends.
    pub(crate) fn hold_with(self, request: &HttpRequest) {
        request.extensions_mut().insert(Held { _taken: self });
    }
}

fn spent() -> Problem {
    Problem::unavailable(
        "this server is reading as many bytes of bodies as it can hold (server.max_body_bytes_in_flight); try again",
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
        let mut large = Taken::default();
        budget.take(&mut large, 6 * MIB).unwrap();
        let mut second = Taken::default();
        assert!(budget.take(&mut second, MIB).is_err());
        drop(second);
        let mut small: Vec<Taken> = (0..16).map(|_| Taken::default()).collect();
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
        let mut taken = Taken::default();
        for _ in 0..2_048 {
            budget.take(&mut taken, 100).unwrap();
        }
        assert_eq!(taken.units, [64, 136]);
    }
}
