//! Job, batch and worker identities.

pub use holdfast_core::id::InvalidId;
use holdfast_core::id::parse_either;

holdfast_core::ids! {
    /// One job, made before its first write: a write repeated after a lost reply cannot double it.
    JobId = parse_either => InvalidId;
    /// One batch of jobs.
    BatchId = parse_either => InvalidId;
    /// One incarnation of one worker process: unique per boot, and renewed when its leases were lost.
    WorkerId = parse_either => InvalidId;
}
