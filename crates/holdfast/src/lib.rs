//! Background jobs that keep working when Redis does not, and when the database is slow: the crate that an application depends
//! on.
//!
//! A kind of job is a type that implements [`Job`](prelude::Job). An [`App`] registers its kinds, and its binary is then the
//! API, the worker, the beat and the command line of a system that knows them beside the built-in kinds:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use holdfast::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct SendInvite {
//!     to: String,
//! }
//!
//! impl Job for SendInvite {
//!     const KIND: &'static str = "invite.send";
//!     const QUEUE: &'static str = "invites";
//!     type Output = ();
//!
//!     async fn run(self, ctx: JobContext) -> Result<(), JobError> {
//!         println!("attempt {} for {}", ctx.attempt(), self.to);
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<ExitCode, holdfast::Error> {
//!     App::from_env()?.register::<SendInvite>().run().await
//! }
//! ```
//!
//! The queue `invites` needs no setting: a queue that a kind names exists with the defaults of `queue_defaults`.
//!
//! # Dependencies
//! Beside this crate an application needs `serde` with its feature `derive` for the payloads, and an async runtime for its
//! `main`. Databases, Redis and HTTP are this crate's business. The derive `JsonSchema` comes with the prelude; a file that does not
//! import the prelude says `use holdfast::schemars::{self, JsonSchema};`.

#![warn(missing_docs)]

mod app;
mod error;
pub mod prelude;

pub use app::App;
pub use error::Error;
pub use holdfast_jobs as jobs;
pub use holdfast_services::{UnknownRole, events, kinds, notify, outbound, points, results};
pub use schemars;
