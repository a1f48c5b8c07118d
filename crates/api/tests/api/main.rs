//! The API as its clients meet it: a real server on real sockets, on SQLite unless a test is about another store.
#![allow(clippy::unwrap_used, reason = "a broken helper must stop the test at once")]

mod auth;
mod bad_input;
mod documents;
mod happy;
mod health;
mod limits;
mod operations;
mod outages;
mod queue_limits;
mod start;
mod support;
