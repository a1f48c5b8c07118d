//! A JSON Schema (2020-12), compiled once and checked often.
//!
//! A schema refers to itself and to the published drafts alone: nothing is fetched, and no file is read. Its work is bounded before it
//! is done (`schema_work.rs`). A fault names the path of the value and never repeats the value, which may be a secret.

use std::error::Error;
use std::fmt::{self, Write as _};

use boon::{
    CompileError, Compiler, Draft, ErrorKind, InstanceLocation, InstanceToken, SchemaIndex, Schemas,
    UrlLoader, ValidationError,
};
use serde_json::Value;
use serde_json::value::RawValue;

use super::schema_work::Graph;
use crate::enqueue::depth_of;
use crate::job::PayloadFault;

/// Longest text of one schema, in bytes.
pub const MAX_SCHEMA_BYTES: usize = 16 * 1024;

/// Deepest nesting of a schema. It is compiled by recursion.
const MAX_SCHEMA_DEPTH: usize = 32;

/// Where the schema is, for references within it.
const PLACE: &str = "https://holdfast.invalid/schema";

/// Refuses every reference that leads out of the schema.
struct NoLoader;

impl UrlLoader for NoLoader {
    fn load(&self, url: &str) -> Result<Value, Box<dyn Error>> {
        Err(format!("{url} is another document; a schema may refer to itself alone").into())
    }
}

/// A compiled schema.
pub(crate) struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
    /// `Some`: it refers to itself, so that its work depends on each document.
    graph: Option<Graph>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

impl Schema {
    /// # Errors
    /// What is wrong with the schema, for people.
    pub(crate) fn compile(schema: &RawValue) -> Result<Self, String> {
        let text = schema.get();
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(format!(
                "{} bytes are more than the {MAX_SCHEMA_BYTES} allowed",
                text.len()
            ));
        }
        let depth = depth_of(text);
        if depth > MAX_SCHEMA_DEPTH {
            return Err(format!("nested {depth} deep; {MAX_SCHEMA_DEPTH} is the most"));
        }
        let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let graph = Graph::of(&document)?;
        let graph = graph.is_recursive.then_some(graph);
        Self::of(document, graph)
    }

    /// A schema that the program has derived from a type: its size is the program's own business.
    ///
    /// # Errors
    /// As [`Schema::compile`].
    pub(crate) fn compile_own(document: Value) -> Result<Self, String> {
        Self::of(document, None)
    }

    fn of(document: Value, graph: Option<Graph>) -> Result<Self, String> {
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.use_loader(Box::new(NoLoader));
        let mut schemas = Schemas::new();
        compiler
            .add_resource(PLACE, document)
            .map_err(|error| reason(&error))?;
        let index = compiler
            .compile(PLACE, &mut schemas)
            .map_err(|error| reason(&error))?;
        Ok(Self {
            schemas,
            index,
            graph,
        })
    }

    /// Whether the document is one that the schema describes; else the first fault.
    pub(crate) fn check(&self, document: &RawValue) -> Result<(), PayloadFault> {
        let document: Value =
            serde_json::from_str(document.get()).map_err(|error| PayloadFault::new("", error.to_string()))?;
        if let Some(graph) = &self.graph {
            let weighed = graph.check(&document);
            weighed.map_err(|reason| PayloadFault::new("", reason))?;
        }
        self.schemas
            .validate(&document, self.index)
            .map_err(|error| first_fault(&error))
    }
}

fn reason(error: &CompileError) -> String {
    format!("{error:#}").replace(PLACE, "it")
}

/// The innermost error on the way that has no branches: of several alternatives, none is more wrong than another.
fn first_fault(error: &ValidationError<'_, '_>) -> PayloadFault {
    let mut inner = error;
    while let Some(cause) = inner.causes.first() {
        let is_choice = matches!(inner.kind, ErrorKind::AnyOf | ErrorKind::OneOf(_));
        if is_choice {
            break;
        }
        inner = cause;
    }
    let mut field = path_of(&inner.instance_location);
    let reason = match &inner.kind {
        ErrorKind::Required { want } => {
            append(&mut field, want.first().copied().unwrap_or_default());
            "it is missing".to_owned()
        }
        ErrorKind::AdditionalProperties { got } => {
            append(&mut field, got.first().map_or("", |name| name));
            "the schema knows no such field".to_owned()
        }
        ErrorKind::Pattern { want, .. } => format!("it does not match the pattern {want:?}"),
        ErrorKind::Format { want, .. } => format!("it is not a valid {want}"),
        ErrorKind::Not => "it is a value that the schema excludes".to_owned(),
        ErrorKind::AnyOf => "it matches none of the alternatives of anyOf".to_owned(),
        ErrorKind::OneOf(None) => "it matches none of the alternatives of oneOf".to_owned(),
        kind => kind.to_string(),
    };
    PayloadFault::new(field, reason)
}

fn append(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.extend(name.chars().take(80));
}

/// As the paths of other faults are written: `headers.accept`, `items[3].name`.
fn path_of(location: &InstanceLocation<'_>) -> String {
    let mut path = String::new();
    for token in &location.tokens {
        match token {
            InstanceToken::Prop(name) => append(&mut path, name),
            InstanceToken::Item(index) => drop(write!(path, "[{index}]")), // writing to a String does not fail
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_fault_names_the_path_and_not_the_value() {
        let schema = raw(
            r##"{"type": "object", "required": ["to"], "additionalProperties": false, "properties": {
                "to": {"type": "string", "pattern": "^[a-z]+@"},
                "sizes": {"type": "array", "items": {"$ref": "#/$defs/size"}}},
                "$defs": {"size": {"type": "integer", "maximum": 9}}}"##,
        );
        let schema = Schema::compile(&schema).unwrap();
        assert_eq!(schema.check(&raw(r#"{"to": "a@b", "sizes": [1, 2]}"#)), Ok(()));
        for (document, field) in [
            ("{}", "to"),
            (r#"{"to": "S3CRET"}"#, "to"),
            (r#"{"to": "a@b", "sizes": [1, "x"]}"#, "sizes[1]"),
            (r#"{"to": "a@b", "sizes": [10]}"#, "sizes[0]"),
            (r#"{"to": "a@b", "more": 1}"#, "more"),
            ("[]", ""),
        ] {
            let fault = schema.check(&raw(document)).unwrap_err();
            assert_eq!(fault.field, field, "{fault}");
            assert!(!fault.reason.contains("S3CRET"), "{fault}");
        }
    }

    #[test]
    fn a_schema_refers_to_itself_alone_and_is_bounded() {
        for bad in [
            r#"{"type": "strin"}"#.to_owned(),
            r##"{"$ref": "#/$defs/missing"}"##.to_owned(),
            r#"{"$ref": "https://example.com/schema.json"}"#.to_owned(),
            r#"{"$ref": "file:///etc/hostname"}"#.to_owned(),
            r#"{"pattern": "("}"#.to_owned(),
            format!("{}1{}", r#"{"not":"#.repeat(40), "}".repeat(40)),
            format!(r#"{{"description": "{}"}}"#, "x".repeat(MAX_SCHEMA_BYTES)),
        ] {
            let reason = Schema::compile(&raw(&bad)).expect_err(&bad[..bad.len().min(80)]);
            assert!(!reason.is_empty());
        }
        assert!(Schema::compile(&raw("true")).is_ok());
    }
}
