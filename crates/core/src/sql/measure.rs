//! How long units of work take and how they fail, by operation.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::Histogram;

use super::UnitError;
use crate::failure::FailureClass;
use crate::telemetry::catalogue;

/// Kept handles: statements are the hot path. As many as there are operations in the code.
static DURATIONS: LazyLock<RwLock<HashMap<&'static str, Histogram>>> = LazyLock::new(RwLock::default);

/// Counts a unit: its duration, unless the gate refused it, and its failure by class. The label is the operation with
/// underscores. Work that is dropped half-way is not counted here, but as abandoned.
pub(super) fn record<T>(operation: &'static str, elapsed: Duration, result: &Result<T, UnitError>) {
    if !matches!(result, Err(UnitError::Unavailable { .. })) {
        duration_of(operation).record(elapsed);
    }
    let Err(error) = result else { return };
    let class = match error.class() {
        FailureClass::Transient => "transient",
        FailureClass::Permanent => "permanent",
    };
    catalogue::SQL_FAILURES
        .with([&label(operation), class])
        .increment(1);
}

/// A statement of this operation was given up while the server worked on it.
pub(super) fn record_abandoned(operation: &str) {
    catalogue::SQL_ABANDONED.with([&label(operation)]).increment(1);
}

/// The names of all operations that this process has run so far, sorted: what a test holds against its list.
pub fn operations() -> Vec<&'static str> {
    let kept = DURATIONS.read().unwrap_or_else(PoisonError::into_inner);
    let mut names: Vec<_> = kept.keys().copied().collect();
    names.sort_unstable();
    names
}

fn duration_of(operation: &'static str) -> Histogram {
    let kept = DURATIONS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(histogram) = kept.get(operation) {
        return histogram.clone();
    }
    drop(kept);
    let histogram = catalogue::SQL_DURATION.with([&label(operation)]);
    let mut kept = DURATIONS.write().unwrap_or_else(PoisonError::into_inner);
    kept.entry(operation).or_insert(histogram).clone()
}

fn label(operation: &str) -> String {
    operation.replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::render;

    #[test]
    fn every_unit_is_timed_and_failures_are_counted_by_class() {
        let millisecond = Duration::from_millis(1);
        record("test a statement", millisecond, &Ok(1));
        let late: Result<(), _> = Err(UnitError::TimedOut { after: millisecond });
        record("test a statement", millisecond, &late);
        let text = render();
        let count = "holdfast_sql_statement_duration_seconds_count{operation=\"test_a_statement\"} 2";
        assert!(text.contains(count), "{text}");
        let failed =
            "holdfast_sql_statement_failures_total{operation=\"test_a_statement\",class=\"transient\"} 1";
        assert!(text.contains(failed), "{text}");
    }
}
