//! Calendars as other implementations read them: `icalendar` with `recurring-ical-events`, and `ical`, both from PyPI.
//!
//! `corpus/series` was written for this. Each calendar in it has the same occurrences (name, beginning, end) here and there,
//! except where one of them is known to go its own way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, Utc};
use holdfast_events::discovery::parse::Form;

use super::{moment, read};

const FROM: &str = "2030-05-01T00:00:00+00:00";
const UNTIL: &str = "2031-05-01T00:00:00+00:00";

/// Where another implementation goes its own way: which, in which calendar, and what it does. Apart from `clocks-back` the two
/// others do not share any of these: the second one reads those calendars as we do.
const DIFFERENT: &[(&str, &str, &str)] = &[
    // RFC 5545 3.3.6: of a duration only weeks and days follow the clock.
    (
        "ical",
        "clocks-back",
        "adds the hours of a duration to the time that the clock shows",
    ),
    (
        "recurring",
        "clocks-back",
        "adds the hours of a duration to the time that the clock shows",
    ),
    // RFC 5545 3.8.5.3: DTSTART is the first instance of the set.
    ("ical", "added-alone", "leaves DTSTART out beside RDATE"),
    (
        "ical",
        "daily-months",
        "leaves DTSTART out where the rule does not yield it",
    ),
    (
        "ical",
        "daily-positions",
        "leaves DTSTART out where the rule does not yield it",
    ),
    (
        "ical",
        "weekly-months",
        "leaves DTSTART out where the rule does not yield it",
    ),
    ("ical", "added-periods", "does not read RDATE;VALUE=PERIOD"),
    ("ical", "future", "does not know RANGE=THISANDFUTURE"),
    ("ical", "future-back", "does not know RANGE=THISANDFUTURE"),
    (
        "ical",
        "moved-away",
        "keeps the occurrence that was moved a month ahead",
    ),
    (
        "ical",
        "sequence",
        "keeps a component beside the one that revises it",
    ),
    ("ical", "windows-zone", "does not know the names of Windows"),
];

type Occurrence = (String, DateTime<Utc>, DateTime<Utc>);

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events/discovery/corpus/series");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn ours(file: &Path) -> Vec<Occurrence> {
    let harvest = read(Form::Calendar, &std::fs::read(file).unwrap(), None).unwrap();
    assert_eq!(harvest.noted, [], "{}", file.display());
    for skipped in &harvest.skipped {
        assert!(
            skipped.reason.contains("newer version"),
            "{}: {skipped:?}",
            file.display()
        );
    }
    let mut found: Vec<_> = harvest
        .entries
        .into_iter()
        .filter(|entry| entry.starts_at <= moment(UNTIL))
        .map(|entry| {
            let uid = entry.uid.split('#').next().unwrap_or_default().to_owned();
            (uid, entry.starts_at, entry.ends_at.unwrap_or(entry.starts_at))
        })
        .collect();
    found.sort();
    found
}

/// What an implementation finds in each file, or how it fails; `None`: it is not installed.
fn theirs(implementation: &str) -> Option<BTreeMap<String, Result<Vec<Occurrence>, String>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("../../target/python-calendars");
    if !packages.join("requirements.txt").is_file() {
        eprintln!("SKIPPED: {implementation} is not there; scripts/test installs it, if PyPI can be reached");
        return None;
    }
    let ended = Command::new("python3")
        .arg(root.join("tests/events/discovery/compare.py"))
        .arg(implementation)
        .arg(packages)
        .args([FROM, UNTIL])
        .args(corpus())
        .output()
        .unwrap();
    let (told, complaint) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "{complaint}");
    let line = |line: &str| {
        let (name, answer) = line.split_once('\t').unwrap();
        let rows =
            serde_json::from_str::<Vec<(String, String, String)>>(answer).map_err(|_| answer.to_owned());
        let occurrence = |(uid, start, end): (String, String, String)| (uid, moment(&start), moment(&end));
        (
            name.to_owned(),
            rows.map(|rows| rows.into_iter().map(occurrence).collect()),
        )
    };
    Some(told.lines().map(line).collect())
}

fn compare(implementation: &str) {
    let Some(theirs) = theirs(implementation) else {
        return;
    };
    let (mut differences, mut compared) = (Vec::new(), 0);
    for file in corpus() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let (ours, theirs) = (Ok(ours(&file)), &theirs[&name]);
        let excused = DIFFERENT
            .iter()
            .any(|(one, calendar, _)| *one == implementation && *calendar == name);
        if excused {
            assert_ne!(
                &ours, theirs,
                "{implementation} reads {name} as we do: it needs no excuse"
            );
        } else if ours != *theirs {
            differences.push(format!("{name}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
        compared += usize::from(!excused);
    }
    assert!(
        differences.is_empty(),
        "{implementation} disagrees about {}",
        differences.join("\n")
    );
    assert!(compared >= 40, "{compared} calendars were compared");
}

#[test]
fn calendars_mean_what_recurring_ical_events_says() {
    compare("recurring");
}

#[test]
fn calendars_mean_what_ical_says() {
    compare("ical");
}
