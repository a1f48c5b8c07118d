//! The audit log: who did what to queues, jobs, dead letters, keys, users, schedules, webhooks and
//! sources, and when.
//!
//! # Invariants
//! - An action that is a change in SQL and its entry are one transaction ([`AuditLog::record_in`]): neither stands
//!   without the other.
//! - An entry is written once. Only the entry of a bulk operation grows while the operation goes on: it is the operation's
//!   own record (`crate::bulk`), and counts what it has done so far.
//! - Nothing secret is in an entry: keys and users appear by id or name, payloads not at all.
//! - Entries are kept for `audit.retain_seconds`, then pruned in bounded steps.
//!
//! # When things fail
//! While the database is away neither the action nor its entry happens. What is done on the broker alone (a job of a
//! `redis` queue is cancelled) is recorded afterwards, and a failure to record it is an error of the request.

mod model;
mod store;

pub use model::{
    Actor, AuditContext, AuditEntry, AuditFilter, AuditId, AuditRecord, MAX_ACTOR_BYTES, MAX_DETAILS_BYTES,
    action,
};
pub use store::AuditLog;
