//! A heartbeat: the lease lives on; progress and lines come with it; what is to be stopped goes back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use holdfast_core::clock;
use serde_json::value::RawValue;

use super::memory::Session;
use super::rows::{self, LeasedRow, Payloads};
use super::{MAX_HELD, PullError, PullWorkers, fence_of};
use crate::enqueue::Fault;
use crate::id::{JobId, WorkerId};
use crate::job_log::{self, Line};
use crate::ledger::{Heartbeat, LedgerError, Progress, WorkerReport};

/// Longest progress of one job, in bytes.
const MAX_PROGRESS_BYTES: usize = 65_536;

/// Most jobs whose progress, and most lines that one heartbeat brings.
const MAX_NEWS: usize = 1_000;

/// What a worker says of itself.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// Every job that the client has.
    pub running: Vec<JobId>,
    /// The newest progress of some of them.
    pub progress: Vec<(JobId, Box<RawValue>)>,
    /// Lines of handlers, for the logs of their jobs.
    pub log: Vec<ReportedLine>,
}

/// A line that a handler wrote.
#[derive(Debug, Clone)]
pub struct ReportedLine {
    pub job: JobId,
    /// As the pull gave it. `None`: of the execution that the worker has now.
    pub fence: Option<String>,
    pub line: String,
}

/// What the worker is told.
#[derive(Debug, Clone, Default)]
pub struct BeatAnswer {
    /// Jobs that are to stop: somebody has cancelled them.
    pub cancel: Vec<JobId>,
    /// Jobs that are no longer the worker's: their outcomes would be void.
    pub lost: Vec<JobId>,
    /// Take no more jobs: finish what there is, and leave.
    pub drain: bool,
}

impl PullWorkers {
    /// Renews the worker's lease, even a late one; see the module.
    pub async fn beat(&self, owner: &str, worker: WorkerId, beat: Beat) -> Result<BeatAnswer, PullError> {
        check(&beat).map_err(|fault| PullError::Invalid(vec![fault]))?;
        if let Some(answer) = self.beat_of_idle(owner, worker, &beat).await? {
            return Ok(answer);
        }
        // An order to drain is to be heard with the next heartbeat.
        let session = self.read_session(owner, worker).await?;
        let (jobs, sql) = (&self.0.jobs, self.0.jobs.sql());
        let payloads = if beat.log.is_empty() || !jobs.has_marks() {
            Payloads::LeftOut
        } else {
            Payloads::Read
        };
        let leased = rows::leased(sql, worker, &beat.running, payloads).await?;
        let mut running: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for one in leased.values() {
            *running.entry(Arc::clone(&one.queue)).or_default() += 1;
        }
        let report = WorkerReport {
            id: worker,
            name: session.name.clone(),
            queues: Vec::new(),
            started_at: clock::now(),
            stats: self.0.memory.stats(worker, &running),
            client: None,
        };
        if jobs.ledger().heartbeat(&report).await? == Heartbeat::Lost {
            self.0.memory.forget(worker);
            return Err(PullError::UnknownWorker(worker));
        }
        self.0.memory.heard(worker);
        let progress: Vec<Progress> = beat
            .progress
            .into_iter()
            .filter_map(|(id, value)| {
                let fence = leased.get(&id)?.job.fence();
                Some(Progress {
                    fence,
                    value: Arc::from(value),
                })
            })
            .collect();
        if !progress.is_empty() {
            jobs.ledger().store_progress(worker, &progress).await?;
        }
        self.store_lines(worker, &beat.log, &leased).await?;
        let cancelled = leased.iter().filter(|(_, leased)| leased.cancel_requested);
        Ok(BeatAnswer {
            cancel: cancelled.map(|(id, _)| *id).collect(),
            lost: beat
                .running
                .into_iter()
                .filter(|id| !leased.contains_key(id))
                .collect(),
            drain: session.draining,
        })
    }

