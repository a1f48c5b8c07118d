//! The initialised cluster that every server starts from a copy of.
//!
//! initdb takes half a second, a copy a tenth of that or, where a file system is slow to create files, up to
//! all of it: so the template has only the two databases that are needed, `holdfast` and `template1`. Under
//! nextest every test is a process, so the template lives in the directory that they share, named after
//! version and account. A file lock guards it: shared while it is copied, exclusive while it is made. It is
//! made aside and renamed, so that a half-made one is never seen; one older than a day is made anew, because
//! cleaners of temp directories take single files out of what is old.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::install::Installation;
use super::{DATABASE, OWNER, SUPERUSER};
use crate::{eventually, process, scratch};

const TOOL_LIMIT: Duration = Duration::from_mins(1);
const LOCK_LIMIT: Duration = Duration::from_mins(2);
const LOCK_POLL: Duration = Duration::from_millis(10);
const MAX_AGE: Duration = Duration::from_hours(24);
/// Part of the name: raise it when what `build` makes changes.
const REVISION: u32 = 2;

/// Copies the template to `target` (which must not exist), making the template first if need be.
pub(super) async fn copy_to(target: &Path, installation: &Installation) -> Result<()> {
    let home = home(installation)?;
    let template = home.join("template");
    let lock = File::options()
        .create(true)
        .append(true)
        .open(home.with_extension("lock"));
    let lock = lock.with_context(|| format!("opening the lock of {}", home.display()))?;
    acquire(|| lock.try_lock_shared()).await?;
    while !is_fresh(&template) {
        lock.unlock()?;
        acquire(|| lock.try_lock()).await?;
        if !is_fresh(&template) {
            build(&home, &template, installation).await?;
        }
        lock.unlock()?;
        acquire(|| lock.try_lock_shared()).await?;
    }
    let mut copy = installation.command_at("cp");
    copy.arg("-R").arg(&template).arg(target);
    process::run(copy, TOOL_LIMIT)
        .await
        .context("copying the PostgreSQL template")?;
    Ok(())
}

/// The template's parent directory; the account must be able to write there.
fn home(installation: &Installation) -> Result<PathBuf> {
    let Installation { account, version, .. } = installation;
    let home = scratch::shared_dir()?.join(format!(
        "postgres_{}_uid{}_r{REVISION}",
        version.replace('.', "_"),
        account.uid()
    ));
    match fs::create_dir(&home) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("creating {}", home.display()));
        }
        _ => account.own(&home)?,
    }
    Ok(home)
}

fn is_fresh(template: &Path) -> bool {
    let made = fs::metadata(template.join("PG_VERSION")).and_then(|file| file.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < MAX_AGE))
}

async fn acquire(try_lock: impl Fn() -> Result<(), TryLockError>) -> Result<()> {
    eventually(
        "the lock of the PostgreSQL template",
        LOCK_LIMIT,
        LOCK_POLL,
        || async {
            match try_lock() {
                Ok(()) => Some(Ok(())),
                Err(TryLockError::WouldBlock) => None,
                Err(TryLockError::Error(error)) => Some(Err(error)),
            }
        },
    )
    .await?
    .context("locking the PostgreSQL template")
}

/// initdb, then the tests' role and its database (the one that came as `postgres`), in single-user mode.
async fn build(home: &Path, template: &Path, installation: &Installation) -> Result<()> {
    let half_made = home.join("half-made");
    for leftover in [&half_made, &template.to_path_buf()] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).with_context(|| format!("removing {}", leftover.display()))?;
        }
    }
    let mut initdb = installation.command("initdb");
    initdb
        .args([
            "-U",
            SUPERUSER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ])
        .arg(&half_made);
    process::run(initdb, TOOL_LIMIT).await?;
    for statement in [
        format!("CREATE ROLE {OWNER} LOGIN CREATEDB"),
        format!("ALTER DATABASE postgres RENAME TO {DATABASE}"),
        format!("ALTER DATABASE {DATABASE} OWNER TO {OWNER}"),
        "ALTER DATABASE template0 IS_TEMPLATE false".to_owned(),
        "DROP DATABASE template0".to_owned(),
    ] {
        run_single_user(&half_made, &statement, installation).await?;
    }
    fs::rename(&half_made, template).context("putting the PostgreSQL template in place")
}

async fn run_single_user(cluster: &Path, statement: &str, installation: &Installation) -> Result<()> {
    let server = installation.command("postgres");
    let mut shell = installation.command_at("sh");
    shell.args([
        "-c",
        r#"printf '%s;\n' "$1" | "$2" --single -F -j -D "$3" template1"#,
        "single-user",
        statement,
    ]);
    shell.arg(server.get_program()).arg(cluster);
    let output = process::run(shell, TOOL_LIMIT).await?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(!complaints.contains("ERROR"), "{statement}: {complaints}");
    Ok(())
}
