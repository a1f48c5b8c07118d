//! Where a process can be told to die or to stop, so that tests can prove that neither loses anything.
//!
//! `HOLDFAST_FAILPOINT=claim:3` makes a debug build kill itself with SIGKILL when it comes to the point `claim` for the
//! third time. `HOLDFAST_FAILPOINT=stop@claim:3` has it stop itself there with SIGSTOP, until somebody continues it. Release
//! builds compile [`reach`] to nothing.
//!
//! | point | the process dies or stops |
//! | --- | --- |
//! | `insert` | before the ledger's insert is sent |
//! | `commit` | after the insert was committed, before anyone is rung or answered |
//! | `ring` | after the ring was handed over, before the producer is answered |
//! | `claim` | after jobs were claimed, before they are started |
//! | `pulled` | after jobs were claimed for a pull worker, before it is answered |
//! | `run` | when a handler is about to start |
//! | `finish` | before outcomes are written |
//! | `tied` | after outcomes, and what hangs on them, were written, before that is committed |
//! | `finished` | after outcomes were written, before their places are freed |
//! | `broker.push` | after a push to the broker was answered, before the producer is |
//! | `broker.fetch` | after jobs were fetched from the broker, before they are started |
//! | `acknowledge` | before outcomes are told to the broker |
//! | `acknowledged` | after they were told |

/// Every point there is.
pub const POINTS: [&str; 13] = [
    "insert",
    "commit",
    "ring",
    "claim",
    "pulled",
    "run",
    "finish",
    "tied",
    "finished",
    "broker.push",
    "broker.fetch",
    "acknowledge",
    "acknowledged",
];

/// Dies or stops here if the process was told to.
#[inline]
pub fn reach(point: &'static str) {
    #[cfg(debug_assertions)]
    armed::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Before the point's name: stop there.
    const STOP: &str = "stop@";

    /// In place of a point: the process neither dies nor stops, although one was set before its restart.
    const NONE: &str = "none";

    /// The point, and how often it may still be passed.
    static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

    pub(super) fn reach(point: &'static str) {
        debug_assert!(super::POINTS.contains(&point), "{point} is not in POINTS");
        let armed = ARMED.get_or_init(|| {
            let (point, times) = crate::config::failpoint()?;
            let name = point.strip_prefix(STOP).unwrap_or(&point);
            if name == NONE {
                return None;
            }
            assert!(
                super::POINTS.contains(&name),
                "HOLDFAST_FAILPOINT: there is no point {name}"
            );
            Some((point, AtomicU32::new(times)))
        });
        if let Some((name, left)) = armed
            && name.strip_prefix(STOP).unwrap_or(name) == point
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            if name.starts_with(STOP) {
                stop();
            } else {
                die();
            }
        }
    }

    /// As a host that is suspended: every thread, wherever it is. Goes on when the process is continued.
    fn stop() {
        let pid = std::process::id().to_string();
        // A process that cannot be stopped goes on: the test that wanted it finds no stopped process.
        let _ = std::process::Command::new("kill").args(["-STOP", &pid]).status();
    }

    /// No destructor, no flush, no handler: as the kernel would on running out of memory.
    fn die() {
        let pid = std::process::id().to_string();
        let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status();
        // Where there is no `kill`, an abort is the next best thing.
        if killed.is_err() {
            std::process::abort();
        }
        loop {
            std::thread::park();
        }
    }
}
