//! One step: a transaction that looks at the next rows of one table, and rewrites those that need it.

use holdfast_core::encryption::{OpenFailure, SEALED_PREFIX, is_sealed};
use holdfast_core::sql::dialect::{on_either, rows};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Rotation, RotationPosition, RotationReport, STEP_ROWS, SealedColumn, SealedForm, links};
use crate::LedgerTx;
use crate::enqueue::KnownKind;
use crate::ledger::LedgerError;
use crate::marks::sealed::{self, FieldOpenFailure};

/// Rows of `holdfast_jobs` that one step looks through.
const SCAN_ROWS: usize = 1_000;

/// The tables of the engine, before the columns of products.
const ENGINE_TABLES: usize = 3;

/// The last id of the next rows, so that no step looks through more than these.
const JOBS_END: &str = "select id from holdfast_jobs where id > $1 order by id limit 1 offset $2";

/// `$3` are the marked kinds as a JSON array, `$4` is what a value under the first key begins with, `$5` what each encrypted one does.
const JOBS: &str = "select id, kind, @text(payload), @text(options) from holdfast_jobs
    where id > $1 and id <= $2
      and (((@find($3, '\"' || kind || '\"') > 0 or @find(@text(payload), $5) > 0) and @find(@text(payload), $4) = 0)
           or (options is not null and @find(@text(options), '\"then\":') > 0 and @find(@text(options), $4) = 0))
    order by id limit $6";

/// It waits for no lock, and replaces what was read alone.
const JOB: &str = "update holdfast_jobs set payload = cast($2 as @json), options = cast($3 as @json)
    where id = (select id from holdfast_jobs where id = $1 and @text(payload) = $4
                and coalesce(@text(options), '') = $5 @skip_locked)";

const SCHEDULES: &str = "select name, kind, @text(payload) from holdfast_schedules
    where name > $1 and @find(@text(payload), $2) = 0 order by name limit $3";

const SCHEDULE: &str = "update holdfast_schedules set payload = cast($2 as @json)
    where name = (select name from holdfast_schedules where name = $1 and @text(payload) = $3 @skip_locked)";

const BATCHES: &str = "select id, @text(callback) from holdfast_batches
    where id > $1 and callback is not null and @find(@text(callback), $2) = 0 order by id limit $3";

const BATCH: &str = "update holdfast_batches set callback = cast($2 as @json)
    where id = (select id from holdfast_batches where id = $1 and @text(callback) = $3 @skip_locked)";

/// Of a step.
struct Step<'s> {
    rotation: &'s Rotation,
    named: bool,
    prefix: &'s str,
    after: &'s str,
    rotated: RotationReport,
}

/// The rows of a step: how many there were, and the key of the last one.
struct StepRows {
    rows: usize,
    last: Option<String>,
}

impl Rotation {
    pub(super) async fn step(
        &self,
        from: &RotationPosition,
        prefix: &str,
    ) -> Result<RotationReport, LedgerError> {
        let sql = self.jobs.sql();
        sql.within("encrypt stored values", async {
            let mut tx = sql.begin().await?;
            let mut step = Step {
                rotation: self,
                named: sql.named(),
                prefix,
                after: &from.after,
                rotated: RotationReport::default(),
            };
            let seen = match from.table {
                0 => step.jobs(tx.on()).await?,
                1 => step.schedules(tx.on()).await?,
                2 => step.batches(tx.on()).await?,
                other => match self.columns.get(other - ENGINE_TABLES) {
                    Some(column) => step.column(tx.on(), column).await?,
                    None => StepRows { rows: 0, last: None },
                },
            };
            let mut rotated = step.rotated;
            tx.commit().await?;
            rotated.next = self.next(from, seen);
            Ok(rotated)
        })
        .await
    }

    fn next(&self, from: &RotationPosition, seen: StepRows) -> Option<RotationPosition> {
        if let Some(last) = seen.last.filter(|_| seen.rows > 0) {
            return Some(RotationPosition {
                table: from.table,
                after: last,
            });
        }
        let next = from.table + 1;
        (next < ENGINE_TABLES + self.columns.len()).then(|| RotationPosition {
            table: next,
            after: String::new(),
        })
    }

    /// The payload under the first key; `None`: it stays as it is.
    fn rewritten(&self, kind: &str, payload: &RawValue) -> Result<Option<Box<RawValue>>, FieldOpenFailure> {
        let known = self.jobs.producer().kind(kind);
        sealed::seal_anew(
            self.encryption(),
            known.as_ref().map(KnownKind::marks),
            kind,
            payload,
        )
    }

    /// The names of the kinds that mark fields, as a JSON array.
    fn marked_kinds(&self) -> String {
        let declared = self.jobs.declared().snapshot();
        let coded = self.jobs.registry().kinds().filter(|kind| !kind.marks.is_empty());
        let declared = declared.kinds.iter().filter(|(_, kind)| !kind.marks().is_empty());
        let names: Vec<&str> = coded
            .map(|kind| kind.name)
            .chain(declared.map(|(name, _)| &**name))
            .collect();
        serde_json::json!(names).to_string()
    }
}

