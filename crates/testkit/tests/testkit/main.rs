//! The integration tests of this crate, in one binary: linking takes longer than running most of them.

mod child;
mod postgres;
mod proxy;
mod receiver;
mod redis;
