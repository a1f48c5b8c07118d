//! The built `holdfast` binary, from outside; and the documents of the repository.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod addresses;
mod commands;
mod confirmations;
mod dependencies;
mod dev;
mod directions;
mod env_example;
mod env_text;
mod readme;
mod receivers;
mod reference;
mod services;
mod shell_worker;
mod snippets;
mod test_names;
mod trace_logs;
mod users;
