//! Bodies with many items, each of which is judged by itself.
//!
//! A list, bare or under its name. What is no list of the right length is refused as a whole; of the items the good ones are
//! used, and the others told by their index, field and reason. Where none is good the answer is a problem.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::points_body::shape_fault;
use crate::body::parse;
use crate::problem::{FieldFault, Problem, ProblemKind, quote};

/// Most faults told where nothing was accepted.
const MAX_FAULTS: usize = 100;

/// An item that was not accepted.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct RejectedItem {
    /// Its place in the request, from 0.
    pub(super) index: usize,
    #[schema(value_type = String, example = "starts_at")]
    pub(super) field: Cow<'static, str>,
    pub(super) reason: String,
}

impl RejectedItem {
    pub(super) fn new(index: usize, field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self {
            index,
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// What items are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    /// Most of them in a request.
    pub(super) most: usize,
}

/// Items with their places in the request.
pub(super) type Placed<T> = Vec<(usize, T)>;

/// The items that can be read, with their places; and those that cannot.
pub(super) fn read_items<T: for<'de> Deserialize<'de>>(
    bytes: &Bytes,
    names: Names,
) -> Result<(Placed<T>, Vec<RejectedItem>), Problem> {
    let pieces = pieces(bytes, names)?;
    if pieces.len() > names.most {
        let detail = format!("a request has at most {} {}", names.most, names.many);
        return Err(Problem::new(ProblemKind::BatchTooLarge, detail));
    }
    if pieces.is_empty() {
        let detail = format!("send 1 to {} {}", names.most, names.many);
        return Err(Problem::new(ProblemKind::BatchEmpty, detail));
    }
    let (mut good, mut rejected) = (Vec::with_capacity(pieces.len()), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        match serde_json::from_str(piece.get()) {
            Ok(item) => good.push((index, item)),
            Err(error) => {
                let (field, reason) = shape_fault(&error, names.one);
                rejected.push(RejectedItem::new(index, field, reason));
            }
        }
    }
    Ok((good, rejected))
}

fn pieces(bytes: &Bytes, names: Names) -> Result<Vec<Box<RawValue>>, Problem> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return parse(bytes);
    }
    let mut fields: BTreeMap<String, Box<RawValue>> = parse(bytes)?;
    let list = fields.remove(names.many).ok_or_else(|| {
        let reason = format!("is missing; send a list, or {{\"{}\": […]}}", names.many);
        Problem::field(ProblemKind::InvalidField, names.many, reason)
    })?;
    if let Some(other) = fields.keys().next() {
        let reason = format!("unknown: expected {} alone", names.many);
        return Err(Problem::field(ProblemKind::InvalidField, quote(other), reason));
    }
    serde_json::from_str(list.get())
        .map_err(|_| Problem::field(ProblemKind::InvalidField, names.many, "must be a list"))
}

/// The answer where no item is good.
pub(super) fn none_good(mut rejected: Vec<RejectedItem>) -> Problem {
    rejected.sort_by_key(|one| one.index);
    let faults = rejected.into_iter().take(MAX_FAULTS).map(|one| FieldFault {
        index: Some(one.index),
        ..FieldFault::new(one.field, one.reason)
    });
    Problem::faults(ProblemKind::InvalidField, faults.collect())
}

/// A moment as RFC 3339 writes it.
pub(super) fn moment(text: &str) -> Result<chrono::DateTime<chrono::Utc>, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|_| "is not an RFC 3339 time with an offset, such as 2030-01-31T12:00:00Z".to_owned())
}
