//! The HTTP side of Holdfast: jobs, queues, schedules and workers over actix-web.
//!
//! A request enters through the border (id, time limit, errors, log: `border.rs`), is let in by [`auth`], parsed by
//! `body.rs` and `params.rs`, done by one handler of the table in `routes/`, and answered; every error is a
//! [`problem`]. [`health`] is for every service, the worker included. `/openapi.json` is made from the handlers.
//!
//! # Invariants
//! - A 202 is given after the job is committed (or taken by the broker), never before.
//! - Everything a client sends is bounded: head, body, query, names, nesting, batches, waits, connections, time.
//! - HTTP threads open no pooled connections: each has a runtime of its own that ends before the process does.
//!
//! # When things fail
//! With the database away, enqueues answer 503 with `Retry-After` (redis queues still accept), `/health` says
//! unhealthy, keys that were seen keep working. With Redis away nothing changes but `/health`. Nothing needs a
//! restart.

mod app;
pub mod auth;
mod body;
mod body_budget;
mod border;
mod connections;
pub mod health;
mod kept;
mod listen;
mod measure;
mod monitor;
mod nul;
mod params;
pub mod problem;
mod rate;
mod responses;
mod routes;
mod serve;
mod start;
mod state;

/// The wire form of batches, for whoever shows them elsewhere: the command line.
pub mod batches {
    pub use crate::routes::batches::BatchView;
}

/// The wire form of schedules, for whoever shows them elsewhere: the command line.
pub mod schedules {
    pub use crate::routes::schedules::{ScheduleBody, ScheduleView};
}

pub use app::{Application, Services, StartError};
pub use health::{HealthServer, health_server};
pub use listen::BindError;
pub use monitor::{Advice, AdviceCode, RedisReport, Severity};
pub use routes::{API_ROUTES, DOCS_ROUTES, HEALTH_ROUTES, Route};
pub use start::{RunError, run};
