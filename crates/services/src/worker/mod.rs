//! The worker service: a [`holdfast_jobs::worker::Worker`] with what a process around it needs.
//!
//! It waits for the database and its schema, serves its health on `PORT` (`health.rs`), and has the
//! watchdog ask over connections that nothing else uses (`probes.rs`). Claiming, running and finishing jobs is the
//! business of [`holdfast_jobs`].
//!
//! # When things fail
//! - *PostgreSQL or Redis are away at the start*: the process stays, says so in its log and at `/health`, and begins to
//!   work when the database is there. Redis is not waited for.
//! - *They go away later*: see [`holdfast_jobs::worker`]. No outage ends the process.
//! - *The port is taken, a migration fails, the password is wrong*: it ends at once, and says why.
//! - *It has gone deaf*: it ends with [`holdfast_jobs::worker::DEAF_EXIT_CODE`], for the platform to start it anew.

mod health;
mod probes;
mod service;
mod start;

pub use health::WorkerProbe;
pub use service::{WorkError, run_worker};
pub use start::{RunError, SERVICE, main, run};

/// How far a worker has come.
pub type Progress = crate::progress::Progress<holdfast_jobs::worker::Watchdog>;
