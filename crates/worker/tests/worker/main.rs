//! The integration tests of this crate, in one binary: linking takes longer than running most of them.

mod points;
mod recommend;
mod telemetry;
mod worker;
