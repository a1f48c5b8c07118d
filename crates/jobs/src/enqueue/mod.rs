//! Accepting jobs: what producers say is checked once, here, whether it came over HTTP or from Rust.
//!
//! Accepted means committed: an answer is given after the ledger's commit, or after the broker's reply for a queue of
//! `redis` durability. While the broker is away such a job goes to the ledger instead; so does every job that the
//! broker has no place for (a delay, a priority, a key). If a push got no answer, the job goes to the ledger marked
//! doubtful, and whoever claims it asks the broker first (see [`crate::broker`]).
//!
//! Concurrent producers share statements and commits ([`writer`]).

mod builder;
mod catalogue;
mod change;
mod check;
mod error;
mod held_keys;
mod request;
mod route;
mod tags;
mod writer;

pub use builder::Enqueue;
pub(crate) use builder::typed_request;
pub(crate) use check::KnownKind;
pub use check::depth_of;
pub use error::{EnqueueError, Fault, FaultCode};
pub use request::{EnqueuedJob, JobRequest};
pub(crate) use route::{Producer, ProducerParts};
pub use tags::{MAX_TAG_CHARS, MAX_TAGS, is_tag};
pub(crate) use writer::Lanes;

/// Longest `unique_key` or idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// Farthest a job may be scheduled ahead.
pub const MAX_DELAY: std::time::Duration = std::time::Duration::from_secs(5 * 366 * 24 * 3_600);

/// Longest timeout a job may ask for.
pub const MAX_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);
