//! Documents held against the OpenAPI document's own schemas: a small JSON Schema validator that knows the keywords which
//! those use, and panics at any other, so that it cannot pass by looking away.

use serde_json::Value;

/// Keywords that constrain nothing.
const ANNOTATIONS: [&str; 6] = [
    "description",
    "title",
    "default",
    "example",
    "examples",
    "deprecated",
];

pub(crate) struct Schemas(Value);

impl Schemas {
    pub(crate) fn of(openapi: Value) -> Self {
        Self(openapi)
    }

    /// Every fault of a document, with its place.
    pub(crate) fn faults(&self, component: &str, document: &Value) -> Vec<String> {
        let schema = &self.0["components"]["schemas"][component];
        assert!(schema.is_object(), "there is no schema {component}");
        let mut faults = Vec::new();
        self.check(schema, document, component, &mut faults);
        faults
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        for (keyword, rule) in schema.as_object().unwrap_or_else(|| panic!("{at}: {schema}")) {
            match keyword.as_str() {
                "$ref" => {
                    let pointer = rule.as_str().unwrap().trim_start_matches('#');
                    self.check(self.0.pointer(pointer).unwrap(), value, at, faults);
                }
                "type" => {
                    let allowed = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                    if !allowed.iter().any(|one| is_a(value, one.as_str().unwrap())) {
                        faults.push(format!("{at}: {value} is not {rule}"));
                    }
                }
                "enum" => {
                    if !rule.as_array().unwrap().contains(value) {
                        faults.push(format!("{at}: {value} is none of {rule}"));
                    }
                }
                "required" => {
                    for name in rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
                        if value.get(name).is_none() {
                            faults.push(format!("{at}: {name} is missing"));
                        }
                    }
                }
                "properties" => {
                    for (name, found) in value.as_object().into_iter().flatten() {
                        match rule.get(name) {
                            Some(schema) => self.check(schema, found, &format!("{at}.{name}"), faults),
                            None => faults.push(format!("{at}: {name} is not in the schema")),
                        }
                    }
                }
                "additionalProperties" => {
                    for (name, found) in value.as_object().into_iter().flatten() {
                        self.check(rule, found, &format!("{at}.{name}"), faults);
                    }
                }
                "items" => {
                    for (index, found) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, found, &format!("{at}[{index}]"), faults);
                    }
                }
                "oneOf" | "anyOf" => {
                    let fits = rule.as_array().unwrap().iter().any(|one| {
                        let mut of_one = Vec::new();
                        self.check(one, value, at, &mut of_one);
                        of_one.is_empty()
                    });
                    if !fits {
                        faults.push(format!("{at}: {value} fits none of {keyword}"));
                    }
                }
                "minimum" => {
                    if value
                        .as_f64()
                        .is_some_and(|number| number < rule.as_f64().unwrap())
                    {
                        faults.push(format!("{at}: {value} is below {rule}"));
                    }
                }
                // The types tell whole numbers from others, and nothing here depends on their width.
                "format" | "propertyNames" => {}
                other => assert!(ANNOTATIONS.contains(&other), "{at}: unknown keyword {other}"),
            }
        }
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("unknown type {other}"),
    }
}
