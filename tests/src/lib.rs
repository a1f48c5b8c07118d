//! What black-box tests share: a whole Holdfast of real processes, and the proof of what it did.
//!
//! A [`Cluster`] is the built binaries before real servers, with a [`Receiver`](holdfast_testkit::Receiver) that counts
//! every execution. [`Load`] enqueues `http.request` jobs with distinct ids and keeps each answer in the [`Record`]. At
//! the end [`Cluster::conclude`] holds the three accounts against each other (what was accepted, what was executed, what
//! the ledger and Redis say) and makes the [`Report`]: one row of the table, and every broken promise by name.
//!
//! Invariants:
//! - The harness believes nothing that the system says of itself where it can look from outside: executions are counted
//!   by the receiver, states are read from SQL and Redis directly.
//! - A job is named by the id that the producer gave it (*own id*), which travels in the URL that it calls.
//! - A second execution is excused only by what was seen when a process was killed or stopped ([`Excuse`]), or by the
//!   crash that the ledger has counted for exactly this job.
//! - Only processes started here are signalled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a broken harness must stop the test at once"
)]

mod account;
mod allowed_duplicates;
mod broker;
pub mod chaos;
mod cluster;
mod fault;
mod health;
mod ledger;
mod load;
mod logs;
mod preload;
mod process;
mod process_faults;
mod record;
mod report;
mod setup;

pub use allowed_duplicates::Excuse;
pub use broker::RedisTruth;
pub use cluster::Cluster;
pub use fault::{Dependency, Fault};
pub use health::{HealthSample, HealthWatch};
pub use ledger::{JobRow, LedgerTruth};
pub use load::{Load, Repeat, Running, Target};
pub use logs::LogLine;
pub use preload::{StallingDisk, SteppingClock, clock_off_by};
pub use process::{API_KEY, ManagedProcess, Role};
pub use record::{AcceptedJob, Answer, Record, RequestRecord};
pub use report::{Expect, Report};
pub use setup::{ClusterBuilder, Durability, Setup};
