//! The process' own figures, from Linux' `/proc`. Elsewhere all but the start are absent.

use std::sync::LazyLock;

use super::catalogue;
use crate::clock;

/// `sysconf(_SC_CLK_TCK)`, which Linux fixes at 100 for every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

static STARTED: LazyLock<f64> = LazyLock::new(|| clock::unix_millis() as f64 / 1_000.0);

pub(super) fn measure() {
    catalogue::PROCESS_START.with([]).set(*STARTED);
    catalogue::BUILD_INFO.with([env!("CARGO_PKG_VERSION")]).set(1.0);
    if let Some(kilobytes) = resident_kilobytes() {
        catalogue::PROCESS_MEMORY.with([]).set(kilobytes * 1_024.0);
    }
    if let Some(ticks) = cpu_ticks() {
        catalogue::PROCESS_CPU.with([]).set(ticks / TICKS_PER_SECOND);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        catalogue::PROCESS_FDS.with([]).set(open.count() as f64);
    }
}

fn resident_kilobytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time. The name before them may hold spaces and parentheses, so it counts from the last `)`.
fn cpu_ticks() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some(user + system)
}
