//! Bodies with many items, each of which is judged by itself.
//!
//! A list, bare or under its name. What is no list of the right length is refused as a whole; of the items the good ones are
//! used, and the others told by their index, field and reason. Where none is good the answer is a problem.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::body::{objects, parse};
use crate::nul;
use crate::problem::{FieldFault, Problem, ProblemKind};

/// Most faults told where nothing was accepted.
const MAX_FAULTS: usize = 100;

/// An item that was not accepted.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RejectedItem {
    /// Its place in the request, from 0.
    pub index: usize,
    #[schema(value_type = String, example = "starts_at")]
    pub field: Cow<'static, str>,
    pub reason: String,
    /// Its line in a body of lines (NDJSON), from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl RejectedItem {
    pub fn new(index: usize, field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self {
            index,
            field: field.into(),
            reason: reason.into(),
            line: None,
        }
    }
}

/// What items are called.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    pub one: &'static str,
    pub many: &'static str,
    /// Most of them in a request.
    pub most: usize,
}

impl Names {
    pub fn within(self, count: usize) -> Result<(), Problem> {
        if count <= self.most {
            return Ok(());
        }
        Err(self.too_many())
    }

    fn too_many(self) -> Problem {
        let detail = format!("a request has at most {} {}", self.most, self.many);
        Problem::new(ProblemKind::BatchTooLarge, detail)
    }

    /// The answer to a list without items.
    pub fn nothing(self) -> Problem {
        let detail = format!("send 1 to {} {}", self.most, self.many);
        Problem::new(ProblemKind::BatchEmpty, detail)
    }
}

/// The field of an item, and what is wrong with it.
pub type Fault = (Cow<'static, str>, String);

/// Items with their places in the request.
pub type IndexedItems<T> = Vec<(usize, T)>;

/// The items that can be read, with their places; and those that cannot.
pub fn read_items<T: for<'de> Deserialize<'de>>(
    bytes: &Bytes,
    names: Names,
) -> Result<(IndexedItems<T>, Vec<RejectedItem>), Problem> {
    nul::check_json(bytes, names.many)?;
    let pieces = pieces(bytes, names)?;
    if pieces.is_empty() {
        return Err(names.nothing());
    }
    let (mut good, mut rejected) = (Vec::with_capacity(pieces.len()), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        match objects::from_slice(piece.get().as_bytes()) {
            Ok(item) => good.push((index, item)),
            Err(error) => {
                let (field, reason) = shape_fault(&error, names.one);
                rejected.push(RejectedItem::new(index, field, reason));
            }
        }
    }
    Ok((good, rejected))
}

/// Whether a body is a bare list.
pub fn is_list(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The items of a body, unparsed. A list that is too long is refused at its first surplus item.
pub fn pieces(bytes: &[u8], names: Names) -> Result<Vec<Box<RawValue>>, Problem> {
    let mut is_too_long = false;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = if is_list(bytes) {
        let list = Pieces {
            names,
            is_too_long: &mut is_too_long,
        };
        list.deserialize(&mut deserializer)
    } else {
        let wrapped = WrappedPieces {
            names,
            is_too_long: &mut is_too_long,
        };
        wrapped.deserialize(&mut deserializer)
    };
    let read = read.and_then(|pieces| deserializer.end().map(|()| pieces));
    read.map_err(|error| {
        if is_too_long {
            return names.too_many();
        }
        // Invalid JSON is reported by its position, JSON of another shape by its field.
        if let Err(malformed) = parse::<IgnoredAny>(bytes) {
            return malformed;
        }
        let (field, reason) = shape_fault(&error, names.many);
        Problem::field(ProblemKind::InvalidField, field, reason)
    })
}

/// A list of at most `names.most` items.
struct Pieces<'a> {
    names: Names,
    is_too_long: &'a mut bool,
}

/// The same list as the only field of an object.
struct WrappedPieces<'a> {
    names: Names,
    is_too_long: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Pieces<'_> {
    type Value = Vec<Box<RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Pieces<'_> {
    type Value = Vec<Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.names.many)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut pieces = Vec::new();
        while let Some(piece) = list.next_element()? {
            if pieces.len() == self.names.most {
                *self.is_too_long = true;
                return Err(A::Error::custom("too many"));
            }
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

impl<'de> DeserializeSeed<'de> for WrappedPieces<'_> {
    type Value = Vec<Box<RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WrappedPieces<'_> {
    type Value = Vec<Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list, or {{\"{}\": […]}}", self.names.many)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Names { many, .. } = self.names;
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key != many {
                let key: String = key.chars().take(80).collect();
                return Err(A::Error::custom(format!(
                    "unknown field `{key}`, expected {many} alone"
                )));
            }
            if found.is_some() {
                return Err(A::Error::custom(format!("duplicate field `{many}`")));
            }
            let list = Pieces {
                names: self.names,
                is_too_long: &mut *self.is_too_long,
            };
            found = Some(map.next_value_seed(list)?);
        }
        let missing = || {
            A::Error::custom(format!(
                "missing field `{many}`: send a list, or {{\"{many}\": […]}}"
            ))
        };
        found.ok_or_else(missing)
    }
}

/// A list whose parsing ends at the first surplus item.
#[derive(Debug)]
pub struct AtMost<T, const N: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of {N} at most")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == N {
                        return Err(A::Error::custom("too many"));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }

        deserializer.deserialize_seq(List::<T, N>(PhantomData)).map(Self)
    }
}

/// The answer where no item is good.
pub fn none_good(mut rejected: Vec<RejectedItem>, names: Names) -> Problem {
    rejected.sort_by_key(|one| one.index);
    let faults = rejected.into_iter().take(MAX_FAULTS).map(|one| FieldFault {
        index: Some(one.index),
        line: one.line,
        names_item: true,
        ..FieldFault::new(path_of(&one, names), one.reason)
    });
    Problem::faults(ProblemKind::InvalidField, faults.collect())
}

/// `events[3].starts_at`; in a body of lines the field alone, since the line is said.
fn path_of(one: &RejectedItem, names: Names) -> String {
    match one.line {
        Some(_) => one.field.to_string(),
        None if one.field == names.one => format!("{}[{}]", names.many, one.index),
        None => format!("{}[{}].{}", names.many, one.index, one.field),
    }
}

/// A moment as RFC 3339 writes it.
pub fn moment(text: &str) -> Result<chrono::DateTime<chrono::Utc>, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|_| "is not an RFC 3339 time with an offset, such as 2030-01-31T12:00:00Z".to_owned())
}

/// Which field serde stumbled over, where its words tell; `whole` where they do not.
pub fn shape_fault(error: &serde_json::Error, whole: &'static str) -> Fault {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let named = reason.split('`').nth(1).filter(|_| reason.contains("field `"));
    let field = named.map_or(Cow::Borrowed(whole), |name| {
        Cow::Owned(name.chars().take(80).collect())
    });
    (field, reason)
}
