//! What the derives of the OpenAPI document cannot say: relations between fields, and patterns of parameters that many routes share.
//!
//! They are JSON Schema, merged into the schemas at their places: objects field by field, everything else in place of what was there.
//! A place that does not exist is a fault of the program, which [`Refinements::misplaced`] finds in a test.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Schemas by their places.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refinements {
    /// By path, then by the parameter's name: of every operation of that path.
    parameters: Map<String, Value>,
    /// By the component's name.
    schemas: Map<String, Value>,
    /// Of JSON bodies, by method and path: `POST /v1/points`.
    bodies: Map<String, Value>,
}

impl Refinements {
    /// # Errors
    /// The text is not of this form.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    pub(crate) fn apply(&self, document: &mut Value) {
        for place in self.places() {
            for schema in place.schemas(document) {
                merge(schema, place.refinement);
            }
        }
    }

    /// The places that the document does not have.
    pub fn misplaced(&self, document: &Value) -> Vec<String> {
        let mut document = document.clone();
        let places = self.places().into_iter();
        places
            .filter(|place| {
                let schemas = place.schemas(&mut document);
                schemas.is_empty()
                    || schemas
                        .iter()
                        .any(|schema| has_unknown_field(schema, place.refinement))
            })
            .map(|place| place.name())
            .collect()
    }

    fn places(&self) -> Vec<Place<'_>> {
        let parameters = self.parameters.iter().flat_map(|(path, parameters)| {
            let parameters = parameters.as_object().into_iter().flatten();
            parameters.map(|(name, refinement)| Place {
                kind: PlaceKind::Parameter(path, name),
                refinement,
            })
        });
        let schemas = self.schemas.iter().map(|(name, refinement)| Place {
            kind: PlaceKind::Component(name),
            refinement,
        });
        let bodies = self.bodies.iter().map(|(operation, refinement)| Place {
            kind: PlaceKind::Body(operation),
            refinement,
        });
        parameters.chain(schemas).chain(bodies).collect()
    }
}

struct Place<'a> {
    kind: PlaceKind<'a>,
    refinement: &'a Value,
}

enum PlaceKind<'a> {
    Parameter(&'a str, &'a str),
    Component(&'a str),
    Body(&'a str),
}

impl Place<'_> {
    fn name(&self) -> String {
        match self.kind {
            PlaceKind::Parameter(path, name) => format!("{path} {name}"),
            PlaceKind::Component(name) | PlaceKind::Body(name) => name.to_owned(),
        }
    }

    fn schemas<'d>(&self, document: &'d mut Value) -> Vec<&'d mut Value> {
        match self.kind {
            PlaceKind::Parameter(path, name) => {
                let operations = document["paths"].get_mut(path).and_then(Value::as_object_mut);
                let operations = operations.into_iter().flat_map(Map::values_mut);
                let parameters =
                    operations.filter_map(|operation| operation.get_mut("parameters")?.as_array_mut());
                parameters
                    .flatten()
                    .filter(|parameter| parameter["name"] == name)
                    .filter_map(|parameter| parameter.get_mut("schema"))
                    .collect()
            }
            PlaceKind::Component(name) => {
                let component = document["components"]["schemas"].get_mut(name);
                component.into_iter().collect()
            }
            PlaceKind::Body(operation) => {
                let (method, path) = operation.split_once(' ').unwrap_or_default();
                let pointer = format!(
                    "/paths/{}/{}/requestBody/content/application~1json/schema",
                    path.replace('/', "~1"),
                    method.to_lowercase()
                );
                document.pointer_mut(&pointer).into_iter().collect()
            }
        }
    }
}

/// Whether it refines a property that the schema does not have.
fn has_unknown_field(schema: &Value, refinement: &Value) -> bool {
    let refined = refinement["properties"].as_object().into_iter().flatten();
    refined
        .into_iter()
        .any(|(name, _)| schema["properties"].get(name).is_none())
}

fn merge(schema: &mut Value, refinement: &Value) {
    match (schema, refinement) {
        (Value::Object(schema), Value::Object(refinement)) => {
            for (name, refined) in refinement {
                merge(schema.entry(name.clone()).or_insert(Value::Null), refined);
            }
        }
        (schema, refinement) => *schema = refinement.clone(),
    }
}
