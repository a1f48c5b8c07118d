//! How much work a schema is, before any of it is done.
//!
//! A validator follows every reference wherever it stands, so definitions that each refer twice to the next cost 2ⁿ checks of one value;
//! and one that refers to itself twice costs 2ⁿ for a document that is nested n deep. So the checks are counted first, each pair of
//! definition and value once, however often it will be checked:
//! - when a schema is declared, over its definitions alone: the ways that lead to each ([`MAX_WAYS`]), and how many of them lie one
//!   behind the other ([`MAX_NESTED`]), since a validator recurses;
//! - for one that refers to itself, also over each document ([`Graph::check`]): at most [`MAX_CHECKS`].
//!
//! Patterns run in linear time, and their compiled size is bounded ([`MAX_PATTERN_BYTES`]).

use std::collections::{BTreeSet, HashMap};

use regex::RegexBuilder;
use serde_json::{Map, Value};

/// Most checks of a schema that does not refer to itself, each way through its references counted. A schema of 16 KiB without any has
/// at most some 2,000.
pub(super) const MAX_WAYS: u64 = 10_000;

/// Most definitions that are checked one inside the other. Each takes some kilobytes of a thread's stack.
const MAX_NESTED: usize = 200;

/// Most checks for one document; each takes about a microsecond.
const MAX_CHECKS: u64 = 5_000_000;

/// Most pairs of definition and value that are looked at to count them.
const MAX_PAIRS: usize = 500_000;

/// Most bytes of all compiled patterns of one schema, about.
const MAX_PATTERN_BYTES: usize = 16 * 1024 * 1024;

/// The sizes that a pattern is measured by.
const PATTERN_SIZES: [usize; 4] = [64 * 1024, 512 * 1024, 2 * 1024 * 1024, 10 * 1024 * 1024];

/// What a definition applies another one to.
#[derive(Debug, PartialEq, Eq)]
enum To {
    Itself,
    Property(String),
    EveryProperty,
    /// Also every name.
    EveryItem,
    Item(usize),
}

#[derive(Debug)]
struct Node {
    /// JSON pointer.
    place: String,
    edges: Vec<(To, usize)>,
}

/// The definitions of a schema that are applied, and to what.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Some definition leads to itself.
    pub(super) is_recursive: bool,
}

/// What was counted of a definition.
#[derive(Debug, Clone, Copy)]
enum Count {
    Open,
    Done { ways: u64, nested: usize },
}

impl Graph {
    /// # Errors
    /// The place that is too much work, for people.
    pub(super) fn of(document: &Value) -> Result<Self, String> {
        let mut builder = Builder {
            root: document,
            nodes: Vec::new(),
            by_place: HashMap::new(),
            patterns: BTreeSet::new(),
        };
        builder.add(String::new(), document);
        let mut next = 0;
        while next < builder.nodes.len() {
            builder.connect(next)?;
            next += 1;
        }
        check_patterns(&builder.patterns)?;
        let nodes = builder.nodes.into_iter().map(|(node, _)| node);
        let mut graph = Self {
            nodes: nodes.collect(),
            is_recursive: false,
        };
        let mut counts = vec![None; graph.nodes.len()];
        let mut is_recursive = false;
        graph.count(0, 0, &mut counts, &mut is_recursive)?;
        graph.is_recursive = is_recursive;
        Ok(graph)
    }

    /// Ways and nesting from this definition on.
    fn count(
        &self,
        node: usize,
        depth: usize,
        counts: &mut [Option<Count>],
        is_recursive: &mut bool,
    ) -> Result<(u64, usize), String> {
        match counts[node] {
            Some(Count::Done { ways, nested }) => return Ok((ways, nested)),
            Some(Count::Open) => {
                *is_recursive = true;
                return Ok((1, 1));
            }
            None => {}
        }
        let place = &self.nodes[node].place;
        if depth > MAX_NESTED {
            return Err(too_deep(place));
        }
        counts[node] = Some(Count::Open);
        let (mut ways, mut nested) = (1_u64, 1);
        for (_, to) in &self.nodes[node].edges {
            let (more, below) = self.count(*to, depth + 1, counts, is_recursive)?;
            ways = ways.saturating_add(more);
            nested = nested.max(below + 1);
        }
        if ways > MAX_WAYS {
            return Err(format!(
                "at {}: its references multiply to more than {MAX_WAYS} checks of one value",
                shown(place)
            ));
        }
        if nested > MAX_NESTED {
            return Err(too_deep(place));
        }
        counts[node] = Some(Count::Done { ways, nested });
        Ok((ways, nested))
    }

