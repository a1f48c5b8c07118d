//! What a test needs to treat Holdfast as its users and its outages do.
//!
//! Real servers ([`RedisServer`], [`PostgresServer`], [`PgBouncer`]), a wire that can be cut
//! ([`FaultProxy`]), witnesses outside the system ([`Receiver`], [`SmtpServer`]), the built binaries as processes
//! ([`Child`]), and small clients that share no code with what is under test ([`resp`], [`http`]).
//!
//! Invariants:
//! - Everything listens on 127.0.0.1, on a port leased across processes ([`ports`]), so test processes run
//!   side by side, and a server that is down keeps its port.
//! - Every wait has a deadline, and its error names what was awaited.
//! - Whatever was started is killed and removed on Drop; if the test process itself is killed, by the
//!   undertaker (a shell that outlives it by a moment). Only processes started here are ever signalled, by
//!   pid.
//!
//! When something is missing or fails, the error says what to install or shows the end of the server's log.
//! The Redis and PostgreSQL types take `&self` throughout, so that a task that injects faults can share them
//! with the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a broken testkit must stop the test at once"
)]

mod authority;
mod background;
mod child;
mod environment;
mod eventually;
pub mod http;
mod lines;
mod pgbouncer;
pub mod place;
pub mod ports;
mod postgres;
mod process;
mod proxy;
mod reaper;
mod receiver;
mod redis;
pub mod resp;
mod scratch;
pub mod scripted_server;
mod smtp;

pub use authority::Authority;
pub use child::{Child, ChildBuilder, ChildOutput, binary};
pub use eventually::eventually;
pub use pgbouncer::PgBouncer;
pub use ports::free_port;
pub use postgres::{PostgresOptions, PostgresServer};
pub use proxy::{FaultProxy, Mode, Protocol, ProxyStats, bytes_contain};
pub use receiver::{Hit, Receiver, RecordedRequest};
pub use redis::{Eviction, FillReport, Persistence, RedisCluster, RedisOptions, RedisSentinels, RedisServer};
pub use resp::{RespConnection, RespValue};
pub use smtp::{Encryption, SmtpServer, TakenMail};

/// What every "not found" error of a server program ends with.
pub(crate) const INSTALL_HINT: &str =
    "run scripts/test once: it installs Redis and PostgreSQL from the system's packages";
