//! `redis-check`, `validate` and `monitor` as their users run them, against real servers: sound ones, and ones that are
//! broken in one way each.

mod files;
mod monitor;
mod redis_check;
mod server_settings;
mod support;
mod system;
mod validate;