    /// Whether the checks of a document are few enough; only a schema that refers to itself needs to be asked.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) fn check(&self, document: &Value) -> Result<(), String> {
        let mut weighing = SchemaWeigher {
            graph: self,
            known: HashMap::new(),
        };
        let checks = weighing.weigh(0, document, 0)?;
        if checks > MAX_CHECKS {
            return Err(too_much());
        }
        Ok(())
    }
}

fn too_deep(place: &str) -> String {
    format!(
        "at {}: more than {MAX_NESTED} definitions are checked one inside the other",
        shown(place)
    )
}

fn too_much() -> String {
    format!(
        "to check it would take more than {MAX_CHECKS} steps: its kind's schema refers to itself in too many ways"
    )
}

fn shown(place: &str) -> &str {
    if place.is_empty() { "#" } else { place }
}

struct SchemaWeigher<'g> {
    graph: &'g Graph,
    /// By definition and value; `None`: being weighed.
    known: HashMap<(usize, *const Value), Option<u64>>,
}

impl SchemaWeigher<'_> {
    fn weigh(&mut self, node: usize, value: &Value, depth: usize) -> Result<u64, String> {
        let pair = (node, std::ptr::from_ref(value));
        match self.known.get(&pair) {
            Some(Some(checks)) => return Ok(*checks),
            // It applies itself to the same value: the validator ends that.
            Some(None) => return Ok(1),
            None => {}
        }
        if depth > MAX_NESTED || self.known.len() >= MAX_PAIRS {
            return Err(too_much());
        }
        self.known.insert(pair, None);
        let graph = self.graph;
        let mut checks = 1_u64;
        for (to, other) in &graph.nodes[node].edges {
            let more = match (to, value) {
                (To::Itself, value) => self.weigh(*other, value, depth + 1)?,
                (To::Property(name), Value::Object(object)) => match object.get(name) {
                    Some(value) => self.weigh(*other, value, depth + 1)?,
                    None => 0,
                },
                (To::EveryProperty, Value::Object(object)) => {
                    self.weigh_all(*other, object.values(), depth)?
                }
                (To::EveryItem, Value::Array(items)) => self.weigh_all(*other, items, depth)?,
                (To::Item(index), Value::Array(items)) => match items.get(*index) {
                    Some(value) => self.weigh(*other, value, depth + 1)?,
                    None => 0,
                },
                _ => 0,
            };
            checks = checks.saturating_add(more);
        }
        self.known.insert(pair, Some(checks));
        Ok(checks)
    }

    fn weigh_all<'v>(
        &mut self,
        node: usize,
        values: impl IntoIterator<Item = &'v Value>,
        depth: usize,
    ) -> Result<u64, String> {
        values.into_iter().try_fold(0_u64, |checks, value| {
            Ok(checks.saturating_add(self.weigh(node, value, depth + 1)?))
        })
    }
}

struct Builder<'d> {
    root: &'d Value,
    nodes: Vec<(Node, &'d Value)>,
    by_place: HashMap<*const Value, usize>,
    patterns: BTreeSet<&'d str>,
}

impl<'d> Builder<'d> {
    fn add(&mut self, place: String, schema: &'d Value) -> usize {
        let nodes = &mut self.nodes;
        *self
            .by_place
            .entry(std::ptr::from_ref(schema))
            .or_insert_with(|| {
                let edges = Vec::new();
                nodes.push((Node { place, edges }, schema));
                nodes.len() - 1
            })
    }

