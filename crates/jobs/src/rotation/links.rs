//! Payloads inside stored documents: what follows a job, and the callback of a batch.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::marks::sealed::FieldOpenFailure;

/// Rewrites one payload of a kind; `None`: it stays as it is.
pub(super) type Rewrite<'r> = dyn Fn(&str, &RawValue) -> Result<Option<Box<RawValue>>, FieldOpenFailure> + 'r;

/// By name, each as it is stored: a document of a newer version loses nothing.
type Members = BTreeMap<String, Box<RawValue>>;

/// The options of a job, with the payloads of what follows it rewritten; `None`: nothing has changed.
pub(super) fn options(text: &str, rewrite: &Rewrite<'_>) -> Result<Option<String>, FieldOpenFailure> {
    let Ok(mut members) = serde_json::from_str::<Members>(text) else {
        return Ok(None);
    };
    Ok(if follow(&mut members, rewrite)? {
        serde_json::to_string(&members).ok()
    } else {
        None
    })
}

/// A link, with its payload and those of what follows it rewritten; `None`: nothing has changed.
pub(super) fn link(text: &str, rewrite: &Rewrite<'_>) -> Result<Option<String>, FieldOpenFailure> {
    let Ok(mut members) = serde_json::from_str::<Members>(text) else {
        return Ok(None);
    };
    let kind: Option<String> = member(&members, "kind").and_then(|kind| serde_json::from_str(kind).ok());
    let mut has_changed = false;
    if let (Some(kind), Some(payload)) = (kind, members.get("payload"))
        && let Some(new) = rewrite(&kind, payload)?
    {
        members.insert("payload".to_owned(), new);
        has_changed = true;
    }
    has_changed |= follow(&mut members, rewrite)?;
    Ok(if has_changed {
        serde_json::to_string(&members).ok()
    } else {
        None
    })
}

/// Rewrites the member `then`, which is a link.
fn follow(members: &mut Members, rewrite: &Rewrite<'_>) -> Result<bool, FieldOpenFailure> {
    let Some(then) = member(members, "then") else {
        return Ok(false);
    };
    let Some(new) = link(then, rewrite)?.and_then(|text| RawValue::from_string(text).ok()) else {
        return Ok(false);
    };
    members.insert("then".to_owned(), new);
    Ok(true)
}

fn member<'m>(members: &'m Members, name: &str) -> Option<&'m str> {
    members.get(name).map(|value| value.get())
}
