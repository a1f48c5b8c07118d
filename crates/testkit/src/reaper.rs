//! Kills and removes what this process leaves behind when it cannot do so itself.
//!
//! Drop does not run in a test process that a runner's timeout or an abort kills. So the first server starts
//! a small shell in a process group of its own, which holds the read end of a pipe. It learns every pid and
//! directory over it; when the pipe closes, for whatever reason, it SIGKILLs the pids that were not released
//! and removes the directories. Should the shell be gone itself, only this safety net is missing: the
//! messages to it are then void.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

/// A pid stands for its process group as well: every server is started as the leader of one. Children are
/// killed too, since those of PostgreSQL lead groups of their own, and would stay if they were frozen.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
pids=
while read -r verb what; do
    case $verb in
        watch) pids="$pids $what" ;;
        release)
            rest=
            for pid in $pids; do [ "$pid" = "$what" ] || rest="$rest $pid"; done
            pids=$rest ;;
        remove) case $what in */holdfast-testkit-*) set -- "$@" "$what" ;; esac ;;
    esac
done
for pid in $pids; do
    kill -STOP "$pid"
    for child in $(pgrep -P "$pid"); do kill -9 "$child"; done
    kill -9 "-$pid"
done
if [ $# -gt 0 ]; then rm -rf -- "$@"; fi
"#;

#[allow(
    clippy::zombie_processes,
    reason = "it outlives this process by design, and is then init's"
)]
static PIPE: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT, "holdfast-testkit-undertaker"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .expect("a POSIX shell `sh` on PATH");
    Mutex::new(shell.stdin.take().expect("stdin was piped"))
});

/// Kill the process group `pid` if this process ends without [`release`]-ing it.
pub(crate) fn watch(pid: u32) {
    tell(format_args!("watch {pid}\n"));
}

/// The process has been reaped: its number may soon be somebody else's.
pub(crate) fn release(pid: u32) {
    tell(format_args!("release {pid}\n"));
}

/// Remove `dir` when this process has ended (a directory that is gone by then does no harm).
pub(crate) fn remove_afterwards(dir: &Path) {
    tell(format_args!("remove {}\n", dir.display()));
}

fn tell(message: std::fmt::Arguments<'_>) {
    let line = message.to_string();
    // A closed pipe means that the net is gone, not that the test is wrong.
    let _ = PIPE.lock().unwrap().write_all(line.as_bytes());
}
