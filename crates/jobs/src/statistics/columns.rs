//! The columns of `holdfast_stats` that hold counts, in the order in which statements name them.

use std::fmt::Write as _;

use super::buckets::{BUCKETS, Buckets};
use super::counters::Counts;

/// Counts that every row has.
pub(super) const NUMBERS: [&str; 5] = ["enqueued", "completed", "retried", "discarded", "cancelled"];

/// Counts by bucket.
const BUCKETED: [&str; 2] = ["wait", "run"];

/// All columns of counts.
pub(super) fn names() -> Vec<String> {
    let numbers = NUMBERS.iter().map(|name| (*name).to_owned());
    let bucketed = BUCKETED
        .iter()
        .flat_map(|name| (0..BUCKETS).map(move |bucket| format!("{name}_{bucket}")));
    numbers.chain(bucketed).collect()
}

/// Of `on conflict do update`: the new row replaces the old one.
pub(super) fn replaced<T: AsRef<str>>(names: &[T]) -> String {
    let set = names.iter().map(|name| {
        let name = name.as_ref();
        format!("{name} = excluded.{name}")
    });
    set.collect::<Vec<_>>().join(", ")
}

/// The sums of the numbers, and the sums of each kind of buckets as one text: a row of 45 columns fits no tuple.
pub(super) fn sums() -> String {
    let mut text = String::new();
    for name in NUMBERS {
        // Writing to a String does not fail.
        let _ = write!(text, "cast(sum({name}) as bigint), ");
    }
    let bucketed = BUCKETED.map(|name| {
        let sums = (0..BUCKETS).map(|bucket| format!("coalesce(sum({name}_{bucket}), 0)"));
        sums.collect::<Vec<_>>().join(" || ' ' || ")
    });
    text + &bucketed.join(", ")
}

/// The counts of a row as JSON writes them, in the order of [`names`]. Empty buckets are null, which costs no space.
pub(super) fn values(counts: &Counts) -> impl Iterator<Item = Option<u64>> {
    let numbers = [
        counts.enqueued,
        counts.completed,
        counts.retried,
        counts.discarded,
        counts.cancelled,
    ];
    let buckets = counts.wait.into_iter().chain(counts.run);
    let buckets = buckets.map(|count| (count > 0).then_some(count));
    numbers.into_iter().map(Some).chain(buckets)
}

/// Buckets from the text of [`sums`]. What cannot be read counts as empty.
pub(super) fn buckets_of(text: &str) -> Buckets {
    let mut buckets = [0; BUCKETS];
    let counts = text.split(' ').map(|count| count.parse().unwrap_or(0));
    buckets
        .iter_mut()
        .zip(counts)
        .for_each(|(bucket, count)| *bucket = count);
    buckets
}
