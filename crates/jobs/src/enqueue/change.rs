//! The check of a change to a job that waits: what it names is held to the rules of a new job.

use serde_json::value::RawValue;

use super::check::{Checker, Origin, field_of, max_attempts, run_at};
use super::{Fault, FaultCode, JobRequest};
use crate::admin::JobEdit;
use crate::marks::{Marks, REDACTED};

impl Checker {
    /// The payload as it is stored, if the change has one.
    ///
    /// A job whose kind is not known any more may be put off all the same.
    pub(super) fn check_edit(&self, kind: &str, edit: &JobEdit) -> Result<Option<Box<RawValue>>, Fault> {
        let times = JobRequest {
            run_at: edit.run_at,
            delay: edit.delay,
            ..JobRequest::new(kind, RawValue::NULL.to_owned())
        };
        run_at(&times)?;
        max_attempts(edit.max_attempts, self.retries.of(kind, None, ""))?;
        if edit.payload.is_none() && edit.queue.is_none() {
            return Ok(None);
        }
        let kind = self.kind(kind)?;
        if edit.queue.is_some() {
            self.queue(edit.queue.as_deref(), &kind)?;
        }
        let Some(payload) = &edit.payload else {
            return Ok(None);
        };
        refuse_redacted(kind.marks(), payload)?;
        self.check_payload(payload, &kind, Origin::Text)?;
        Ok(Some(self.sealed(&kind, payload.clone())))
    }
}

/// A secret field that reads `[redacted]` is what the caller was shown, and not what is to be stored.
fn refuse_redacted(marks: &Marks, payload: &RawValue) -> Result<(), Fault> {
    let text = payload.get();
    let shown = format!("\"{REDACTED}\"");
    let is_redacted = |range| text.get(range).is_some_and(|value: &str| value == shown);
    let found = marks
        .find(text)
        .into_iter()
        .find(|found| is_redacted(found.range.clone()));
    match found {
        None => Ok(()),
        Some(found) => {
            let reason = format!("is {REDACTED}, which stands for a value that is not shown; send the value");
            Err(Fault::new(
                FaultCode::InvalidPayload,
                field_of(&found.place),
                reason,
            ))
        }
    }
}
