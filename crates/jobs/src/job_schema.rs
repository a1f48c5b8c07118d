//! The JSON Schemas of a kind that is part of the program: of its payload and of its result, derived from their types.
//!
//! A payload that comes as text is accepted if its type decodes it, [`Job::validate`] has no objection, and its schema describes it.
//! So nothing is accepted that the schema forbids, such as a list in place of an object, which serde decodes by the order of the
//! fields. The reverse cannot hold for everything: what a schema cannot express (a URL without a host) is refused by the type alone.
//!
//! The schemas are made when they are first needed, once for each process.
//!
//! # When things fail
//! A type may describe itself by hand, and wrongly. A schema that cannot be compiled is shown and checks nothing; `Program` reports it
//! before anything starts ([`KindSchemas::fault`]).

use schemars::generate::{Contract, SchemaSettings};
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::declared;
use crate::job::{Job, PayloadFault};

/// A ULID, in capitals or not.
pub const ID_PATTERN: &str = "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$";

/// A text without control characters.
pub const NO_CONTROL_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// What people write about a schema, and what says nothing about a document.
const ANNOTATIONS: [&str; 4] = ["$schema", "title", "description", "examples"];

/// The largest numbers of the integer types, by the format that schemars gives them. It sets the bounds of the smaller ones itself.
const INTEGER_BOUNDS: [(&str, i64, u64); 6] = [
    ("int32", i32::MIN as i64, i32::MAX as u64),
    ("int64", i64::MIN, i64::MAX as u64),
    ("int", i64::MIN, i64::MAX as u64),
    ("uint32", 0, u32::MAX as u64),
    ("uint64", 0, u64::MAX),
    ("uint", 0, u64::MAX),
];

/// The schema of an id. For fields: `#[schemars(schema_with = "holdfast_jobs::id_schema")]`.
pub fn id_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": ID_PATTERN})
}

/// The schemas of one kind, as JSON Schema 2020-12.
#[derive(Debug)]
pub struct KindSchemas {
    /// Of the payload, with an example where the kind has one.
    pub payload: Box<RawValue>,
    /// Of the result. `None`: the kind has no result.
    pub result: Option<Box<RawValue>>,
    /// `None`: every document is a payload, or the schema cannot be compiled.
    compiled: Option<declared::Schema>,
    fault: Option<String>,
}

impl KindSchemas {
    pub(crate) fn of<J: Job>() -> Self {
        let mut payload = document::<J>(Contract::Deserialize);
        let example = J::example().and_then(|example| serde_json::to_value(example).ok());
        if let (Some(example), Some(schema)) = (example, payload.as_object_mut()) {
            schema.insert("examples".to_owned(), Value::Array(vec![example]));
        }
        let result = document::<J::Output>(Contract::Serialize);
        let compiled = if describes_anything(&payload) {
            Ok(None)
        } else {
            declared::Schema::compile_own(payload.clone()).map(Some)
        };
        let (compiled, fault) = match compiled {
            Ok(compiled) => (compiled, None),
            Err(fault) => (None, Some(fault)),
        };
        Self {
            payload: raw(&payload),
            result: (result["type"] != "null").then(|| raw(&result)),
            compiled,
            fault,
        }
    }

    /// Whether the schema describes this payload.
    ///
    /// # Errors
    /// The first field that it does not describe.
    pub fn check(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        self.compiled
            .as_ref()
            .map_or(Ok(()), |schema| schema.check(payload))
    }

    /// Why the payload's schema cannot be compiled: a fault of the program.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// The schema of a type, without references to others, but in a type that contains itself.
fn document<T: JsonSchema + ?Sized>(contract: Contract) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.contract = contract;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    RecursiveTransform(bound_integer).transform(&mut schema);
    schema.to_value()
}

fn bound_integer(schema: &mut Schema) {
    let format = schema.get("format").and_then(Value::as_str);
    let Some((_, least, most)) = INTEGER_BOUNDS.iter().find(|(name, ..)| Some(*name) == format) else {
        return;
    };
    for (bound, number) in [("minimum", Value::from(*least)), ("maximum", Value::from(*most))] {
        if schema.get(bound).is_none() {
            schema.insert(bound.to_owned(), number);
        }
    }
}

fn describes_anything(schema: &Value) -> bool {
    let mut keywords = schema.as_object().into_iter().flatten();
    keywords.all(|(name, _)| ANNOTATIONS.contains(&name.as_str()))
}

fn raw(schema: &Value) -> Box<RawValue> {
    // A `Value` always encodes.
    serde_json::value::to_raw_value(schema).unwrap_or_else(|_| RawValue::TRUE.to_owned())
}
