//! The schemas of kinds as components of the OpenAPI document: `HttpRequestPayload` and `HttpRequestResult` for `http.request`. Each
//! names its kind in `x-kind`.

use holdfast_http::openapi::NamedSchemas;
use holdfast_http::{AuthorizedCaller, Bound, Read};
use holdfast_jobs::Registry;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::state::ControlState;

/// Of the kinds that are part of the program.
pub fn coded_schemas(registry: &Registry) -> NamedSchemas {
    let kinds = registry.kinds();
    kinds
        .flat_map(|kind| {
            let schemas = kind.schemas();
            components(kind.name, Some(&schemas.payload), schemas.result.as_deref())
        })
        .collect()
}

impl ControlState {
    /// Of the declared kinds that this caller may list; `None`: the database does not answer.
    pub async fn declared_schemas(&self, caller: &AuthorizedCaller<Bound<Read>>) -> Option<NamedSchemas> {
        let declared = self.declared().await.ok()?;
        let is_shown = |kind: &str| caller.binding().is_none_or(|binding| binding.allows_kind(kind));
        let kinds = declared.kinds.values().filter(|kind| is_shown(&kind.name));
        let schemas = kinds.flat_map(|kind| {
            let definition = &kind.definition;
            let (payload, result) = (&definition.payload_schema, &definition.result_schema);
            components(&kind.name, payload.as_deref(), result.as_deref())
        });
        Some(schemas.collect())
    }
}

fn components(kind: &str, payload: Option<&RawValue>, result: Option<&RawValue>) -> NamedSchemas {
    let parts = [("Payload", payload), ("Result", result)];
    parts
        .into_iter()
        .filter_map(|(part, schema)| {
            let name = format!("{}{part}", type_name(kind));
            let schema = serde_json::from_str(schema?.get()).ok()?;
            Some((name.clone(), component(kind, &name, schema)))
        })
        .collect()
}

/// `http.request` as `HttpRequest`.
fn type_name(kind: &str) -> String {
    let words = kind.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter_map(|word| {
            let (first, rest) = word.split_at_checked(1)?;
            Some(first.to_ascii_uppercase() + rest)
        })
        .collect()
}

/// The schema at its place in the document: its references to itself lead there.
fn component(kind: &str, name: &str, mut schema: Value) -> Value {
    spell_out(&mut schema);
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    // The name says it, and code generators would name types by the title.
    schema.remove("title");
    schema.remove("$schema");
    schema.insert("x-kind".to_owned(), Value::from(kind));
    // A schema with an id of its own is a document of its own.
    let is_part = !schema.contains_key("$id");
    let mut schema = Value::Object(schema);
    if is_part {
        lead_to(&mut schema, &format!("#/components/schemas/{name}"));
    }
    schema
}

/// The keywords whose values are schemas, lists of schemas, and schemas by name.
const SCHEMA: [&str; 6] = ["contains", "else", "if", "items", "not", "then"];
const SCHEMA_LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const SCHEMA_BY_NAME: [&str; 4] = ["$defs", "dependentSchemas", "patternProperties", "properties"];

/// Writes what code generators read: the schemas `true` and `false` as objects, and no alternatives of which one is everything.
fn spell_out(schema: &mut Value) {
    let keywords = match schema {
        Value::Bool(true) => return *schema = json!({}),
        Value::Bool(false) => return *schema = json!({"not": {}}),
        Value::Object(keywords) => keywords,
        _ => return,
    };
    for (keyword, value) in &mut *keywords {
        let keyword = keyword.as_str();
        match value {
            Value::Array(items) if SCHEMA_LIST.contains(&keyword) => items.iter_mut().for_each(spell_out),
            Value::Object(named) if SCHEMA_BY_NAME.contains(&keyword) => {
                named.values_mut().for_each(spell_out);
            }
            value if SCHEMA.contains(&keyword) => spell_out(value),
            // As a boolean it is known to all of them.
            value if keyword == "additionalProperties" && value.is_object() => spell_out(value),
            _ => {}
        }
    }
    let is_anything = |schemas: &Value| schemas.as_array().is_some_and(|some| some.contains(&json!({})));
    if keywords.get("anyOf").is_some_and(is_anything) {
        keywords.remove("anyOf");
    }
}

fn lead_to(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(reference) if name == "$ref" => {
                        let pointer = reference.strip_prefix('#');
                        if let Some(pointer) = pointer.filter(|to| to.is_empty() || to.starts_with('/')) {
                            *reference = format!("{place}{pointer}");
                        }
                    }
                    value => lead_to(value, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| lead_to(item, place)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_refers_to_itself_does_so_where_it_is_in_the_document() {
        let schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tree",
            "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#/$defs/leaf"}}, "$defs": {"leaf": true}});
        let raw = serde_json::value::to_raw_value(&schema).unwrap();
        let components = components("tree.walk-all", Some(&raw), None);
        let expected = json!({"x-kind": "tree.walk-all", "$defs": {"leaf": {}}, "properties": {
            "left": {"$ref": "#/components/schemas/TreeWalkAllPayload"},
            "right": {"$ref": "#/components/schemas/TreeWalkAllPayload/$defs/leaf"}}});
        assert_eq!(components, [("TreeWalkAllPayload".to_owned(), expected)]);
    }

    #[test]
    fn code_generators_see_neither_boolean_schemas_nor_alternatives_of_which_one_is_everything() {
        let mut schema = json!({"properties": {"a": true, "b": false}, "additionalProperties": false,
            "items": {"anyOf": [{"type": "string"}, true], "description": "d"}});
        spell_out(&mut schema);
        let expected = json!({"properties": {"a": {}, "b": {"not": {}}}, "additionalProperties": false,
            "items": {"description": "d"}});
        assert_eq!(schema, expected);
    }
}
