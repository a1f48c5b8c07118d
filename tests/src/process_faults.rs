//! What is done to the processes of a cluster, and what is noted when it happens.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::allowed_duplicates::Excuse;
use crate::cluster::Cluster;
use crate::fault::{Dependency, Fault};
use crate::process::Role;

const POLL: Duration = Duration::from_millis(100);
/// A SIGTERM must be obeyed within the grace period (25 s) and a little.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// How long SQL or Redis may be away when a process is killed; longer than that, counted crashes must do.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(20);
/// One look at SQL or Redis.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// A span in which nobody was at work in a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Absence {
    pub(crate) place: (Role, usize),
    pub(crate) from: Instant,
    pub(crate) to: Option<Instant>,
}

impl Cluster {
    /// Notes that a dependency is taken away now; ended by [`Self::fault_ends`]. The report measures from here.
    pub fn fault_begins(&mut self, what: &str, dependency: Dependency) {
        if let Some(last) = self.faults.last_mut() {
            last.passes_into_the_next();
        }
        self.faults.push(Fault::begin(what, dependency));
    }

    /// Notes that what was taken away last is there again.
    pub fn fault_ends(&mut self) {
        self.faults.last_mut().expect("a fault has begun").end();
    }

    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// SIGKILL. What it held is noted: a second execution of those jobs is excused.
    pub async fn sigkill(&mut self, role: Role, index: usize) -> Result<()> {
        let process = self.process(role, index);
        let (pid, name) = (process.pid(), process.name());
        process.sigkill().await?;
        self.purposely_ended(role, index);
        if role.runs_jobs() {
            self.note_excuse(&format!("{name} was killed"), pid);
        }
        Ok(())
    }

    /// SIGSTOP. What it holds is noted, because its lease may pass before [`Self::sigcont`].
    pub async fn sigstop(&mut self, role: Role, index: usize) -> Result<()> {
        let process = self.process(role, index);
        let (pid, name) = (process.pid(), process.name());
        process.child().sigstop()?;
        self.absent(role, index);
        if role.runs_jobs() {
            self.note_excuse(&format!("{name} was stopped"), pid);
        }
        Ok(())
    }

    pub fn sigcont(&mut self, role: Role, index: usize) -> Result<()> {
        self.present(role, index);
        self.process(role, index).child().sigcont()
    }

    /// SIGTERM, and waits for the end. No excuse: a rolling restart runs nothing twice.
    pub async fn sigterm(&mut self, role: Role, index: usize) -> Result<ExitStatus> {
        self.purposely_ended(role, index);
        self.process(role, index).sigterm(STOP_LIMIT).await
    }

    /// SIGTERM, without waiting: it may take the grace period. Go on with [`Self::has_ended`].
    pub fn begin_sigterm(&mut self, role: Role, index: usize) -> Result<()> {
        self.purposely_ended(role, index);
        self.process(role, index).child().sigterm()
    }

    /// How a process that was told to stop has ended; `None` while it has not.
    pub async fn has_ended(&mut self, role: Role, index: usize) -> Result<Option<ExitStatus>> {
        let process = self.process(role, index);
        if process.is_running()? {
            return Ok(None);
        }
        process.wait_exit(STOP_LIMIT).await.map(Some)
    }

    /// Starts a process again after its end, without waiting: what it needs may be away.
    pub fn launch_again(&mut self, role: Role, index: usize) -> Result<()> {
        self.present(role, index);
        self.process(role, index).start()
    }

    /// Starts a process again after its end, and waits until it is ready.
    pub async fn start_again(&mut self, role: Role, index: usize) -> Result<()> {
        self.launch_again(role, index)?;
        self.process(role, index).wait_ready().await
    }

    /// A process that ended by itself as the test wanted it to (a job that aborts): notes what it held. `pid` is that
    /// of the ended process.
    pub fn note_crash(&mut self, role: Role, index: usize, pid: u32) {
        let name = self.process(role, index).name();
        self.purposely_ended(role, index);
        self.note_excuse(&format!("{name} crashed"), Some(pid));
    }

    /// Has it noted what the process with this pid holds now. In the background: SQL or Redis may be away, and does
    /// not forget before a rescuer may act.
    fn note_excuse(&mut self, what: &str, pid: Option<u32>) {
        let mut excuse = Excuse::new(what);
        let (ledger, redis, pid) = (
            Arc::clone(&self.ledger),
            self.redis_truth(),
            pid.unwrap_or_default(),
        );
        self.excusing.push(tokio::spawn(async move {
            excuse.on_ledger = patiently(|| ledger.held_by(pid)).await;
            if let Some(redis) = redis {
                excuse.on_redis = patiently(|| redis.held()).await.unwrap_or_default();
            }
            excuse
        }));
    }

    /// What was held at each kill so far.
    pub async fn excuses(&mut self) -> Result<&[Excuse]> {
        for noting in std::mem::take(&mut self.excusing) {
            self.excuses.push(noting.await?);
        }
        Ok(&self.excuses)
    }

    fn absent(&mut self, role: Role, index: usize) {
        let (from, to) = (Instant::now(), None);
        self.absences.push(Absence {
            place: (role, index),
            from,
            to,
        });
    }

    fn present(&mut self, role: Role, index: usize) {
        let of_place = |absence: &&mut Absence| absence.place == (role, index) && absence.to.is_none();
        if let Some(absence) = self.absences.iter_mut().find(of_place) {
            absence.to = Some(Instant::now());
        }
    }

    fn purposely_ended(&mut self, role: Role, index: usize) {
        self.absent(role, index);
        *self.ended_on_purpose.entry((role, index)).or_default() += 1;
    }
}

/// Asks until there is an answer; `None` if that takes too long.
async fn patiently<T, F>(look: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T>>,
{
    let until = Instant::now() + SNAPSHOT_LIMIT;
    while Instant::now() < until {
        if let Ok(Ok(answer)) = tokio::time::timeout(LOOK_LIMIT, look()).await {
            return Some(answer);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}
