//! `.env` of the working directory, in development: variables that the environment of the process does not set.
//!
//! It is a file of a developer's machine. A process in production, or on a platform that was not told that this is development,
//! reads none: what it runs with is what the platform says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::fault::ConfigFault;
use super::platform;

/// In the working directory.
pub(super) const FILE: &str = ".env";

/// Adds the file's variables to those of the process, which win, and names those that it added. The file may be missing.
pub(super) fn complete(
    env: &mut BTreeMap<String, String>,
    file: &Path,
) -> Result<BTreeSet<String>, ConfigFault> {
    if !is_development(env) {
        return Ok(BTreeSet::new());
    }
    let fault = |problem: String, fix: &str| ConfigFault {
        setting: "the variables".to_owned(),
        source: file.display().to_string(),
        problem,
        fix: fix.to_owned(),
    };
    let lines = match dotenvy::from_path_iter(file) {
        Ok(lines) => lines,
        Err(error) if error.not_found() => return Ok(BTreeSet::new()),
        // Of a file, not of a line: it holds no secret.
        Err(error) => {
            let problem = format!("it cannot be read: {error}");
            return Err(fault(problem, "make it readable, or remove it"));
        }
    };
    let mut added = BTreeSet::new();
    let mut last = None;
    for line in lines {
        // The error quotes the line, which may hold a secret.
        let (name, value) = line.map_err(|_| {
            let place = last.take().map_or_else(
                || "its first line".to_owned(),
                |name| format!("what comes after {name}"),
            );
            let fix = "write NAME=value, and quote values with blanks or #";
            fault(format!("{place} is not a variable"), fix)
        })?;
        last = Some(name.clone());
        // As the environment has it, a variable that is set and empty is not set.
        if env.get(&name).is_none_or(|value| value.trim().is_empty()) {
            env.insert(name.clone(), value);
            added.insert(name);
        }
    }
    Ok(added)
}

/// As far as the process' own environment says: the file cannot choose whether it is read.
fn is_development(env: &BTreeMap<String, String>) -> bool {
    let is_set = |name: &str| {
        env.get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    };
    match is_set("HOLDFAST__ENVIRONMENT").or_else(|| is_set("HOLDFAST_ENV")) {
        Some(environment) => environment == "development",
        None => is_set("RAILWAY_ENVIRONMENT_NAME").is_none() && platform::found(env).is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    /// The environment after a file with this text was read, and what was added.
    fn completed(
        pairs: &[(&str, &str)],
        text: &str,
    ) -> Result<(BTreeMap<String, String>, Vec<String>), ConfigFault> {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, text).unwrap();
        let mut env = env(pairs);
        let added = complete(&mut env, &file)?;
        Ok((env, added.into_iter().collect()))
    }

    #[test]
    fn the_process_wins_over_the_file_except_where_it_says_nothing() {
        let text = "# local\nexport PORT=9000\nDATABASE_URL='sqlite://a b'\nREDIS_URL=redis://file\n";
        let own = [("REDIS_URL", "redis://own"), ("PORT", "")];
        let (env, added) = completed(&own, text).unwrap();
        assert_eq!(added, ["DATABASE_URL", "PORT"]);
        assert_eq!(env["PORT"], "9000");
        assert_eq!(env["DATABASE_URL"], "sqlite://a b");
        assert_eq!(env["REDIS_URL"], "redis://own");
    }

    #[test]
    fn production_and_platforms_read_no_file() {
        let text = "HOLDFAST_ENV=development\nPORT=9000\n";
        let deployed = [
            [("HOLDFAST_ENV", "production")],
            [("HOLDFAST__ENVIRONMENT", "production")],
            [("RAILWAY_ENVIRONMENT_NAME", "staging")],
            [("KUBERNETES_SERVICE_HOST", "10.0.0.1")],
        ];
        for own in deployed {
            assert_eq!(completed(&own, text).unwrap().1, [""; 0], "{own:?}");
        }
        let chosen = [("DYNO", "web.1"), ("HOLDFAST_ENV", "development")];
        assert_eq!(completed(&chosen, text).unwrap().1, ["PORT"]);
    }

    #[test]
    fn a_line_that_is_no_variable_is_a_fault_that_shows_no_secret() {
        let fault = completed(&[], "PORT=1\nJWT_SECRET_KEY 'hunter2 and more\n").unwrap_err();
        assert_eq!(fault.problem, "what comes after PORT is not a variable");
        assert!(!format!("{fault:?}").contains("hunter2"));
    }

    #[test]
    fn the_file_may_be_missing() {
        let missing = Path::new("no such folder/.env");
        assert_eq!(complete(&mut BTreeMap::new(), missing).unwrap(), BTreeSet::new());
    }
}
