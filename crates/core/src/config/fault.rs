//! What is wrong with a configuration: every fault at once, each with its place and its cure.

use std::fmt;

/// One thing that is wrong. No field ever holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The setting as a path, `worker.heartbeat_seconds`; for an unknown variable, the variable.
    pub setting: String,
    /// Where the value came from: `defaults`, a file's path, or a variable's name.
    pub source: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

/// All the faults of a configuration, at least one. A process that meets them ends with [`Self::exit_code`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults {
    faults: Vec<ConfigFault>,
}

impl ConfigFaults {
    /// `Err` unless the list is empty; sorted by setting.
    pub fn check(mut faults: Vec<ConfigFault>) -> Result<(), Self> {
        faults.sort_by(|a, b| a.setting.cmp(&b.setting));
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Self { faults })
        }
    }

    pub(super) fn of(fault: ConfigFault) -> Self {
        Self { faults: vec![fault] }
    }

    pub fn faults(&self) -> &[ConfigFault] {
        &self.faults
    }

    /// 64, `EX_USAGE` of sysexits.h: trying again does not help.
    pub fn exit_code(&self) -> u8 {
        64
    }
}

impl std::error::Error for ConfigFaults {}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => write!(f, "the configuration has 1 fault")?,
            count => write!(f, "the configuration has {count} faults")?,
        }
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (from {}): {}\n    fix: {}",
            self.setting, self.source, self.problem, self.fix
        )
    }
}

/// The candidate that `given` was most likely meant to be, if any is near.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerance = (given.len() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(given, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: single-character edits that turn one text into the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_what_was_meant_and_nonsense_finds_nothing() {
        let known = ["worker.heartbeat_seconds", "worker.batch_size", "redis.url"];
        assert_eq!(
            nearest("worker.hartbeat_secs", known),
            Some("worker.heartbeat_seconds")
        );
        assert_eq!(nearest("redis.uri", known), Some("redis.url"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn distance_counts_single_edits() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }
}
