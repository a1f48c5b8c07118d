//! Autoscaling: a duty of the beat that sets how many replicas of a service a platform runs, by what the queues need.
//!
//! # States
//! Of the duty: `follower` (another beat decides) → `leader` (this beat decides) → `follower` again once another beat took over. Of a service, as
//! the leader knows it: `steady` → `lower since T` (fewer replicas would do) → lowered after the cool-down, and `steady` again. Higher need
//! ends `lower` immediately.
//!
//! # Invariants
//! - One beat of all decides in a period. Leadership is a slot of the database's clock that is claimed in SQL; a follower claims only what
//!   the leader left out for two periods. A beat that was stopped, frozen or partitioned from the database claims nothing and decides nothing.
//! - The platform's own number is read before each decision, and each change names the number it wants. What a lost answer did or did not do
//!   is so seen in the next round, and repeating a change changes nothing.
//! - Replicas stay between the service's bounds. They are raised immediately, to at most twice as many or `autoscale.max_step` more; they are
//!   lowered only after the need was lower for the whole cool-down, and then to the highest need of that time.
//! - Figures that are not trusted, and figures that cannot be read, never lower anything.
//! - Each call has a deadline, and its answer a bounded size. A fault of one service leaves the others alone, and no fault ends the duty or
//!   delays a tick of the beat.
//!
//! # When things fail
//! - *The database is unavailable*: no beat leads; the replicas stay as they are.
//! - *The platform refuses, is slow or unavailable*: the fault is in the log once until it ends, counted in
//!   `holdfast_autoscale_rounds_total`, and the next round tries again. A change whose answer was late may have taken effect.
//! - *The leader dies*: another beat leads after three periods. It begins each cool-down anew, so that lowering is delayed and never early.
//! - *Something else changes the replicas*: it is noticed in the next round and corrected like any other difference.

mod decision;
pub mod driver;
mod duty;
mod product;
mod settings;

pub use self::decision::{Bounds, Decision, History, Need};
pub use self::duty::{Autoscaler, Round, ServiceRound};
pub use self::product::{AutoscaleProduct, action};
pub use self::settings::{
    AutoscaleSettings, DriverChoice, KubernetesSettings, RailwaySettings, ScaledService,
};
