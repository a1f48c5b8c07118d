//! Reading what sources publish, and events, interactions and recommendations on real databases.

mod discovery;
mod recommend;
