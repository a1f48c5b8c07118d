//! The beat service: a [`holdfast_jobs::schedules::Ticker`] with what a process around it needs.
//!
//! It refuses to start with an invalid schedule in its configuration, waits for the database and its schema,
//! puts the configuration's schedules there, ticks, and serves its health on `PORT`. What a tick is, and why any number
//! of beats makes one job of it, is the business of [`holdfast_jobs::schedules`].
//!
//! # When things fail
//! - *The database is away*, at the start or later: the process stays, says so in its log and at `/health`, and catches
//!   up when it is there.
//! - *Redis is away*: nothing is lost, and a job is picked up by a worker's poll instead of a ring.
//! - *The port is taken, a migration fails, the password is wrong, a configured schedule is invalid*: it ends at once,
//!   and says why.

mod health;
mod service;
mod start;

pub use health::BeatProbe;
pub use service::{BeatError, run_beat};
pub use start::{RunError, SERVICE, main, run};

/// How far a beat has come.
pub type Progress = crate::progress::Progress<holdfast_jobs::schedules::Vitals>;
