//! What every service of Holdfast serves over HTTP, and what the crates with routes share.
//!
//! A request enters through the [`middleware`] (id, time limit, errors, log). The extractor [`AuthorizedCaller`] admits its
//! caller, whom an [`Authenticator`](authentication::Authenticator) knows; [`body`] and [`params`] parse it. One handler of a
//! [route table](routes::RouteTable) answers it, with the [`Call`] that it is given. Every error is a [`problem`]. [`health`] and [`monitor`] are for every service, also for
//! those that serve nothing else.
//!
//! A crate with routes has a state of its own, which holds the [`ServerContext`], and one table of routes. The
//! process that serves them registers the states and the tables, and makes one OpenAPI [document](openapi) of all tables.
//!
//! # Invariants
//! - Everything a client sends is bounded: head, body, query, names, nesting, batches, waits, connections, time.
//! - HTTP threads open no pooled connections: each thread has a runtime that ends before the process does. What may open one runs by
//!   [`ServerContext::on_runtime`](context::ServerContext::on_runtime).
//!
//! # When things fail
//! While the database is unavailable, requests that need it are answered 503 with `Retry-After`, and `/health` says unhealthy. While
//! Redis is unavailable, each process counts rate limits by itself. Nothing needs a restart.

pub mod access;
pub mod authentication;
pub mod bench_routes;
pub mod binding;
pub mod body;
mod call;
pub mod caller;
mod context;
pub mod docs;
pub mod health;
mod local_machine;
pub mod mailed_link;
mod middleware;
pub mod monitor;
mod nul;
pub mod openapi;
mod page;
pub mod params;
pub mod problem;
pub mod rate;
pub mod refinements;
mod request_metrics;
pub mod responses;
pub mod routes;
mod scope;
pub mod server;
mod shared_response;
mod sliced_body;

/// Values of request bodies, for clients in Rust.
pub mod wire {
    pub use crate::body::fields::{Moment, Seconds};
}

pub use access::{Admin, Anyone, AuthorizedCaller, Bound, Declare, Produce, ProduceOrWork, Read, Work};
pub use binding::Binding;
pub use call::{Admission, Call, NoQuery, Query, Reply, WithQuery, accepted, json_at, ok};
pub use caller::Caller;
pub use context::{ServerContext, json};
pub use local_machine::is_this_machine;
pub use middleware::id_of as request_id;
pub use page::{PageParams, PageRequest};
pub use problem::{FieldFault, Problem, ProblemKind};

/// For [`problems!`].
#[doc(hidden)]
pub use actix_web::http::StatusCode;
pub use routes::{Access, Route, RouteTable};
pub use scope::{Scope, Scopes, UnknownScope};