    /// Finds what the definition applies.
    fn connect(&mut self, node: usize) -> Result<(), String> {
        let Value::Object(object) = self.nodes[node].1 else {
            return Ok(());
        };
        let place = self.nodes[node].0.place.clone();
        let mut edges = Vec::new();
        for (keyword, value) in object {
            let at = format!("{place}/{}", escaped(keyword));
            match keyword.as_str() {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    if let Some(to) = self.referred(value, &at)? {
                        edges.push((To::Itself, to));
                    }
                }
                "not" | "if" | "then" | "else" => edges.push((To::Itself, self.add(at, value))),
                "allOf" | "anyOf" | "oneOf" => self.add_list(&mut edges, &at, value, |_| To::Itself),
                "dependentSchemas" | "dependencies" => self.add_map(&mut edges, &at, value, |_| To::Itself),
                "properties" => {
                    self.add_map(&mut edges, &at, value, |name| To::Property(name.to_owned()));
                }
                "patternProperties" => {
                    self.patterns.extend(names(value));
                    self.add_map(&mut edges, &at, value, |_| To::EveryProperty);
                }
                "additionalProperties" | "unevaluatedProperties" => {
                    edges.push((To::EveryProperty, self.add(at, value)));
                }
                // Names are checked too, which cost less than values.
                "propertyNames" => edges.push((To::EveryProperty, self.add(at, value))),
                "prefixItems" => self.add_list(&mut edges, &at, value, To::Item),
                "items" if value.is_array() => self.add_list(&mut edges, &at, value, To::Item),
                "items" | "additionalItems" | "unevaluatedItems" | "contains" => {
                    edges.push((To::EveryItem, self.add(at, value)));
                }
                "contentSchema" => edges.push((To::Itself, self.add(at, value))),
                "pattern" => self.patterns.extend(value.as_str()),
                _ => {}
            }
        }
        self.nodes[node].0.edges = edges;
        Ok(())
    }

    fn add_list(
        &mut self,
        edges: &mut Vec<(To, usize)>,
        at: &str,
        list: &'d Value,
        to: impl Fn(usize) -> To,
    ) {
        for (index, schema) in list.as_array().into_iter().flatten().enumerate() {
            edges.push((to(index), self.add(format!("{at}/{index}"), schema)));
        }
    }

    fn add_map(&mut self, edges: &mut Vec<(To, usize)>, at: &str, map: &'d Value, to: impl Fn(&str) -> To) {
        for (name, schema) in map.as_object().into_iter().flatten() {
            edges.push((to(name), self.add(format!("{at}/{}", escaped(name)), schema)));
        }
    }

    /// What a reference leads to; `None`: a published draft, whose work is bounded.
    fn referred(&mut self, reference: &Value, at: &str) -> Result<Option<usize>, String> {
        let text = reference.as_str().unwrap_or("#");
        if text.starts_with("https://json-schema.org/") || text.starts_with("http://json-schema.org/") {
            return Ok(None);
        }
        let root_id = self.root.get("$id").and_then(Value::as_str).unwrap_or_default();
        let id = root_id.split('#').next().unwrap_or_default();
        let fragment = text
            .strip_prefix(id)
            .filter(|rest| rest.is_empty() || rest.starts_with('#'))
            .unwrap_or(text);
        let found = match fragment.strip_prefix('#').unwrap_or(fragment) {
            "" => Some((String::new(), self.root)),
            pointer if pointer.starts_with('/') => {
                let pointer = percent_decoded(pointer);
                self.root.pointer(&pointer).map(|schema| (pointer, schema))
            }
            anchor if fragment.starts_with('#') => anchored(self.root, anchor, String::new()),
            _ => None,
        };
        match found {
            Some((place, schema)) => Ok(Some(self.add(place, schema))),
            None => Err(format!(
                "at {at}: a reference within the schema is written #/$defs/NAME or #ANCHOR"
            )),
        }
    }
}

fn names(map: &Value) -> impl Iterator<Item = &str> {
    map.as_object()
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
}

