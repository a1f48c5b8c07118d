//! The last ticks of a schedule, and what became of their jobs.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::{moment, read_either};
use uuid::Uuid;

use super::manage::{ScheduleError, Schedules};
use super::tick;
use crate::id::JobId;
use crate::ledger::LedgerError;
use crate::state::{State, StoredState};

/// Ticks that are looked at.
pub const LAST_RUNS: usize = 20;

/// A tick of the schedule as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub tick: DateTime<Utc>,
    /// `None`: the tick was missed or skipped, its job is no longer stored, or the schedule had another rhythm then.
    pub job: Option<RunJob>,
}

/// The job of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunJob {
    pub id: JobId,
    pub state: State,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

type RunRow = (String, Uuid, String, bool, i32, Option<i64>, Option<i64>);

impl Schedules {
    /// The last [`LAST_RUNS`] ticks since the schedule was made, the newest first.
    ///
    /// # Errors
    /// There is no such schedule; the database fails, is slow or unavailable.
    pub async fn runs(&self, name: &str) -> Result<Vec<Run>, ScheduleError> {
        const TEXT: &str = "select idempotency_key, id, state, run_at > @now, attempt, @ms(started_at), @ms(finished_at) from holdfast_jobs
            where idempotency_key in (@names($1))";
        let record = self.get(name).await?;
        let timing = record.schedule.rhythm.timing();
        let Ok(timing) = timing else {
            return Ok(Vec::new());
        };
        let ticks = timing.due(record.created_at, record.read_at, LAST_RUNS);
        let keys: Vec<String> = ticks.iter().map(|tick| tick::key(name, *tick)).collect();
        // Texts cannot fail to encode.
        let wanted = serde_json::to_string(&keys).unwrap_or_default();
        let sql = self.jobs().sql();
        let rows = read_either!(
            sql,
            "read the runs of a schedule",
            query_as::<RunRow>(TEXT),
            [&wanted],
            fetch_all
        )?;
        let mut found = HashMap::new();
        for (key, id, state, is_ahead, attempt, started, finished) in rows {
            let corrupt = |error| LedgerError::Corrupt(format!("job {id}: {error}"));
            let state: StoredState = state.parse().map_err(corrupt)?;
            let job = RunJob {
                id: JobId::from_uuid(id),
                state: state.seen_as(is_ahead, attempt.unsigned_abs()),
                started_at: started.map(moment),
                finished_at: finished.map(moment),
            };
            found.insert(key, job);
        }
        let runs = ticks.into_iter().zip(keys).rev();
        Ok(runs
            .map(|(tick, key)| Run {
                tick,
                job: found.get(&key).copied(),
            })
            .collect())
    }
}
