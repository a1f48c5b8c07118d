//! Changing a job while it waits.
//!
//! # Invariants
//! - The statement itself looks whether the job waits: one that a worker has taken meanwhile stays as it is.
//! - A payload is checked and encrypted as that of a new job. A queue must be one that the job's kind may go to.
//! - What is not named keeps its value, also beside another change at the same moment.
//! - A due job that goes to another queue or priority is due from then on: claims have come further than its old time
//!   (see `ledger::postgres::frontier`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::Row;

use super::AdminHandle;
use crate::LedgerTx;
use crate::audit::{AuditEntry, action};
use crate::enqueue::Fault;
use crate::id::JobId;
use crate::ledger::{JobRecord, LedgerError, Priority};
use crate::sql::{millis, sqlite_now};
use crate::state::{State, StoredState};

/// `$1` id, `$2` payload, `$3` priority, `$4` attempts, `$5` queue, `$6` time, `$7` delay; all but the first may be null. A job that may
/// stand on the broker too could run as it was.
macro_rules! edit {
    ($payload:literal, $greatest:literal, $now:expr, $at:literal, $delay:literal, $due:expr) => {
        concat!(
            "update holdfast_jobs set payload = coalesce(",
            $payload,
            ", payload), priority = coalesce($3, priority), max_attempts = coalesce($4, max_attempts), queue = coalesce($5, queue),
                 run_at = case when $6 is not null then ",
            $greatest,
            "(",
            $at,
            ", ",
            $now,
            ") when $7 is not null then ",
            $now,
            " + ",
            $delay,
            " when coalesce($3, priority) <> priority or coalesce($5, queue) <> queue then ",
            $greatest,
            "(run_at, ",
            $now,
            ") else run_at end
             where id = $1 and state = 'available' and not doubtful and ($4 is null or $4 > attempt)
             returning queue, ",
            $due
        )
    };
}
const POSTGRES: &str = edit!(
    "$2::json",
    "greatest",
    "now()",
    "'epoch'::timestamptz + $6::bigint * interval '1 millisecond'",
    "$7::bigint * interval '1 millisecond'",
    "ceil(extract(epoch from run_at - now()) * 1000)::bigint as due_ms"
);
const SQLITE: &str = edit!(
    "$2",
    "max",
    sqlite_now!(),
    "$6",
    "$7",
    concat!("run_at - ", sqlite_now!(), " as due_ms")
);

const POSTGRES_STATE: &str =
    "select state, run_at > now() as ahead, attempt from holdfast_jobs where id = $1";
const SQLITE_STATE: &str = concat!(
    "select state, run_at > ",
    sqlite_now!(),
    " as ahead, attempt from holdfast_jobs where id = $1"
);

/// What is to be different. What is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct JobEdit {
    pub payload: Option<Box<RawValue>>,
    pub queue: Option<String>,
    pub priority: Option<Priority>,
    /// A time that has passed means now.
    pub run_at: Option<DateTime<Utc>>,
    /// From now, by the database's clock.
    pub delay: Option<Duration>,
    /// More than it has made.
    pub max_attempts: Option<u32>,
}

impl JobEdit {
    fn is_empty(&self) -> bool {
        let Self {
            payload,
            queue,
            priority,
            run_at,
            delay,
            max_attempts,
        } = self;
        payload.is_none()
            && queue.is_none()
            && priority.is_none()
            && run_at.is_none()
            && delay.is_none()
            && max_attempts.is_none()
    }

    /// The change as the audit log has it: never the payload.
    fn details(&self) -> serde_json::Value {
        let mut details = json!({
            "queue": self.queue, "priority": self.priority, "run_at": self.run_at, "max_attempts": self.max_attempts,
            "delay_seconds": self.delay.map(|delay| delay.as_secs_f64()),
            "payload": self.payload.as_ref().map(|_| "changed"),
        });
        if let Some(members) = details.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        details
    }
}

/// Why a job was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{0}")]
    Invalid(Fault),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<Fault> for EditError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditReply {
    Edited,
    /// It does not wait (any more), and stays as it was.
    Refused(State),
    /// It waits on the broker, or may.
    OnBroker,
}

/// The row as the statement left it, or found it.
enum EditedRow {
    Edited { queue: String, due_in: Duration },
    Refused(State),
    OnBroker,
    Gone,
}

