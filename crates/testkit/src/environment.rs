//! The part of the test's environment that children inherit; everything else is given to them explicitly.

use std::ffi::OsString;

const KEPT: [&str; 3] = ["PATH", "HOME", "TMPDIR"];

/// `PATH`, `HOME` and `TMPDIR`, as far as they are set.
#[allow(
    clippy::disallowed_methods,
    reason = "not configuration: what any Unix program needs to run at all"
)]
pub(crate) fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    KEPT.into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}
