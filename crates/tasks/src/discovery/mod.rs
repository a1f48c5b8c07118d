//! Event discovery.

pub mod parse;