impl AdminHandle<'_> {
    /// Changes a job that waits in the ledger. `None`: unknown id.
    ///
    /// # Errors
    /// The change is invalid, with the field at fault; or the database fails, is slow or unavailable.
    pub async fn edit(&self, id: JobId, edit: JobEdit) -> Result<Option<EditReply>, EditError> {
        let Some(job) = self.jobs.get(id).await? else {
            return Ok(None);
        };
        let payload = self.checked(&job, &edit).await?;
        Ok(match self.write(id, &edit, payload.as_deref()).await? {
            EditedRow::Edited { queue, due_in } => {
                self.jobs.bell().ring(&queue, 1, due_in);
                self.jobs.counts_changed();
                Some(EditReply::Edited)
            }
            EditedRow::Refused(state) => Some(EditReply::Refused(state)),
            EditedRow::OnBroker => Some(EditReply::OnBroker),
            // The broker has it, or it was deleted meanwhile.
            EditedRow::Gone if job.state.is_final() => Some(EditReply::Refused(job.state)),
            EditedRow::Gone => Some(EditReply::OnBroker),
        })
    }

    /// The payload as it is stored, if there is one.
    async fn checked(&self, job: &JobRecord, edit: &JobEdit) -> Result<Option<Box<RawValue>>, EditError> {
        if edit.is_empty() {
            let reason =
                "has nothing to change; give payload, queue, priority, run_at, delay_seconds or max_attempts";
            return Err(Fault::field("body", reason).into());
        }
        if let Some(most) = edit.max_attempts.filter(|most| *most <= job.attempt) {
            let reason = format!(
                "{most} is not more than the {} attempts that the job has made",
                job.attempt
            );
            return Err(Fault::field("max_attempts", reason).into());
        }
        let queues: Vec<&str> = edit.queue.as_deref().into_iter().collect();
        self.jobs.look_up(&[&job.kind], &queues).await?;
        Ok(self.jobs.producer().check_edit(&job.kind, edit)?)
    }

    async fn write(
        &self,
        id: JobId,
        edit: &JobEdit,
        payload: Option<&RawValue>,
    ) -> Result<EditedRow, LedgerError> {
        let entry = AuditEntry::new(action::JOB_EDIT)
            .target(id)
            .details(edit.details());
        let sql = self.jobs.sql();
        sql.within("edit a job", async {
            let mut tx = sql.begin().await?;
            let written = write_in(tx.on(), sql.named, id, edit, payload).await?;
            if matches!(written, EditedRow::Edited { .. }) {
                self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
            }
            tx.commit().await?;
            Ok(written)
        })
        .await
    }
}

async fn write_in(
    mut on: LedgerTx<'_>,
    named: bool,
    id: JobId,
    edit: &JobEdit,
    payload: Option<&RawValue>,
) -> Result<EditedRow, sqlx::Error> {
    let attempts = edit.max_attempts.and_then(|most| i32::try_from(most).ok());
    let at = edit.run_at.map(|at| at.timestamp_millis());
    let delay = edit.delay.map(millis);
    macro_rules! written {
        ($query:expr, $on:expr) => {
            $query
                .bind(id.as_uuid())
                .bind(payload.map(RawValue::get))
                .bind(edit.priority.map(Priority::rank))
                .bind(attempts)
                .bind(edit.queue.as_deref())
                .bind(at)
                .bind(delay)
                .fetch_optional($on)
                .await?
                .map(|row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?)))
                .transpose()?
        };
    }
    let edited: Option<(String, i64)> = match on.reborrow() {
        LedgerTx::Postgres(on) => written!(sqlx::query(POSTGRES).persistent(named), on),
        LedgerTx::Sqlite(on) => written!(sqlx::query(SQLITE), on),
    };
    if let Some((queue, due_ms)) = edited {
        let due_in = Duration::from_millis(u64::try_from(due_ms).unwrap_or(0));
        return Ok(EditedRow::Edited { queue, due_in });
    }
    // What the statement has met. On PostgreSQL the next one sees what was committed meanwhile.
    let found: Option<(String, bool, i32)> = match on {
        LedgerTx::Postgres(on) => {
            let found = sqlx::query_as(POSTGRES_STATE).bind(id.as_uuid());
            found.persistent(named).fetch_optional(on).await?
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query_as(SQLITE_STATE)
                .bind(id.as_uuid())
                .fetch_optional(on)
                .await?
        }
    };
    let Some((state, ahead, attempt)) = found else {
        return Ok(EditedRow::Gone);
    };
    let state: StoredState = state.parse().map_err(crate::sql::decode_error)?;
    let attempt = attempt.unsigned_abs();
    // It has made further attempts since it was read, and waits again.
    let is_overtaken = edit.max_attempts.is_some_and(|most| most <= attempt);
    if state == StoredState::Available && !is_overtaken {
        return Ok(EditedRow::OnBroker);
    }
    Ok(EditedRow::Refused(state.seen_as(ahead, attempt)))
}
