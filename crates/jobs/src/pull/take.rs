//! A pull: what the worker holds and does not have, then what it can claim, then a wait for more.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::failpoint;
use holdfast_core::telemetry::catalogue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hub::{Poll, Wake};
use super::memory::{PendingPull, Session};
use super::renewals::Renewal;
use super::rows::{self, Payloads};
use super::{ANSWER_BYTES, MAX_HELD, MAX_JOBS, PullError, PullWorkers, SUSPECT_REST, UNKNOWN_KIND_REST};
use crate::claiming;
use crate::enqueue::Fault;
use crate::expiry;
use crate::id::{JobId, WorkerId};
use crate::ledger::{ClaimedJob, ErrorRecord, LedgerError, Outcome, UNREADABLE};
use crate::limits::ClaimRequest;
use crate::worker::MISSING_KEY_PAUSE;
use crate::worker::lane::waited_since;

/// Jobs of the first claim: before one has answered, nobody knows how long payloads are.
const FIRST_SLICE: usize = 256;

/// A queue that another claim has locked is asked again after this.
const CONTENTION_REST: Duration = Duration::from_millis(20);

/// A pull that waits for less claims in any case: no ring may come in this time.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// How often one claim is repeated because a queue has limits, or none, against what was known.
const TRIES: usize = 3;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Jobs at most, 1 to [`MAX_JOBS`].
    pub max: usize,
    /// Longest wait for the first job.
    pub wait: Duration,
    /// Every job that the client has.
    pub have: Vec<JobId>,
}

/// A job that the worker is to run.
#[derive(Debug, Clone)]
pub struct PulledJob {
    pub job: ClaimedJob,
    pub queue: Arc<str>,
}

/// The answer to a pull.
#[derive(Debug, Clone, Default)]
pub struct PullAnswer {
    pub jobs: Vec<PulledJob>,
    /// Take no more: finish what there is, and leave.
    pub drain: bool,
    /// The id has been given many jobs: register again when it suits, and leave with the old id once it has none.
    pub register_again: bool,
}

/// What a pull claims for.
#[derive(Clone, Copy)]
struct PullClaim<'p> {
    session: &'p Session,
    worker: WorkerId,
    poll: &'p Poll,
    have: &'p HashSet<JobId>,
    begun: Instant,
    deadline: Instant,
}

/// The answer as it grows.
struct Answer {
    jobs: Vec<PulledJob>,
    most: usize,
    bytes: usize,
    /// A suspect is among them.
    has_suspect: bool,
}

impl Answer {
    fn room(&self) -> usize {
        if self.bytes >= ANSWER_BYTES {
            0
        } else {
            self.most - self.jobs.len().min(self.most)
        }
    }

    /// How many to ask for at once, by the length of those that came.
    fn slice(&self) -> usize {
        let fits = match self.jobs.len() {
            0 => FIRST_SLICE,
            jobs => (ANSWER_BYTES.saturating_sub(self.bytes) / (self.bytes / jobs).max(1)).max(1),
        };
        self.room().min(fits)
    }

    fn add(&mut self, job: ClaimedJob, queue: &Arc<str>) {
        let previous = job
            .options
            .previous
            .as_ref()
            .and_then(|previous| previous.result.as_ref());
        self.bytes += job.payload.get().len() + previous.map_or(0, |result| result.get().len());
        self.jobs.push(PulledJob {
            job,
            queue: Arc::clone(queue),
        });
    }
}

impl PullWorkers {
    /// Gives the worker jobs, as soon as there are any, or nothing after the wait or when `stop` is cancelled.
    pub async fn pull(
        &self,
        owner: &str,
        worker: WorkerId,
        asked: PullRequest,
        stop: &CancellationToken,
    ) -> Result<PullAnswer, PullError> {
        if !(1..=MAX_JOBS).contains(&asked.max) {
            return Err(PullError::Invalid(vec![Fault::field(
                "max",
                format!("must be 1 to {MAX_JOBS}"),
            )]));
        }
        if asked.have.len() > MAX_HELD {
            let rule = format!("must name at most {MAX_HELD} jobs");
            return Err(PullError::Invalid(vec![Fault::field("have", rule)]));
        }
        let session = self.session(owner, worker).await?;
        let mut renewal = self.renew(worker).await?;
        let have: HashSet<JobId> = asked.have.into_iter().collect();
        let mut answer = Answer {
            jobs: Vec::new(),
            most: asked.max.min(MAX_HELD - have.len()),
            bytes: 0,
            has_suspect: false,
        };
        let poll = self.0.hub.enter(worker, &session.queues)?;
        let mut pulling = self.0.memory.begin(worker);
        if self.0.memory.must_look(worker, &have) {
            self.give_again(&session, worker, &have, &mut answer).await?;
        }
        let begun = Instant::now();
        let deadline = begun + asked.wait;
        if !session.draining {
            let filling = PullClaim {
                session: &session,
                worker,
                poll: &poll,
                have: &have,
                begun,
                deadline,
            };
            self.fill(&filling, &mut renewal, &mut pulling, &mut answer, stop)
                .await?;
        }
        let mut jobs = answer.jobs;
        if poll.is_superseded() {
            // Its client waits for the newer one, which is to give these.
            if !jobs.is_empty() {
                pulling.claims();
                jobs.clear();
            }
            drop(pulling);
            drop(poll);
            self.0.hub.wake_worker(worker);
        } else {
            drop(poll);
            pulling.gave(jobs.iter().map(|given| given.job.id));
        }
        failpoint::reach("pulled");
        Ok(PullAnswer {
            jobs,
            drain: self.0.memory.is_draining(worker),
            register_again: self.0.memory.is_worn(worker),
        })
    }

