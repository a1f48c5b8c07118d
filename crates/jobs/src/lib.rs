//! Holdfast jobs: accepted means committed, Redis only makes it fast.
//!
//! Where a job goes: [`enqueue`] checks and accepts it (into the [`ledger`], or onto the [`broker`] for a queue of
//! `redis` durability), the [`bell`] wakes a [`worker`], the worker claims it, runs its [`Job`], and writes the outcome
//! that [`retry`] decided under the fence of its lease. [`maintenance`] returns what lost workers held. Workers in other languages
//! do the same over HTTP ([`pull`]), for kinds and queues that are [`declared`] at run time.

mod admin;
pub mod attempts;
pub mod audit;
mod backend;
pub mod batches;
pub mod bell;
pub mod broker;
pub mod bulk;
mod claiming;
mod client;
pub mod dead_letters;
pub mod declared;
pub mod diagnosis;
pub mod enqueue;
mod envelope;
mod erase;
pub mod expiry;
mod failed_attempt;
pub mod failures;
pub mod follow_ups;
mod id;
mod job;
pub mod job_log;
mod job_schema;
mod json_text;
pub mod ledger;
pub mod limits;
pub mod link;
mod look_pace;
mod maintenance;
pub mod marks;
mod meters;
pub mod observer;
pub mod pull;
mod queue_counts;
mod queue_names;
mod registry;
pub mod retry;
pub mod rotation;
pub mod scaling;
pub mod schedules;
pub mod search;
pub mod sql;
mod state;
pub mod statistics;
pub mod stock;
mod wait;
pub mod worker;
mod worker_jobs;

pub use admin::{AdminHandle, CancelFilter, EditError, EditReply, JobEdit, PurgeReport};
pub use client::{Jobs, WeakJobs};
pub use envelope::Envelope;
pub use holdfast_core::sql::Tx as LedgerTx;
pub use id::{BatchId, InvalidId, JobId, WorkerId};
pub use job::{Job, JobContext, JobError, PayloadFault, Resources, SecretField, SecretPart};
pub use job_schema::{ID_PATTERN, KindSchemas, NO_CONTROL_PATTERN, id_schema};
pub use marks::Marks;
pub use marks::sealed::FieldOpenFailure;
pub use registry::{Kind, Registry};
pub use retry::{Backoff, Jitter, RetryPolicy};
pub use state::{State, StoredState, Transition, UnknownState};
pub use worker_jobs::{MAX_WORKER_JOBS, WorkerJob};
