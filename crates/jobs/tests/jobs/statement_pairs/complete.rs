//! The list of operations is complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::statement_pairs::operations::Operation;

/// Methods of the trait that write nothing.
const READING_METHODS: [&str; 12] = [
    "cancel_requests",
    "doubtful",
    "final_among",
    "get",
    "look_again_in",
    "locks_rows",
    "paused_queues",
    "peek",
    "queue_stats",
    "unknown_to_worker",
    "workers",
    // `insert` is `insert_as` for one request.
    "insert",
];

/// Names of units of work that write nothing.
const READING_UNITS: &[&str] = &[
    "ask for a queue's limits",
    "count a batch",
    "count dead letters",
    "count jobs to be cancelled",
    "count the queues",
    "estimate the number of jobs",
    // It deletes rows that say nothing, of tables that nothing else of the ledger waits for.
    "forget full buckets",
    "list batches",
    "list dead letters",
    "list failures",
    "list the keys of a queue",
    "list workers",
    "look for cancelled jobs",
    "look for doubtful jobs",
    "look for due jobs",
    "look for ended batches",
    "look for finished jobs",
    "look for stray jobs",
    "look for the oldest due job",
    "read a batch",
    "read a failure",
    "read a frontier",
    "read a job",
    "read a worker",
    "read jobs",
    "read the declared kinds",
    "read the jobs of a worker",
    "read the limits",
    "read the paused queues",
    "read the server's settings",
    "read what became of jobs",
    "read why a job waits",
    "search jobs",
];

/// Writes of an operator, or of a starting process, that touch one row of kinds, queues or workers, and no job: they are not in
/// the pairs.
const OPERATORS_UNITS: [&str; 6] = [
    "announce the kinds",
    "declare a kind",
    "declare a queue",
    "drain a worker",
    "forget a kind",
    "forget a queue",
];

/// Writes that wait for no row: what another transaction has locked is passed over. Nothing can wait in a circle with them.
const UNITS_WITHOUT_WAITS: [&str; 2] = ["encrypt stored values", "fill in fingerprints"];

/// Parts of the crate whose statements touch neither jobs, workers, queues nor batches: they have tests of their own.
const ELSEWHERE: [&str; 3] = ["audit", "schedules", "statistics"];

/// What stands between `before` and `after`, wherever it does.
fn between<'t>(text: &'t str, before: &str, after: char) -> Vec<&'t str> {
    text.split(before)
        .skip(1)
        .filter_map(|rest| rest.split_once(after))
        .map(|(found, _)| found)
        .collect()
}

fn sources(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !ELSEWHERE.contains(&name.as_str()) {
                sources(&path, found);
            }
        } else {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// The names under which this crate runs units of work.
fn units_in_the_sources() -> BTreeSet<String> {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let mut units = BTreeSet::new();
    for text in &texts {
        // Whatever the formatter makes of the line.
        let text = text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("( ", "(");
        for call in ["within(\"", "within_bounds(\"", "bounded(\""] {
            units.extend(between(&text, call, '"').into_iter().map(str::to_owned));
        }
    }
    units
}

#[test]
fn every_method_of_the_ledger_is_in_the_pairs_or_only_reads() {
    let text = include_str!("../../../src/ledger/mod.rs");
    let (_, body) = text.split_once("pub trait Ledger").unwrap();
    let body = body.split("\n}").next().unwrap();
    let methods: BTreeSet<&str> = between(body, " fn ", '(').into_iter().collect();
    assert!(methods.len() > 20, "{methods:?}");
    let paired: BTreeSet<&str> = Operation::ALL.iter().filter_map(|one| one.method()).collect();
    let known: BTreeSet<&str> = paired.iter().copied().chain(READING_METHODS).collect();
    let missing: Vec<_> = methods.difference(&known).collect();
    assert!(missing.is_empty(), "not in the pairs: {missing:?}");
    let gone: Vec<_> = known.difference(&methods).collect();
    assert!(gone.is_empty(), "no methods of the ledger: {gone:?}");
}

fn paired_units() -> impl Iterator<Item = &'static str> {
    Operation::ALL.iter().flat_map(|one| one.units().iter().copied())
}

fn known_units() -> impl Iterator<Item = &'static str> {
    paired_units()
        .chain(READING_UNITS.iter().copied())
        .chain(OPERATORS_UNITS)
        .chain(UNITS_WITHOUT_WAITS)
}

/// Holds the lists against what the executor has run in this process, whose pairs have all met.
pub(super) fn check_against_the_executor() {
    let ran: BTreeSet<&str> = holdfast_core::sql::operations().into_iter().collect();
    let never: Vec<_> = paired_units().filter(|unit| !ran.contains(unit)).collect();
    assert!(never.is_empty(), "listed, and not run by the pairs: {never:?}");
    let known: BTreeSet<&str> = known_units().collect();
    let unlisted: Vec<_> = ran.difference(&known).collect();
    assert!(
        unlisted.is_empty(),
        "run by the pairs, and in no list: {unlisted:?}"
    );
}

#[test]
fn every_unit_of_work_that_writes_is_in_the_pairs() {
    let units = units_in_the_sources();
    assert!(units.len() > 30, "{units:?}");
    let known: BTreeSet<String> = known_units().map(str::to_owned).collect();
    let missing: Vec<_> = units.difference(&known).collect();
    assert!(missing.is_empty(), "not in the pairs: {missing:?}");
    let gone: Vec<_> = known.difference(&units).collect();
    assert!(gone.is_empty(), "no units of work: {gone:?}");
}
