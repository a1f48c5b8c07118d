//! Weather by numbers: a seed draws a schedule of faults, and a whole cluster has to live through it.
//!
//! The same seed draws the same schedule ([`Schedule::draw`]); what the machine makes of it differs from run to run, as
//! it does in life. Dependencies fail one at a time, with a pause in between that is long enough for a heartbeat, so
//! that no lease is lost for any other reason than the death or the sleep of its worker: whatever runs twice otherwise
//! is a fault of ours. Processes are killed, stopped and restarted independently of that, also while a dependency is
//! away.

mod foreign;
mod run;
mod schedule;

pub use run::run;
pub use schedule::{Disaster, Event, Pace, Schedule, Step};
