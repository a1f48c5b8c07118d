//! What a process tells of itself: logs (`logs.rs`), metrics (`metrics.rs`, listed in [`catalogue`]), [`traces`].
//!
//! None of it may stop or slow a service: a line that cannot be written is lost, and a sample costs tens of
//! nanoseconds and no lock that anybody waits for.

pub mod catalogue;
mod logs;
pub mod metrics;
mod process;
pub mod traces;

pub use self::logs::check_level;

use crate::config::{LogSettings, Settings};

/// Starts all of it for this process. What [`init`] says of later calls holds here too.
pub fn start(settings: &Settings, service: &'static str) {
    init(&settings.log, service);
    traces::start(&settings.traces, service);
}

/// Lets out what is still on its way. Blocks for two seconds at most; the last thing a process does.
pub fn finish() {
    traces::finish();
}

/// Starts logging and counting for this process. Later calls change nothing: `holdfast dev` and the tests run several
/// services in one process.
pub fn init(settings: &LogSettings, service: &'static str) {
    logs::init(settings, service);
    metrics::install();
}
