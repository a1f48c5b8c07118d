//! What every worker does beside its jobs. Safe to run in any number of processes at once, and bounded in each step.
//!
//! - [`rescuer`]: returns what lost workers held, and what no worker holds, in the ledger and on the broker.
//! - [`set_back`]: makes jobs due that a clock which was set back has put off.
//! - [`pruner`]: deletes finished rows past their retention.
//! - [`janitor`]: on the broker, what nobody owns any more.

mod janitor;
mod pruner;
mod rescuer;
mod set_back;

use std::sync::Arc;

use crate::worker::WorkerState;

/// Runs the duties until the task is dropped.
pub(crate) async fn run(shared: Arc<WorkerState>) {
    tokio::join!(
        rescuer::run(&shared),
        rescuer::run_orphans(&shared),
        rescuer::run_broker(&shared),
        pruner::run(&shared),
        janitor::run(&shared)
    );
}