    /// Stores lines of jobs that are the worker's. A heartbeat that is repeated after a lost reply stores its lines twice.
    async fn store_lines(
        &self,
        worker: WorkerId,
        lines: &[ReportedLine],
        leased: &HashMap<JobId, LeasedRow>,
    ) -> Result<(), PullError> {
        let mut written: BTreeMap<JobId, Vec<Line>> = BTreeMap::new();
        for reported in lines {
            let Some(leased) = leased.get(&reported.job) else {
                continue;
            };
            let fence = reported.fence.as_deref();
            if fence.is_none_or(|fence| fence_of(reported.job, fence) == Some(leased.job.fence())) {
                let lines = written.entry(reported.job).or_default();
                lines.push(Line::new(&reported.line));
            }
        }
        let mut chunks = Vec::new();
        for (id, mut lines) in written {
            let job = &leased[&id].job;
            self.0.jobs.clean_lines(job, &mut lines);
            chunks.extend(job_log::chunks(job.fence(), lines));
        }
        job_log::append(self.0.jobs.sql(), worker, &chunks).await?;
        Ok(())
    }

    /// The heartbeat of a worker that has nothing and reports nothing new: the group renews its lease. `None`: it is no such heartbeat,
    /// or the group failed.
    async fn beat_of_idle(
        &self,
        owner: &str,
        worker: WorkerId,
        beat: &Beat,
    ) -> Result<Option<BeatAnswer>, PullError> {
        let has_news = !(beat.running.is_empty() && beat.progress.is_empty() && beat.log.is_empty());
        if has_news || !self.0.memory.is_quiet(worker) {
            return Ok(None);
        }
        self.session(owner, worker).await?;
        match self.0.renewals.join(worker).answer().await {
            Some(true) => {}
            Some(false) => return Err(PullError::UnknownWorker(worker)),
            None => return Ok(None),
        }
        let session = self.session(owner, worker).await?;
        Ok(Some(BeatAnswer {
            drain: session.draining,
            ..BeatAnswer::default()
        }))
    }

    /// The worker's row, if this caller registered it.
    pub(super) async fn session(&self, owner: &str, worker: WorkerId) -> Result<Arc<Session>, PullError> {
        match self.0.memory.session(worker) {
            Some(session) if session.client.owner == owner => Ok(session),
            Some(_) => Err(PullError::UnknownWorker(worker)),
            None => self.read_session(owner, worker).await,
        }
    }

    async fn read_session(&self, owner: &str, worker: WorkerId) -> Result<Arc<Session>, PullError> {
        let Some(session) = rows::session(self.0.jobs.sql(), worker).await? else {
            self.0.memory.forget(worker);
            return Err(PullError::UnknownWorker(worker));
        };
        if session.client.owner != owner {
            return Err(PullError::UnknownWorker(worker));
        }
        let session = Arc::new(session);
        self.0.memory.remember(worker, &session);
        Ok(session)
    }

    /// Who registered the worker; `None`: it is gone.
    pub(super) async fn owner_of(&self, worker: WorkerId) -> Result<Option<String>, LedgerError> {
        let session = rows::session(self.0.jobs.sql(), worker).await?;
        Ok(session.map(|session| session.client.owner))
    }
}

fn check(beat: &Beat) -> Result<(), Fault> {
    if beat.running.len() > MAX_HELD {
        return Err(Fault::field(
            "running",
            format!("must name at most {MAX_HELD} jobs"),
        ));
    }
    if beat.progress.len() > MAX_NEWS {
        return Err(Fault::field(
            "progress",
            format!("must be of at most {MAX_NEWS} jobs"),
        ));
    }
    if beat.log.len() > MAX_NEWS {
        return Err(Fault::field("log", format!("must have at most {MAX_NEWS} lines")));
    }
    let running: HashSet<&JobId> = beat.running.iter().collect();
    for (id, value) in &beat.progress {
        if !running.contains(id) {
            return Err(Fault::field(
                &format!("progress.{id}"),
                "is not among the running jobs",
            ));
        }
        if value.get().len() > MAX_PROGRESS_BYTES {
            let rule = format!("must have at most {MAX_PROGRESS_BYTES} bytes");
            return Err(Fault::field(&format!("progress.{id}"), rule));
        }
    }
    Ok(())
}