impl Step<'_> {
    async fn jobs(&mut self, mut on: LedgerTx<'_>) -> Result<StepRows, sqlx::Error> {
        type Row = (Uuid, String, String, Option<String>);
        let (named, after) = (self.named, self.uuid_after());
        let end = on_either!(
            on.reborrow(),
            named,
            query_as::<(Uuid,)>(JOBS_END),
            [after, rows(SCAN_ROWS - 1)],
            fetch_optional
        )?;
        let end = end.map_or(Uuid::max(), |(end,)| end);
        let quoted = |prefix: &str| format!("\"{prefix}");
        let found = on_either!(
            on.reborrow(),
            named,
            query_as::<Row>(JOBS),
            [
                after,
                end,
                self.rotation.marked_kinds(),
                quoted(self.prefix),
                quoted(SEALED_PREFIX),
                rows(STEP_ROWS)
            ],
            fetch_all
        )?;
        // Fewer than a step: there is nothing more up to the end of what was looked through.
        let last = match found.last() {
            Some((id, ..)) if found.len() == STEP_ROWS => *id,
            _ => end,
        };
        for (id, kind, payload, options) in found {
            let rewritten = self.job(&kind, &payload, options.as_deref());
            let Some((new_payload, new_options)) = self.noted(rewritten) else {
                continue;
            };
            let written = on_either!(
                on.reborrow(),
                named,
                query(JOB),
                [
                    id,
                    &new_payload,
                    &new_options,
                    &payload,
                    options.as_deref().unwrap_or_default()
                ],
                execute
            )?;
            self.count(written);
        }
        let is_last = last == Uuid::max();
        Ok(StepRows {
            rows: usize::from(!is_last),
            last: Some(last.to_string()),
        })
    }

    /// A job's payload and options; `None`: both stay as they are.
    fn job(
        &self,
        kind: &str,
        payload: &str,
        options: Option<&str>,
    ) -> Result<Option<(String, Option<String>)>, FieldOpenFailure> {
        let rewrite = |kind: &str, payload: &RawValue| self.rotation.rewritten(kind, payload);
        let new_payload = self.payload(kind, payload)?;
        let new_options = options
            .map(|options| links::options(options, &rewrite))
            .transpose()?
            .flatten();
        if new_payload.is_none() && new_options.is_none() {
            return Ok(None);
        }
        Ok(Some((
            new_payload.unwrap_or_else(|| payload.to_owned()),
            new_options.or_else(|| options.map(ToOwned::to_owned)),
        )))
    }

    fn payload(&self, kind: &str, payload: &str) -> Result<Option<String>, FieldOpenFailure> {
        let Ok(payload) = RawValue::from_string(payload.to_owned()) else {
            return Ok(None);
        };
        let new = self.rotation.rewritten(kind, &payload)?;
        Ok(new.map(|new| new.get().to_owned()))
    }

    async fn schedules(&mut self, mut on: LedgerTx<'_>) -> Result<StepRows, sqlx::Error> {
        let found = on_either!(
            on.reborrow(),
            self.named,
            query_as::<(String, String, String)>(SCHEDULES),
            [self.after, self.quoted_prefix(), rows(STEP_ROWS)],
            fetch_all
        )?;
        let seen = seen(&found, |(name, ..)| name.clone());
        for (name, kind, payload) in found {
            let rewritten = self.payload(&kind, &payload);
            let Some(new) = self.noted(rewritten) else {
                continue;
            };
            let written = on_either!(
                on.reborrow(),
                self.named,
                query(SCHEDULE),
                [&name, &new, &payload],
                execute
            )?;
            self.count(written);
        }
        Ok(seen)
    }

    async fn batches(&mut self, mut on: LedgerTx<'_>) -> Result<StepRows, sqlx::Error> {
        let found = on_either!(
            on.reborrow(),
            self.named,
            query_as::<(Uuid, String)>(BATCHES),
            [self.uuid_after(), self.quoted_prefix(), rows(STEP_ROWS)],
            fetch_all
        )?;
        let seen = seen(&found, |(id, _)| id.to_string());
        for (id, callback) in found {
            let rewrite = |kind: &str, payload: &RawValue| self.rotation.rewritten(kind, payload);
            let rewritten = links::link(&callback, &rewrite);
            let Some(new) = self.noted(rewritten) else {
                continue;
            };
            let written = on_either!(
                on.reborrow(),
                self.named,
                query(BATCH),
                [id, &new, &callback],
                execute
            )?;
            self.count(written);
        }
        Ok(seen)
    }

    async fn column(&mut self, on: LedgerTx<'_>, column: &SealedColumn) -> Result<StepRows, sqlx::Error> {
        match column.form {
            SealedForm::Text | SealedForm::Member(_) => self.texts(on, column).await,
            SealedForm::Bytes => self.bytes(on, column).await,
        }
    }

    async fn texts(&mut self, mut on: LedgerTx<'_>, column: &SealedColumn) -> Result<StepRows, sqlx::Error> {
        let SealedColumn {
            table,
            key,
            column: name,
            ..
        } = column;
        let select = format!(
            "select {key}, {name} from {table} where {key} > $1 and {name} is not null and @find({name}, $2) = 0
             order by {key} limit $3"
        );
        let update = format!(
            "update {table} set {name} = $2
             where {key} = (select {key} from {table} where {key} = $1 and {name} = $3 @skip_locked)"
        );
        let found = on_either!(
            on.reborrow(),
            self.named,
            query_as::<(Uuid, String)>(&select),
            [self.uuid_after(), self.prefix, rows(STEP_ROWS)],
            fetch_all
        )?;
        let seen = seen(&found, |(id, _)| id.to_string());
        for (id, stored) in found {
            let rewritten = self.text(column, &id.to_string(), &stored);
            let Some(new) = self.noted(rewritten) else {
                continue;
            };
            let written = on_either!(
                on.reborrow(),
                self.named,
                query(&update),
                [id, &new, &stored],
                execute
            )?;
            self.count(written);
        }
        Ok(seen)
    }

    fn text(&self, column: &SealedColumn, row: &str, stored: &str) -> Result<Option<String>, OpenFailure> {
        let (encryption, place) = (self.rotation.encryption(), column.column(row));
        let anew = |value: String| {
            let plain = encryption.open_text(&place, value)?;
            Ok(encryption.seal_text(&place, &plain))
        };
        let SealedForm::Member(member) = column.form else {
            return anew(stored.to_owned()).map(Some);
        };
        let Ok(mut document) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(stored)
        else {
            return Ok(None);
        };
        let Some(serde_json::Value::String(value)) = document.get_mut(member) else {
            return Ok(None);
        };
        *value = anew(std::mem::take(value))?;
        Ok(serde_json::to_string(&document).ok())
    }

    async fn bytes(&mut self, mut on: LedgerTx<'_>, column: &SealedColumn) -> Result<StepRows, sqlx::Error> {
        let SealedColumn {
            table,
            key,
            column: name,
            ..
        } = column;
        let select = format!(
            "select {key}, {name} from {table} where {key} > $1 and {name} is not null order by {key} limit $2"
        );
        let update = format!(
            "update {table} set {name} = $2
             where {key} = (select {key} from {table} where {key} = $1 and {name} = $3 @skip_locked)"
        );
        let found = on_either!(
            on.reborrow(),
            self.named,
            query_as::<(String, Vec<u8>)>(&select),
            [self.after, rows(STEP_ROWS)],
            fetch_all
        )?;
        let seen = seen(&found, |(key, _)| key.clone());
        for (row, stored) in found {
            let rewritten = self.byte_value(column, &row, &stored);
            let Some(new) = self.noted(rewritten) else {
                continue;
            };
            let written = on_either!(
                on.reborrow(),
                self.named,
                query(&update),
                [&row, &new, &stored],
                execute
            )?;
            self.count(written);
        }
        Ok(seen)
    }

    fn byte_value(
        &self,
        column: &SealedColumn,
        row: &str,
        stored: &[u8],
    ) -> Result<Option<Vec<u8>>, OpenFailure> {
        let (encryption, place) = (self.rotation.encryption(), column.column(row));
        let sealed = |plain: &[u8]| Ok(encryption.seal(&place.place(), plain).map(String::into_bytes));
        match std::str::from_utf8(stored) {
            Ok(text) if text.starts_with(self.prefix) => Ok(None),
            Ok(text) if is_sealed(text) => sealed(&encryption.open(&place.place(), text)?),
            _ => sealed(stored),
        }
    }

    /// What is to be written, where it could be opened.
    fn noted<T, E: Into<OpenFailureReason>>(&mut self, rewritten: Result<Option<T>, E>) -> Option<T> {
        rewritten.unwrap_or_else(|unopened| {
            self.rotated.unreadable(unopened.into().0);
            None
        })
    }

    fn count(&mut self, written: u64) {
        if written == 0 {
            self.rotated.skipped += 1;
        } else {
            self.rotated.rewritten += 1;
        }
    }

    fn quoted_prefix(&self) -> String {
        format!("\"{}", self.prefix)
    }

    fn uuid_after(&self) -> Uuid {
        self.after.parse().unwrap_or(Uuid::nil())
    }
}

/// Why a value was not opened, without its place.
struct OpenFailureReason(OpenFailure);

impl From<OpenFailure> for OpenFailureReason {
    fn from(reason: OpenFailure) -> Self {
        Self(reason)
    }
}

impl From<FieldOpenFailure> for OpenFailureReason {
    fn from(field: FieldOpenFailure) -> Self {
        Self(field.reason)
    }
}

fn seen<T>(found: &[T], key: impl Fn(&T) -> String) -> StepRows {
    StepRows {
        rows: found.len(),
        last: found.last().map(key),
    }
}
