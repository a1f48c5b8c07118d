//! The checks, `deploy` and `monitor` as their users run them, and the files that platforms read.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

mod backup;
mod checks;
mod copy;
mod deploy;
mod deployment;
mod import;
mod upgrade;

use std::time::Duration;

/// Asks until the answer is yes: for facts that nobody signals.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_mins(2), waiting).await;
    assert!(in_time.is_ok(), "waited in vain until {what}");
}
