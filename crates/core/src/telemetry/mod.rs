//! What a process tells of itself: logs (`logs.rs`), metrics (`metrics.rs`, listed in [`catalogue`]).
//!
//! None of it may stop or slow a service: a line that cannot be written is lost, and a sample costs tens of
//! nanoseconds and no lock that anybody waits for.

pub mod catalogue;
mod logs;
pub mod metrics;
mod process;

pub use self::logs::check_level;

use crate::config::LogSettings;

/// Starts logging and counting for this process. Later calls change nothing: `holdfast dev` and the tests run several
/// services in one process.
pub fn init(settings: &LogSettings, service: &'static str) {
    logs::init(settings, service);
    metrics::install();
}
