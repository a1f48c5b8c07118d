//! The part of the test's environment that children inherit; everything else is given to them explicitly.

use std::ffi::OsString;

const KEPT: [&str; 3] = ["PATH", "HOME", "TMPDIR"];

/// Another server in place of `redis-server`, one that takes its command line: `valkey-server`, or the path of another
/// version.
const REDIS_SERVER: &str = "HOLDFAST_TESTKIT_REDIS_SERVER";
/// `cluster`: every lone Redis server of the tests is a cluster of one node, which refuses what crosses slots.
const REDIS_LAYOUT: &str = "HOLDFAST_TESTKIT_REDIS_LAYOUT";

/// The program that is started for a Redis server.
#[allow(
    clippy::disallowed_methods,
    reason = "not configuration of Holdfast: what the tests run against"
)]
pub(crate) fn redis_server() -> OsString {
    std::env::var_os(REDIS_SERVER).unwrap_or_else(|| "redis-server".into())
}

/// Whether a lone Redis server is to be a cluster of one node.
#[allow(
    clippy::disallowed_methods,
    reason = "not configuration of Holdfast: what the tests run against"
)]
pub(crate) fn lone_redis_is_a_cluster() -> bool {
    std::env::var_os(REDIS_LAYOUT).is_some_and(|layout| layout == "cluster")
}

/// `PATH`, `HOME` and `TMPDIR`, as far as they are set.
#[allow(
    clippy::disallowed_methods,
    reason = "not configuration: what any Unix program needs to run at all"
)]
pub(crate) fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    KEPT.into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}
