//! The API service: it joins the routes of all crates and serves them.
//!
//! What a request goes through is `holdfast-http`; what it asks for is in the crate that its route is of: `holdfast-accounts`,
//! `holdfast-control`, the products. The start waits for nothing: see `start.rs`.

mod app;
mod start;

pub use app::{API_ROUTES, Application, HEALTH_ROUTES, Services, StartError};
pub use holdfast_http::Route;
pub use start::{RunError, SERVICE, main, run};
