//! One worker, and what it runs.

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::{moment, read_either, rows};
use uuid::Uuid;

use crate::client::Jobs;
use crate::id::{JobId, WorkerId};
use crate::ledger::{LedgerError, WorkerRecord};

/// Jobs of one worker that are listed.
pub const MAX_WORKER_JOBS: usize = 100;

/// A job that a worker runs, or holds in its buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerJob {
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    /// 1-based.
    pub attempt: u32,
    /// `None`: a job that crashed before, and waits to be started.
    pub started_at: Option<DateTime<Utc>>,
}

impl Jobs {
    /// A worker process by any of its ids, and the jobs of the ledger that it holds, the newest first, [`MAX_WORKER_JOBS`] at most.
    /// `None`: there is none.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn worker(&self, id: WorkerId) -> Result<Option<(WorkerRecord, Vec<WorkerJob>)>, LedgerError> {
        // A process has several ids: the one that is asked for, and those of the same name.
        const TEXT: &str = "select id, kind, queue, attempt, @ms(started_at) from holdfast_jobs
            where state = 'running' and worker in (select id from holdfast_workers where name = $1)
            order by id desc limit $2";
        type JobRow = (Uuid, String, String, i32, Option<i64>);
        let sql = self.sql();
        let Some(name) = self.worker_name(id).await? else {
            return Ok(None);
        };
        let Some(record) = self
            .workers()
            .await?
            .into_iter()
            .find(|worker| worker.name == name)
        else {
            return Ok(None);
        };
        let limit = rows(MAX_WORKER_JOBS);
        let found = read_either!(
            sql,
            "list the jobs of a worker",
            query_as::<JobRow>(TEXT),
            [&name, limit],
            fetch_all
        )?;
        let jobs = found
            .into_iter()
            .map(|(id, kind, queue, attempt, started)| WorkerJob {
                id: JobId::from_uuid(id),
                kind,
                queue,
                attempt: attempt.unsigned_abs() + 1,
                started_at: started.map(moment),
            });
        Ok(Some((record, jobs.collect())))
    }
}
