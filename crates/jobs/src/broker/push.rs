//! Putting jobs on the broker.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use holdfast_core::failure::Certainty;

use super::script::{self, Call};
use super::{Broker, BrokerError, QueueKeys, portions};
use crate::id::JobId;

/// A job to be pushed.
#[derive(Clone)]
pub struct OutgoingJob {
    pub id: JobId,
    /// [`crate::envelope::Envelope`] as JSON.
    pub envelope: Arc<[u8]>,
    /// For stock workers; ours read it from the envelope.
    pub max_attempts: u32,
}

impl fmt::Debug for OutgoingJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A payload may hold secrets.
        f.debug_struct("Outgoing")
            .field("id", &self.id)
            .field("bytes", &self.envelope.len())
            .finish_non_exhaustive()
    }
}

/// What became of a run of jobs.
#[derive(Debug)]
pub struct PushReport {
    /// Which of the jobs.
    pub jobs: Range<usize>,
    pub outcome: PushOutcome,
}

#[derive(Debug)]
pub enum PushOutcome {
    Pushed,
    /// They are not on the broker, and this push will not put them there any more.
    Refused(BrokerError),
    /// They are on the broker, or this push will not put them there any more. [`Broker::resolve`] tells which.
    Doubtful(BrokerError),
}

impl Broker {
    /// Puts jobs at the tail of a queue, in order. The answers, in order, cover all jobs; those of one answer share
    /// their fate. After the first run that failed, the others are refused without being tried, so that the caller
    /// waits for one timeout at most.
    ///
    /// A job that stands on the broker already counts as pushed, and is not put there again.
    pub async fn push(&self, queue: &str, jobs: &[OutgoingJob]) -> Vec<PushReport> {
        let keys = QueueKeys::new(queue);
        let mut answers = Vec::new();
        let mut failed: Option<BrokerError> = None;
        for run in portions(jobs, |job| job.envelope.len()) {
            let outcome = match &failed {
                Some(error) => PushOutcome::Refused(error.clone()),
                None => match self.push_run(&keys, &jobs[run.clone()]).await {
                    Ok(()) => PushOutcome::Pushed,
                    Err(error) => {
                        failed = Some(error.clone());
                        match error.certainty() {
                            Certainty::NotApplied => PushOutcome::Refused(error),
                            Certainty::Unknown => PushOutcome::Doubtful(error),
                        }
                    }
                },
            };
            answers.push(PushReport { jobs: run, outcome });
        }
        answers
    }

    async fn push_run(&self, keys: &QueueKeys, jobs: &[OutgoingJob]) -> Result<(), BrokerError> {
        const OP: &str = "broker.push";
        let deadline = self.deadline()?;
        let mut call = Call::new(&script::PUSH, 3 + jobs.len())
            .key(keys.data())
            .key(keys.active())
            .key(keys.signal());
        let mut meta = String::new();
        for job in jobs {
            keys.write_meta(job.id, &mut meta);
            call.push_key(&meta);
        }
        call.push_arg(deadline);
        for job in jobs {
            call.push_arg(job.id.to_string());
            call.push_arg(&job.envelope[..]);
            call.push_arg(job.max_attempts);
        }
        match call.run::<i64>(&self.gate, OP).await? {
            ..0 => Err(BrokerError::Late { op: OP }),
            _new => Ok(()),
        }
    }
}
