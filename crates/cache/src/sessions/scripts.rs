//! The scripts, compiled in. Each says at its top what it takes and answers.

use std::sync::LazyLock;

use redis::Script;

pub(super) static CREATE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/create.lua")));
pub(super) static CHECK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/check.lua")));
pub(super) static REVOKE_ALL: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/revoke_all.lua")));

/// Where the sessions of a user stand.
pub(super) fn key_of(hashed_user: &str) -> String {
    format!("holdfast:sessions:{hashed_user}")
}
