//! Ending leases: with an outcome, or by giving the job back.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::keys::member;
use super::script::{self, Call};
use super::{Broker, BrokerError, MAX_BATCH, QueueKeys, millis, portions};
use crate::id::{JobId, WorkerId};

/// An execution that has ended.
#[derive(Debug, Clone)]
pub struct FinishedExecution {
    pub id: JobId,
    pub kind: String,
    /// 1-based number of the attempt that ended.
    pub attempt: u32,
    pub outcome: BrokerOutcome,
}

#[derive(Debug, Clone)]
pub enum BrokerOutcome {
    Completed(Option<Arc<RawValue>>),
    Cancelled,
    /// The job stands in the ledger now, to be retried or as a dead letter. The broker forgets it.
    Moved,
}

impl FinishedExecution {
    fn word(&self) -> &'static str {
        match &self.outcome {
            BrokerOutcome::Completed(_) => "completed",
            BrokerOutcome::Cancelled => "cancelled",
            BrokerOutcome::Moved => "moved",
        }
    }

    /// As stock stores it, a `Result<T, String>`.
    fn result(&self) -> String {
        match &self.outcome {
            BrokerOutcome::Completed(Some(value)) => format!("{{\"Ok\":{}}}", value.get()),
            BrokerOutcome::Completed(None) => "{\"Ok\":null}".to_owned(),
            BrokerOutcome::Cancelled | BrokerOutcome::Moved => "{\"Err\":\"cancelled\"}".to_owned(),
        }
    }

    fn bytes(&self) -> usize {
        match &self.outcome {
            BrokerOutcome::Completed(Some(value)) => value.get().len(),
            _ => 0,
        }
    }
}

impl Broker {
    /// Ends jobs that the worker holds, and answers with those that it still held: the others were taken away from it.
    /// Safe to repeat: those that were ended by a call whose answer was lost are then not held any more.
    pub async fn acknowledge(
        &self,
        queue: &str,
        worker: WorkerId,
        done: &[FinishedExecution],
    ) -> Result<Vec<JobId>, BrokerError> {
        let keys = QueueKeys::new(queue);
        let inflight = keys.inflight(&member(worker));
        let mut held = Vec::with_capacity(done.len());
        for run in portions(done, FinishedExecution::bytes) {
            let done = &done[run];
            let mut call = Call::new(&script::ACKNOWLEDGE, 3 + done.len())
                .key(&inflight)
                .key(keys.data())
                .key(keys.crashes());
            let mut meta = String::new();
            for job in done {
                keys.write_meta(job.id, &mut meta);
                call.push_key(&meta);
            }
            call.push_arg(millis(self.settings.result_ttl));
            for job in done {
                call.push_arg(job.id.to_string());
                call.push_arg(job.word());
                call.push_arg(&job.kind);
                call.push_arg(job.attempt);
                call.push_arg(job.result());
            }
            let ids: Vec<String> = call.run_freeing(&self.gate, "broker.acknowledge").await?;
            held.extend(ids.iter().filter_map(|id| id.parse::<JobId>().ok()));
        }
        Ok(held)
    }

    /// Gives jobs back that the worker holds and will not run: they go to the head of the queue in the order given, and
    /// count neither as attempt nor as crash. Answers with how many it still held.
    pub async fn hand_back(&self, queue: &str, worker: WorkerId, ids: &[JobId]) -> Result<u64, BrokerError> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.hand_back_texts(&QueueKeys::new(queue), &member(worker), &ids)
            .await
    }

    /// Gives back what was leased to the worker without its knowledge, by a fetch whose answer was lost. `held` is
    /// everything it has fetched and not yet acknowledged.
    ///
    /// It first waits for one command timeout: after that no call of before can be applied any more, however long the
    /// server hung. No fetch of this worker from this queue may be under way meanwhile.
    pub async fn reconcile(&self, queue: &str, worker: WorkerId, held: &[JobId]) -> Result<u64, BrokerError> {
        tokio::time::sleep(self.gate.settings().command_timeout).await;
        let keys = QueueKeys::new(queue);
        let member = member(worker);
        let held: HashSet<String> = held.iter().map(ToString::to_string).collect();
        let mut strays = self.inflight(&keys, &member).await?;
        strays.retain(|id| !held.contains(id));
        // Creation order is the order in which they stood.
        strays.sort_unstable();
        self.hand_back_texts(&keys, &member, &strays).await
    }

    /// Records that a job which has crashed before starts to run again; only then can it crash again. False: the
    /// worker no longer holds it and must not run it.
    pub async fn mark_started(&self, queue: &str, worker: WorkerId, id: JobId) -> Result<bool, BrokerError> {
        let keys = QueueKeys::new(queue);
        let call = Call::new(&script::MARK_STARTED, 2)
            .key(keys.inflight(&member(worker)))
            .key(keys.crashes())
            .arg(id.to_string());
        Ok(call.run_freeing(&self.gate, "broker.mark_started").await?)
    }

    async fn hand_back_texts(
        &self,
        keys: &QueueKeys,
        member: &str,
        ids: &[String],
    ) -> Result<u64, BrokerError> {
        const OP: &str = "broker.hand_back";
        let mut returned = 0;
        // The last run first: each goes before what is at the head.
        for ids in ids.rchunks(MAX_BATCH) {
            let mut call = Call::new(&script::HAND_BACK, 4)
                .key(keys.inflight(member))
                .key(keys.active())
                .key(keys.signal())
                .key(keys.crashes())
                .arg(self.deadline()?);
            for id in ids {
                call.push_arg(id);
            }
            let count: i64 = call.run_freeing(&self.gate, OP).await?;
            returned += u64::try_from(count).map_err(|_negative| BrokerError::Late { op: OP })?;
        }
        Ok(returned)
    }

    /// All ids that a member holds, read in portions.
    async fn inflight(&self, keys: &QueueKeys, member: &str) -> Result<Vec<String>, BrokerError> {
        let key = keys.inflight(member);
        let mut cursor = 0u64;
        let mut ids = Vec::new();
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(MAX_BATCH);
            let (next, portion): (u64, Vec<String>) = self
                .gate
                .run_freeing("broker.inflight", |mut c| async move {
                    scan.query_async(&mut c).await
                })
                .await?;
            ids.extend(portion);
            if next == 0 {
                // A scan may name an id twice.
                ids.sort_unstable();
                ids.dedup();
                return Ok(ids);
            }
            cursor = next;
        }
    }
}
