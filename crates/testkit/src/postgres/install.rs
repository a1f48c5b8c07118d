//! Where PostgreSQL's programs are, and who may run them.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};

use crate::process;

const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// Debian and Ubuntu, then Homebrew on Apple silicon and on Intel.
const HOMES: [(&str, &str); 3] = [
    ("/usr/lib/postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// The account that database servers run as when the test runs as root, whom they refuse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account(Option<(u32, u32)>);

impl Account {
    /// Ourselves, or `postgres`, or `nobody` when we are root.
    pub(crate) fn choose() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("reading the user database")? {
                return Ok(Self(Some((user.uid.as_raw(), user.gid.as_raw()))));
            }
        }
        bail!("tests run as root, and there is neither a user `postgres` nor `nobody` to run PostgreSQL as")
    }

    /// Makes `command` run as this account.
    pub(crate) fn apply(self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives `path` to this account.
    pub(crate) fn own(self, path: &Path) -> Result<()> {
        match self.0 {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid))
                .with_context(|| format!("changing the owner of {}", path.display())),
            None => Ok(()),
        }
    }

    pub(crate) fn uid(self) -> u32 {
        self.0.map_or_else(|| Uid::effective().as_raw(), |(uid, _)| uid)
    }
}

/// The newest installation found.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    /// None: the programs are on PATH.
    bin: Option<PathBuf>,
    pub(super) account: Account,
    /// `15.14`
    pub(super) version: String,
}

impl Installation {
    /// Looks in the places of the packages, then on PATH.
    pub(super) async fn find() -> Result<Self> {
        let account = Account::choose()?;
        let unversioned = Self {
            bin: newest_bin(),
            account,
            version: String::new(),
        };
        let mut ask = unversioned.command("postgres");
        ask.arg("--version");
        let output = process::run(ask, VERSION_LIMIT)
            .await
            .context("asking PostgreSQL for its version")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split_whitespace()
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        let version = version
            .with_context(|| format!("no version in {text:?}"))?
            .to_owned();
        Ok(Self {
            version,
            ..unversioned
        })
    }

    /// One of PostgreSQL's programs, run as the account, in a directory that everybody may enter.
    pub(super) fn command(&self, program: &str) -> Command {
        let path = self
            .bin
            .as_ref()
            .map_or_else(|| PathBuf::from(program), |bin| bin.join(program));
        self.command_at(path)
    }

    /// Any other program, likewise.
    pub(super) fn command_at(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C");
        self.account.apply(&mut command);
        command
    }
}

/// The `bin` directory with the highest major version that has a server in it.
fn newest_bin() -> Option<PathBuf> {
    let homes = HOMES
        .iter()
        .filter_map(|(home, prefix)| Some((std::fs::read_dir(home).ok()?, *prefix)));
    let versions = homes.flat_map(|(entries, prefix)| {
        entries.flatten().filter_map(move |entry| {
            let major = entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse::<u32>()
                .ok()?;
            let bin = entry.path().join("bin");
            (bin.join("postgres").is_file() && bin.join("initdb").is_file()).then_some((major, bin))
        })
    });
    versions.max_by_key(|(major, _)| *major).map(|(_, bin)| bin)
}
