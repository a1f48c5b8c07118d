//! Child processes: started as leaders of their own group, signalled by pid, never left behind.
//!
//! A pid is signalled only until the process is reaped here, so it can never mean a stranger.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::{INSTALL_HINT, reaper};

/// SIGKILL ends even a stopped process; what takes longer sits in the kernel, and Drop gives up on it.
const REAP_LIMIT: Duration = Duration::from_secs(10);

/// A running (or exited, not yet dropped) child.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: u32,
    child: tokio::process::Child,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` in a process group of its own, stdin closed.
    pub(crate) fn spawn(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|error| spawn_error(&program, error))?;
        let pid = child.id().with_context(|| format!("{name} has no pid"))?;
        reaper::watch(pid);
        Ok(Self {
            name: name.to_owned(),
            pid,
            child,
            exit: None,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The exit status, if it has ended.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none()
            && let Some(status) = self
                .child
                .try_wait()
                .with_context(|| format!("waiting for {}", self.name))?
        {
            self.reaped(status);
        }
        Ok(self.exit)
    }

    /// Signals the process alone.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.ensure_running(signal)?;
        kill(self.nix_pid(), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Signals the process and whatever it forked without a new session.
    pub(crate) fn signal_group(&mut self, signal: Signal) -> Result<()> {
        self.ensure_running(signal)?;
        killpg(self.nix_pid(), signal)
            .with_context(|| format!("sending {signal} to the group of {}", self.name))
    }

    /// Waits for the end of the process.
    pub(crate) async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        let status = tokio::time::timeout(deadline, self.child.wait())
            .await
            .map_err(|_| {
                anyhow!(
                    "{} (pid {}) did not exit within {deadline:?}",
                    self.name,
                    self.pid
                )
            })?
            .with_context(|| format!("waiting for {}", self.name))?;
        self.reaped(status);
        Ok(status)
    }

    /// SIGKILLs the group and reaps the process; no error if it has ended before.
    pub(crate) async fn kill(&mut self) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            self.signal_group(Signal::SIGKILL)?;
        }
        self.wait(REAP_LIMIT).await
    }

    /// Waits for the end without a runtime, for Drop; false if it has not come within `limit`.
    pub(crate) fn reap_blocking(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        loop {
            match self.exited() {
                Ok(Some(_)) => return true,
                Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(1)),
                _ => return false,
            }
        }
    }

    fn ensure_running(&mut self, signal: Signal) -> Result<()> {
        let (name, exited) = (self.name.clone(), self.exited()?);
        ensure!(
            exited.is_none(),
            "cannot send {signal} to {name}: it has ended with {exited:?}"
        );
        Ok(())
    }

    fn reaped(&mut self, status: ExitStatus) {
        reaper::release(self.pid);
        self.exit = Some(status);
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.pid as i32)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_some() {
            return;
        }
        // Not reaped yet, so the pid is still ours; an error here means that the whole group is gone already.
        let _ = killpg(self.nix_pid(), Signal::SIGKILL);
        self.reap_blocking(REAP_LIMIT);
    }
}

/// Runs a tool to its end and returns its output; its failure is an error that shows what it wrote.
pub(crate) async fn run(mut command: Command, deadline: Duration) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| spawn_error(&program, error))?;
    let output = tokio::time::timeout(deadline, child.wait_with_output())
        .await
        .map_err(|_| anyhow!("{program} did not finish within {deadline:?}"))?
        .with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output)
}

fn spawn_error(program: &str, error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return anyhow!("`{program}` was not found; {INSTALL_HINT}");
    }
    anyhow::Error::new(error).context(format!("starting `{program}`"))
}

/// The last 4 KiB of a log file, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    const SHOWN: u64 = 4096;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(no log: {error})"))
}

/// Where a server keeps its current process; shared by reference, one change at a time.
#[derive(Debug)]
pub(crate) struct Slot {
    name: String,
    process: tokio::sync::Mutex<Option<Process>>,
    last_pid: AtomicU32,
}

impl Slot {
    pub(crate) fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            process: tokio::sync::Mutex::new(None),
            last_pid: AtomicU32::new(0),
        }
    }

    /// The pid of the process that runs now, or ran last.
    pub(crate) fn pid(&self) -> u32 {
        self.last_pid.load(Ordering::SeqCst)
    }

    /// Starts `command`; an error if the process before it still runs.
    pub(crate) async fn start(&self, command: Command) -> Result<()> {
        let mut slot = self.process.lock().await;
        if let Some(process) = slot.as_mut() {
            ensure!(process.exited()?.is_some(), "{} already runs", self.name);
        }
        let process = Process::spawn(&self.name, command)?;
        self.last_pid.store(process.pid(), Ordering::SeqCst);
        *slot = Some(process);
        Ok(())
    }

    /// The exit status, if the process has ended. None also before the first start.
    pub(crate) async fn exited(&self) -> Result<Option<ExitStatus>> {
        match self.process.lock().await.as_mut() {
            Some(process) => process.exited(),
            None => Ok(None),
        }
    }

    pub(crate) async fn is_running(&self) -> Result<bool> {
        match self.process.lock().await.as_mut() {
            Some(process) => Ok(process.exited()?.is_none()),
            None => Ok(false),
        }
    }

    pub(crate) async fn signal(&self, signal: Signal) -> Result<()> {
        self.running(&mut *self.process.lock().await)?.signal(signal)
    }

    pub(crate) async fn signal_group(&self, signal: Signal) -> Result<()> {
        self.running(&mut *self.process.lock().await)?
            .signal_group(signal)
    }

    /// SIGKILL to the group, and reaped. No error if it is not running.
    pub(crate) async fn kill(&self) -> Result<()> {
        if let Some(process) = self.process.lock().await.as_mut() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Sends `signal` (after SIGCONT, lest a stopped process never see it) and waits for the end. No error if
    /// it is not running.
    pub(crate) async fn stop(&self, signal: Signal, deadline: Duration) -> Result<()> {
        let mut slot = self.process.lock().await;
        let Some(process) = slot.as_mut() else {
            return Ok(());
        };
        if process.exited()?.is_none() {
            process.signal_group(Signal::SIGCONT)?;
            process.signal(signal)?;
            process.wait(deadline).await?;
        }
        Ok(())
    }

    /// The process, if it may still run; for an owner's Drop.
    pub(crate) fn get_mut(&mut self) -> Option<&mut Process> {
        self.process
            .get_mut()
            .as_mut()
            .filter(|process| process.exit.is_none())
    }

    fn running<'a>(&self, slot: &'a mut Option<Process>) -> Result<&'a mut Process> {
        slot.as_mut()
            .with_context(|| format!("{} is not running", self.name))
    }
}