    /// The lease lives on from here: it is renewed now, or holds for certain until the group of the next renewals has renewed it.
    async fn renew(&self, worker: WorkerId) -> Result<Renewal, PullError> {
        if self.0.memory.is_fresh(worker) {
            return Ok(self.0.renewals.join(worker));
        }
        self.renew_now(worker).await?;
        Ok(Renewal::done())
    }

    async fn renew_now(&self, worker: WorkerId) -> Result<(), PullError> {
        let began = Instant::now();
        let found = self.0.jobs.ledger().renew(&[worker], &[]).await?;
        let Some(lease) = found.first() else {
            self.0.memory.forget(worker);
            return Err(PullError::UnknownWorker(worker));
        };
        self.0.memory.renewed(lease, began, false);
        Ok(())
    }

    /// The end of a renewal in a group.
    async fn settle(&self, worker: WorkerId, has_row: Option<bool>) -> Result<(), PullError> {
        match has_row {
            Some(true) => Ok(()),
            Some(false) => Err(PullError::UnknownWorker(worker)),
            None => self.renew_now(worker).await,
        }
    }

    /// Claims until there is a job, or no more time.
    async fn fill(
        &self,
        filling: &PullClaim<'_>,
        renewal: &mut Renewal,
        pulling: &mut PendingPull,
        answer: &mut Answer,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        let PullClaim {
            session,
            worker,
            poll,
            have,
            begun,
            deadline,
        } = *filling;
        self.declare_limits().await?;
        let mut queues = self.served(session).await?;
        if deadline.saturating_duration_since(Instant::now()) >= SHORT_WAIT {
            queues.retain(|queue| !self.0.hub.is_empty(queue));
        }
        loop {
            for queue in &queues {
                if poll.is_superseded() {
                    // Its wake-ups were taken off for claims that it does not make: they are for other pulls.
                    for queue in &queues {
                        self.0.hub.wake(queue);
                    }
                    return Ok(());
                }
                if let Err(error) = self.claim(filling, queue, pulling, answer).await {
                    if error.is_contention() {
                        self.0.hub.alarm(queue, CONTENTION_REST);
                    } else if answer.jobs.is_empty() {
                        return Err(error.into());
                    } else {
                        // What was claimed is given now; what may have been claimed is looked for by the next pull.
                        tracing::debug!(queue = %queue, error = ?error, "a pull ends early");
                        return Ok(());
                    }
                }
            }
            if !answer.jobs.is_empty() {
                return Ok(());
            }
            let woken = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break Wake::TimeIsUp,
                    has_row = renewal.answer(), if renewal.is_pending() => {
                        self.settle(worker, has_row).await?;
                        if self.0.memory.has_losses(worker) {
                            break Wake::Woken;
                        }
                    }
                    woken = self.wait(worker, poll, begun, deadline) => break woken,
                }
            };
            if woken != Wake::Woken {
                return Ok(());
            }
            queues = poll.take_wakes().into_iter().collect();
            if self.0.memory.has_losses(worker) {
                self.give_again(session, worker, have, answer).await?;
            }
        }
    }

    /// A worker that is not heard of is answered before its lease ends, so that it can say that it lives. The pull that began then said
    /// so too: its renewal may be under way.
    async fn wait(&self, worker: WorkerId, poll: &Poll, begun: Instant, deadline: Instant) -> Wake {
        loop {
            let Some(heard_at) = self.0.memory.heard_at(worker) else {
                return Wake::TimeIsUp;
            };
            let quiet = heard_at.max(begun) + self.lost_after() / 2;
            match poll.wait(deadline.min(quiet)).await {
                Wake::TimeIsUp if quiet < deadline && self.0.memory.heard_at(worker) > Some(heard_at) => {}
                woken => return woken,
            }
        }
    }

    /// The worker's queues that are still those of pull workers.
    async fn served(&self, session: &Session) -> Result<BTreeSet<Arc<str>>, LedgerError> {
        let jobs = &self.0.jobs;
        let names: Vec<&str> = session.queues.iter().map(|queue| &**queue).collect();
        jobs.look_up(&[], &names).await?;
        let is_served =
            |queue: &&Arc<str>| jobs.fleet_of(queue) == Some(holdfast_core::config::ServedBy::Pull);
        Ok(session.queues.iter().filter(is_served).cloned().collect())
    }

    async fn declare_limits(&self) -> Result<(), LedgerError> {
        let declare = async || self.0.jobs.limits().declare(&self.0.settings.queues).await;
        self.0.limits_declared.get_or_try_init(declare).await.copied()
    }

    /// Claims from one queue as long as it gives and there is room.
    async fn claim(
        &self,
        filling: &PullClaim<'_>,
        queue: &Arc<str>,
        pulling: &mut PendingPull,
        answer: &mut Answer,
    ) -> Result<(), LedgerError> {
        let mut tries = 0;
        while answer.room() > 0 && tries < TRIES {
            let limited = self.0.hub.is_limited(queue);
            let wakes = self.0.hub.wakes(queue);
            let asked = ClaimRequest {
                queue,
                worker: filling.worker,
                room: answer.slice(),
                lost_after: self.lost_after(),
            };
            pulling.claims();
            let claimed = claiming::claim(&self.0.jobs, asked, limited)
                .await
                .map_err(|failure| failure.error)?;
            failpoint::reach("claim");
            let claimed_none = claimed.jobs.is_empty();
            if claimed_none && answer.jobs.is_empty() {
                pulling.took_nothing();
            }
            if claimed.limited != limited {
                self.0.hub.set_limited(queue, claimed.limited);
                tries += 1;
                continue;
            }
            if let Some(again_in) = claimed.again_in {
                self.0.hub.alarm(queue, again_in);
            }
            if !claimed.jobs.is_empty() {
                // There may be more for others who wait.
                self.0.hub.wake(queue);
                let PullClaim {
                    session,
                    worker,
                    have,
                    ..
                } = *filling;
                self.admit(session, worker, queue, claimed.jobs, have, answer)
                    .await?;
            }
            if !claimed.more {
                if claimed_none && !limited {
                    self.0.hub.found_empty(queue, wakes);
                }
                break;
            }
        }
        Ok(())
    }

    /// Gives what is leased to the worker and not among what it has, as far as there is room.
    async fn give_again(
        &self,
        session: &Session,
        worker: WorkerId,
        have: &HashSet<JobId>,
        answer: &mut Answer,
    ) -> Result<(), LedgerError> {
        let losses = self.0.memory.losses(worker);
        let given = answer.jobs.iter().map(|given| given.job.id);
        let known: Vec<JobId> = have.iter().copied().chain(given).collect();
        let unknown = self.0.jobs.ledger().unknown_to_worker(worker, &known).await?;
        let ids: Vec<JobId> = unknown.iter().map(|fence| fence.id).collect();
        let mut left = &ids[..];
        while !left.is_empty() && answer.room() > 0 {
            let (now, later) = left.split_at(answer.slice().min(left.len()));
            left = later;
            let leased = rows::leased(self.0.jobs.sql(), worker, now, Payloads::Read).await?;
            for (_, one) in leased {
                self.admit(session, worker, &one.queue, vec![one.job], have, answer)
                    .await?;
            }
        }
        let given = answer.jobs.len();
        if given > 0 {
            tracing::debug!(worker = %session.name, jobs = given, "jobs are given again: a reply was lost");
        }
        self.0.memory.looked(worker, have, losses, left.is_empty());
        Ok(())
    }

    /// Puts those jobs into the answer that the worker may run; the others go where they would go from a Rust worker.
    async fn admit(
        &self,
        session: &Session,
        worker: WorkerId,
        queue: &Arc<str>,
        mut jobs: Vec<ClaimedJob>,
        have: &HashSet<JobId>,
        answer: &mut Answer,
    ) -> Result<(), LedgerError> {
        self.learn_unchecked(&jobs).await?;
        self.0.jobs.mark_expired(&mut jobs).await;
        let mut unrun = Vec::new();
        for mut job in jobs {
            let refused = refuse(session, queue, &job)
                .or_else(|| self.open_payload(session, &mut job))
                .or_else(|| self.refuse_payload(session, &job));
            if let Some(outcome) = refused {
                unrun.push((job, Arc::clone(queue), outcome));
                continue;
            }
            if job.crashes > 0 {
                if self.is_suspect(&job) {
                    if answer.has_suspect || self.has_suspect(worker, have).await? {
                        let outcome = Outcome::Snooze {
                            fence: job.fence(),
                            delay: SUSPECT_REST,
                        };
                        unrun.push((job, Arc::clone(queue), outcome));
                        continue;
                    }
                    answer.has_suspect = true;
                }
                // From here on a crash counts. A lease that was lost meanwhile is not given.
                if !self.0.jobs.ledger().mark_started(worker, &job.fence()).await? {
                    continue;
                }
            }
            let waited = waited_since(job.run_at);
            self.0.jobs.statistics().started(queue, &job.kind, waited);
            answer.add(job, queue);
        }
        if !unrun.is_empty() {
            let stored = self.store(worker, &session.name, unrun).await;
            stored.map_err(|error| match error {
                PullError::Ledger(error) => error,
                other => LedgerError::Corrupt(other.to_string()),
            })?;
        }
        Ok(())
    }

    /// Looks for the kinds of jobs that were enqueued by SQL, whose payloads are yet to be checked.
    async fn learn_unchecked(&self, jobs: &[ClaimedJob]) -> Result<(), LedgerError> {
        let kinds: BTreeSet<&str> = jobs
            .iter()
            .filter(|job| job.is_unchecked())
            .map(|job| job.kind.as_str())
            .collect();
        self.0.jobs.look_up(&Vec::from_iter(kinds), &[]).await
    }

    /// A pull worker is given the payload that the producer sent. A job whose key is missing here waits for it, and no attempt is
    /// counted; one whose payload was tampered with becomes a dead letter.
    fn open_payload(&self, session: &Session, job: &mut ClaimedJob) -> Option<Outcome> {
        let unopened = match self.0.jobs.opened(&job.kind, &job.payload) {
            Ok(Some(opened)) => {
                job.payload = opened;
                return None;
            }
            Ok(None) => return None,
            Err(unopened) => unopened,
        };
        let fence = job.fence();
        Some(if unopened.is_missing_key() {
            Outcome::Snooze {
                fence,
                delay: MISSING_KEY_PAUSE,
            }
        } else {
            let (attempt, reason) = (job.attempt + 1, unopened.to_string());
            tracing::warn!(job.id = %job.id, job.kind = %job.kind, error = reason, "a job was discarded");
            Outcome::Discard {
                fence,
                error: ErrorRecord::new(clock::now(), attempt, "permanent", &reason, &session.name),
            }
        })
    }

    /// A payload from SQL that is not what its kind describes makes the job a dead letter. A kind that was deleted meanwhile
    /// describes nothing any more: its accepted jobs are given all the same.
    fn refuse_payload(&self, session: &Session, job: &ClaimedJob) -> Option<Outcome> {
        if !job.is_unchecked() {
            return None;
        }
        let fault = self
            .0
            .jobs
            .producer()
            .kind(&job.kind)?
            .check(&job.payload)
            .err()?;
        let error = self
            .0
            .jobs
            .cleaned(&job.kind, &job.payload, fault.of_job().to_string());
        Some(Outcome::Discard {
            fence: job.fence(),
            error: ErrorRecord::new(clock::now(), job.attempt + 1, "permanent", &error, &session.name),
        })
    }

    /// Whether the job's next crash would be its last.
    fn is_suspect(&self, job: &ClaimedJob) -> bool {
        job.crashes > 0 && job.crashes + 1 >= self.0.settings.worker.max_crashes
    }

    /// Whether the worker runs a suspect.
    async fn has_suspect(&self, worker: WorkerId, have: &HashSet<JobId>) -> Result<bool, LedgerError> {
        let have: Vec<JobId> = have.iter().copied().collect();
        let leased = rows::leased(self.0.jobs.sql(), worker, &have, Payloads::LeftOut).await?;
        Ok(leased
            .values()
            .any(|leased| leased.started && self.is_suspect(&leased.job)))
    }
}

/// The outcome of a job that this worker cannot run.
fn refuse(session: &Session, queue: &str, job: &ClaimedJob) -> Option<Outcome> {
    if job.expired {
        return Some(expiry::outcome(job, &session.name));
    }
    if let Some(reason) = &job.unreadable {
        tracing::error!(queue, job.id = %job.id, reason, "a job cannot be read and is discarded");
        catalogue::JOBS_UNREADABLE.with([queue]).increment(1);
        let error = ErrorRecord::new(clock::now(), job.attempt + 1, UNREADABLE, reason, &session.name);
        return Some(Outcome::Discard {
            fence: job.fence(),
            error,
        });
    }
    let kinds = session.client.kinds.as_ref()?;
    if kinds.contains(&job.kind) {
        return None;
    }
    tracing::warn!(job.id = %job.id, job.kind = %job.kind, worker = %session.name, "unknown kind: left for a worker that has it");
    Some(Outcome::Snooze {
        fence: job.fence(),
        delay: UNKNOWN_KIND_REST,
    })
}
