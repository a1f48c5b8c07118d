//! Whether a definition is sound. All faults are reported together, each with its field.

use holdfast_core::clock;
use holdfast_core::config::is_queue_name;

use super::{DeclaredKind, KindDefinition, is_kind_name};
use crate::enqueue::{Fault, FaultCode, MAX_TIMEOUT};
use crate::marks::FieldPath;
use crate::retry::MAX_ATTEMPTS_LIMIT;

/// Longest description, in bytes.
const MAX_DESCRIPTION: usize = 4_096;

/// Most secret fields of one kind, and the longest path in bytes.
const MAX_POINTERS: usize = 50;
const MAX_POINTER: usize = 255;

/// Longest base and cap of a retry policy, in seconds, as in the configuration.
const MAX_BASE: f64 = 86_400.0;
const MAX_CAP: f64 = 604_800.0;

pub(super) fn queue(name: &str) -> Result<(), Fault> {
    if is_queue_name(name) {
        return Ok(());
    }
    let rule = "must be a lower-case letter, then up to 62 of a-z, 0-9, _ and -";
    Err(Fault::field("queue", rule))
}

pub(super) fn kind(name: &str, definition: &KindDefinition) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    if !is_kind_name(name) {
        let rule = "must be a letter, then up to 99 of letters, digits, _, -, . and :";
        faults.push(Fault::field("name", rule));
    }
    faults.extend(queue(&definition.queue).err());
    let most = MAX_TIMEOUT.as_secs_f64();
    if definition
        .timeout_seconds
        .is_some_and(|seconds| !(seconds > 0.0 && seconds <= most))
    {
        let rule = format!("must be above 0 and at most {most} (one day)");
        faults.push(Fault::field("timeout_seconds", rule));
    }
    faults.extend(retry(definition));
    if definition
        .description
        .as_ref()
        .is_some_and(|text| text.len() > MAX_DESCRIPTION || text.contains('\0'))
    {
        let rule = format!("must have at most {MAX_DESCRIPTION} bytes, and no NUL");
        faults.push(Fault::field("description", rule));
    }
    faults.extend(pointers(&definition.redact));
    if let Err((field, reason)) = DeclaredKind::new(name, definition.clone(), clock::now(), clock::now()) {
        faults.push(Fault::new(FaultCode::InvalidField, field, reason));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn retry(definition: &KindDefinition) -> Vec<Fault> {
    let retry = definition.retry;
    let mut faults = Vec::new();
    if retry
        .max_attempts
        .is_some_and(|attempts| !(1..=MAX_ATTEMPTS_LIMIT).contains(&attempts))
    {
        let rule = format!("must be 1 to {MAX_ATTEMPTS_LIMIT}");
        faults.push(Fault::field("retry.max_attempts", rule));
    }
    for (field, seconds, most) in [
        ("retry.base_seconds", retry.base_seconds, MAX_BASE),
        ("retry.cap_seconds", retry.cap_seconds, MAX_CAP),
    ] {
        if seconds.is_some_and(|seconds| !(0.0..=most).contains(&seconds)) {
            faults.push(Fault::field(field, format!("must be 0 to {most}")));
        }
    }
    if let (Some(base), Some(cap)) = (retry.base_seconds, retry.cap_seconds)
        && cap < base
    {
        faults.push(Fault::field(
            "retry.cap_seconds",
            "must not be less than base_seconds",
        ));
    }
    faults
}

fn pointers(pointers: &[String]) -> Option<Fault> {
    if pointers.len() > MAX_POINTERS {
        return Some(Fault::field(
            "redact",
            format!("has more than {MAX_POINTERS} paths"),
        ));
    }
    let is_good = |path: &String| {
        path.len() <= MAX_POINTER && !path.contains('\0') && path.parse::<FieldPath>().is_ok()
    };
    let index = pointers.iter().position(|pointer| !is_good(pointer))?;
    let rule = "must be a path such as customer.email, items[].secret or /customer/email, of at most 255 bytes; \"\" is the whole \
                payload";
    Some(Fault::field(&format!("redact[{index}]"), rule))
}
