//! How long statements take and how they fail, by operation; and, from all of them together, whether the database serves.
//!
//! An outage fails every statement of a process alike. So it is told here, once when it begins and once when it ends, and
//! whoever repeats a statement needs to say nothing.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};
use std::time::Duration;

use metrics::Histogram;
use tokio::time::Instant;

use crate::failure::FailureClass;
use crate::telemetry::catalogue;

/// Kept handles: statements are the hot path. As many as there are words for them in the code.
static DURATIONS: LazyLock<RwLock<HashMap<&'static str, Histogram>>> = LazyLock::new(RwLock::default);

/// Does `work` and counts it: its duration, and its failure by class. `doing` says what it does (`claim jobs`), and is the
/// metric's label with underscores. Work that is dropped half-way is not counted.
pub async fn measure<T, E>(
    doing: &'static str,
    class: impl FnOnce(&E) -> FailureClass,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let started = Instant::now();
    let result = work.await;
    duration_of(doing).record(started.elapsed());
    let failure = result.as_ref().err().map(class);
    STATE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .follow(failure == Some(FailureClass::Transient), doing);
    if let Some(class) = failure {
        let class = match class {
            FailureClass::Transient => "transient",
            FailureClass::Permanent => "permanent",
        };
        catalogue::SQL_FAILURES.with([&label(doing), class]).increment(1);
    }
    result
}

/// One failure beside statements that succeed is no outage: the last success must lie this far back.
const SILENCE: Duration = Duration::from_secs(1);

static STATE: Mutex<State> = Mutex::new(State {
    away_since: None,
    answered: None,
    failures: 0,
});

/// Whether the database serves this process, as its statements find it.
struct State {
    away_since: Option<Instant>,
    answered: Option<Instant>,
    failures: u64,
}

impl State {
    /// A statement the database refuses for good was answered.
    fn follow(&mut self, failed: bool, doing: &'static str) {
        let now = Instant::now();
        if failed {
            self.failures += 1;
            let silent = self.answered.is_none_or(|at| now - at >= SILENCE);
            if silent && self.away_since.is_none() {
                self.away_since = Some(now);
                tracing::warn!(
                    doing,
                    "the database is away: statements are tried until it answers"
                );
            }
            return;
        }
        self.answered = Some(now);
        if let Some(since) = self.away_since.take() {
            let outage_ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
            tracing::info!(outage_ms, failures = self.failures, "the database is back");
        }
        self.failures = 0;
    }
}

fn duration_of(doing: &'static str) -> Histogram {
    let kept = DURATIONS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(histogram) = kept.get(doing) {
        return histogram.clone();
    }
    drop(kept);
    let histogram = catalogue::SQL_DURATION.with([&label(doing)]);
    let mut kept = DURATIONS.write().unwrap_or_else(PoisonError::into_inner);
    kept.entry(doing).or_insert(histogram).clone()
}

fn label(doing: &str) -> String {
    doing.replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::render;

    #[tokio::test]
    async fn every_statement_is_timed_and_failures_are_told_by_class() {
        let class = |_: &&str| FailureClass::Transient;
        measure("test a statement", class, async { Ok::<_, &str>(1) })
            .await
            .unwrap();
        measure("test a statement", class, async { Err::<(), _>("away") })
            .await
            .unwrap_err();
        let text = render();
        let count = "holdfast_sql_statement_duration_seconds_count{operation=\"test_a_statement\"} 2";
        assert!(text.contains(count), "{text}");
        let failed =
            "holdfast_sql_statement_failures_total{operation=\"test_a_statement\",class=\"transient\"} 1";
        assert!(text.contains(failed), "{text}");
    }
}
