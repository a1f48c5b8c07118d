//! The API as its clients meet it: a real server on real sockets, on SQLite unless a test is about another store.
#![allow(clippy::unwrap_used, reason = "a broken helper must stop the test at once")]

mod attacks;
mod auth;
mod bad_input;
mod batches;
mod bindings;
mod bytes;
mod caching;
mod documents;
mod events;
mod handbook;
mod happy;
mod health;
mod keys;
mod limits;
mod logins;
mod metrics;
mod notifications;
mod operations;
mod outages;
mod points;
mod pull;
mod push;
mod queue_limits;
mod rates;
mod results;
mod schedules;
mod schema;
mod search;
mod security;
mod sessions;
mod sources;
mod start;
mod stats;
mod support;
mod users;