/// The definition with this anchor.
fn anchored<'d>(schema: &'d Value, anchor: &str, place: String) -> Option<(String, &'d Value)> {
    match schema {
        Value::Object(object) => {
            let names_it = |keyword| object.get(keyword).and_then(Value::as_str) == Some(anchor);
            if names_it("$anchor") || names_it("$dynamicAnchor") {
                return Some((place, schema));
            }
            let mut members = object.iter();
            members.find_map(|(name, value)| anchored(value, anchor, format!("{place}/{}", escaped(name))))
        }
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, value)| anchored(value, anchor, format!("{place}/{index}")))
        }
        _ => None,
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bounds the memory of all patterns together. What is no pattern at all, the compiler of the schema says.
fn check_patterns(patterns: &BTreeSet<&str>) -> Result<(), String> {
    let mut total = 0;
    for pattern in patterns {
        let fits = |size: &&usize| RegexBuilder::new(pattern).size_limit(**size).build().is_ok();
        total += PATTERN_SIZES.iter().find(fits).copied().unwrap_or_default();
        if total > MAX_PATTERN_BYTES {
            let pattern: String = pattern.chars().take(80).collect();
            return Err(format!(
                "its patterns are too large together, up to {pattern:?}: make repetitions shorter, or patterns fewer"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each definition refers twice to the next.
    fn doubling(levels: usize, keyword: &str) -> Value {
        let mut definitions = Map::new();
        for level in 0..levels {
            let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
            definitions.insert(format!("d{level}"), json!({ keyword: [next.clone(), next] }));
        }
        definitions.insert(format!("d{levels}"), json!({ "type": "string" }));
        json!({ "$ref": "#/$defs/d0", "$defs": definitions })
    }

    #[test]
    fn references_that_multiply_are_refused_with_their_place() {
        for keyword in ["allOf", "anyOf", "oneOf", "prefixItems"] {
            let refused = Graph::of(&doubling(64, keyword)).unwrap_err();
            assert!(refused.starts_with("at /$defs/d5"), "{keyword}: {refused}");
            assert!(
                refused.contains("multiply to more than 10000 checks"),
                "{refused}"
            );
            assert!(Graph::of(&doubling(8, keyword)).is_ok());
        }
        let chain = |levels: usize| {
            let mut definitions = Map::new();
            for level in 0..levels {
                definitions.insert(
                    format!("d{level}"),
                    json!({ "$ref": format!("#/$defs/d{}", level + 1) }),
                );
            }
            definitions.insert(format!("d{levels}"), json!(true));
            Graph::of(&json!({ "$ref": "#/$defs/d0", "$defs": definitions }))
        };
        assert!(chain(150).is_ok());
        assert!(chain(400).unwrap_err().contains("one inside the other"));
    }

    #[test]
    fn a_schema_that_refers_to_itself_is_weighed_with_each_document() {
        let twice = json!({ "$ref": "#/$defs/n", "$defs": { "n": { "allOf": [
            { "properties": { "a": { "$ref": "#/$defs/n" } } },
            { "properties": { "a": { "$ref": "#/$defs/n" } } },
        ] } } });
        let graph = Graph::of(&twice).unwrap();
        assert!(graph.is_recursive);
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert_eq!(graph.check(&nested(10)), Ok(()));
        assert!(graph.check(&nested(40)).unwrap_err().contains("refers to itself"));

        // A tree is as much work as it is large, whatever its depth.
        let tree = json!({ "$id": "https://example.com/tree", "type": "object", "properties": {
            "left": { "$ref": "https://example.com/tree#" }, "right": { "$ref": "#" } } });
        let graph = Graph::of(&tree).unwrap();
        let full = (0..12).fold(json!({}), |inner, _| json!({ "left": inner, "right": inner }));
        assert_eq!(graph.check(&full), Ok(()));
        // Its values may be checked again and again in place, which the validator itself ends.
        assert_eq!(
            Graph::of(&json!({ "$ref": "#" })).unwrap().check(&json!(1)),
            Ok(())
        );
        let anchored = json!({ "$ref": "#it", "$defs": { "x": { "$anchor": "it", "type": "string" } } });
        assert!(!Graph::of(&anchored).unwrap().is_recursive);
    }

    #[test]
    fn patterns_are_bounded_together() {
        let schema = |patterns: usize| {
            let properties: Map<String, Value> = (0..patterns)
                .map(|n| {
                    (
                        format!("p{n}"),
                        json!({ "pattern": format!("^\\w{{1,{}}}$", 200 + n) }),
                    )
                })
                .collect();
            Graph::of(&json!({ "properties": properties }))
        };
        assert!(schema(1).is_ok());
        assert!(
            schema(100)
                .unwrap_err()
                .contains("patterns are too large together")
        );
    }
}
