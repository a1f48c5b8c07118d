//! Polling, for the facts that nobody signals.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Calls `check` every `poll` until it yields a value, for at most `deadline`; the error names `what` was
/// awaited.
///
/// The deadline also bounds a `check` that hangs. Prefer a signal (`wait_for_*`) where there is one.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, poll: Duration, mut check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    let attempts = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(poll).await;
        }
    };
    tokio::time::timeout(deadline, attempts).await.map_err(|_| {
        anyhow!(
            "waited {:.1} s in vain for: {what}",
            started.elapsed().as_secs_f64()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn yields_the_first_value_that_appears() {
        let mut calls = 0;
        let value = eventually("the third call", Duration::from_secs(5), POLL, || {
            calls += 1;
            let seen = calls;
            async move { (seen == 3).then_some(seen) }
        })
        .await
        .unwrap();
        assert_eq!(value, 3);
    }

    #[tokio::test]
    async fn names_what_never_came_even_when_the_check_hangs() {
        let hanging = || std::future::pending::<Option<()>>();
        let error = eventually("rain", Duration::from_millis(20), POLL, hanging)
            .await
            .unwrap_err();
        assert!(error.to_string().ends_with("in vain for: rain"), "{error}");
    }
}
