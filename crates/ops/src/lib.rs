//! The operator's tools as libraries: checks of a system ([`validate`]), a deployment onto Railway ([`deploy`]),
//! monitoring ([`monitor`]), a copy of an installation ([`copy`](mod@copy)) and a backup ([`backup`](mod@backup)).
//!
//! Nothing here reads a command line. Reports are data with a renderer each; the binary `holdfast` (crates/cli) parses
//! the arguments, prints the reports and chooses the exit code.

pub mod backup;
pub mod checks;
pub mod client;
pub mod copy;
pub mod deploy;
pub mod failure;
pub mod import;
pub mod in_process;
pub mod monitor;
pub mod time;
pub mod validate;

pub use self::failure::Failure;
