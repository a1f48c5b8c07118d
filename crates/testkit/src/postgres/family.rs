//! The processes a postmaster has forked.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Signals every child of `parent`, which must not fork meanwhile. One that has ended by itself is no error.
pub(super) fn signal_children(parent: u32, signal: Signal) -> Result<()> {
    for child in children(parent)? {
        match kill(Pid::from_raw(child as i32), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("sending {signal} to a backend ({child})"));
            }
        }
    }
    Ok(())
}

fn children(parent: u32) -> Result<Vec<u32>> {
    if cfg!(target_os = "linux") {
        children_in_proc(parent)
    } else {
        children_by_ps(parent)
    }
}

fn children_in_proc(parent: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|pid| parent_in_proc(*pid) == Some(parent)).collect())
}

/// None if the process has ended meanwhile.
fn parent_in_proc(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name) state ppid …`, where the name may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn children_by_ps(parent: u32) -> Result<Vec<u32>> {
    let output = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output()
        .context("running ps")?;
    ensure!(
        output.status.success(),
        "ps failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let pairs = text.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    Ok(pairs
        .filter(|(_, its_parent)| *its_parent == parent)
        .map(|(pid, _)| pid)
        .collect())
}
