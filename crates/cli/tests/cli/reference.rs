//! The generated pages of the reference: `docs/api.md` from the document of the API, the tables of docs/kinds.md from
//! `GET /v1/kinds`.
//!
//! The pages say what a running `holdfast dev` says. `scripts/generate` writes them; a test compares them, and enqueues the
//! example of each kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::readme::{read, root};
use crate::snippets::Dev;

const API: &str = "docs/api.md";
const KINDS: &str = "docs/kinds.md";
const PROBLEMS: &str = "docs/problems.md";

#[tokio::test]
async fn the_reference_says_what_the_program_says() {
    let dev = Dev::start().await;
    assert!(
        read(API) == api_page(&dev.ask("/openapi.json", &[]).await),
        "{API} is out of date: run scripts/generate"
    );
    assert!(
        read(KINDS) == kinds_page(&dev.ask("/v1/kinds", &[]).await),
        "{KINDS} is out of date: run scripts/generate"
    );
    dev.stop().await;
}

#[test]
fn the_problems_are_those_of_the_program() {
    assert!(
        read(PROBLEMS) == problems_page(),
        "{PROBLEMS} is out of date: run scripts/generate"
    );
}

/// A route names the types of its problems after their status: `404 job-not-found (with `id`), nothing-matched: why`.
#[test]
fn every_problem_that_a_route_documents_exists_and_has_its_status() {
    let known: BTreeMap<&str, u16> = holdfast_services::problems()
        .map(|kind| (kind.slug(), kind.status().as_u16()))
        .collect();
    let api = read(API);
    let mut count = 0;
    for answer in api
        .lines()
        .filter_map(|line| line.strip_prefix("Problems: "))
        .flat_map(|line| line.trim_end_matches('.').split(" · "))
    {
        let (status, meaning) = answer.split_once(' ').unwrap();
        let types = meaning.split(": ").next().unwrap_or_default();
        for word in types.split(", ").filter_map(|part| part.split(" (").next()) {
            if word.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                let documented = known.get(word).copied();
                assert_eq!(documented, status.parse().ok(), "{word} in {answer:?}");
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count}");
}

#[tokio::test]
async fn the_example_of_every_kind_is_accepted() {
    let dev = Dev::start().await;
    let kinds = dev.ask("/v1/kinds", &[]).await;
    for kind in kinds["kinds"].as_array().unwrap() {
        let (example, kind) = (&kind["payload_schema"]["examples"][0], text(kind, "kind"));
        // A day ahead: it is checked and stored, and does not run.
        let job = json!({"kind": kind, "payload": example, "delay_seconds": 86_400}).to_string();
        let accepted = dev
            .ask(
                "/v1/jobs",
                &["--header", "content-type: application/json", "--data", &job],
            )
            .await;
        assert_eq!(accepted["kind"], kind.as_str());
    }
    dev.stop().await;
}

/// Writes both pages from what the program says.
pub(crate) async fn bring_up_to_date() {
    let dev = Dev::start().await;
    let api = api_page(&dev.ask("/openapi.json", &[]).await);
    let kinds = kinds_page(&dev.ask("/v1/kinds", &[]).await);
    dev.stop().await;
    std::fs::write(root().join(PROBLEMS), problems_page()).unwrap();
    std::fs::write(root().join(API), api).unwrap();
    std::fs::write(root().join(KINDS), kinds).unwrap();
}

fn api_page(openapi: &Value) -> String {
    with_text_between(&read(API), "<!-- api -->\n", "<!-- /api -->", &api(openapi))
}

fn kinds_page(kinds: &Value) -> String {
    let mut page = read(KINDS);
    for described in kinds["kinds"].as_array().unwrap() {
        let name = text(described, "kind");
        page = with_text_between(&page, &opening(&name), "<!-- /kind -->", &kind(described));
    }
    page
}

fn problems_page() -> String {
    let mut problems: Vec<_> = holdfast_services::problems().collect();
    problems.sort_by_key(|kind| (kind.status(), kind.slug()));
    let mut table = "| type | status | meaning | what to do |\n| --- | --- | --- | --- |\n".to_owned();
    for kind in problems {
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            kind.slug(),
            kind.status().as_u16(),
            kind.title(),
            kind.remedy()
        );
    }
    with_text_between(
        &read(PROBLEMS),
        "<!-- problems -->\n",
        "<!-- /problems -->",
        &table,
    )
}

/// The line of docs/kinds.md that the table of a kind follows. A new kind gets its section there.
fn opening(kind: &str) -> String {
    format!("<!-- kind {kind} -->\n")
}

fn with_text_between(page: &str, opening: &str, end: &str, text: &str) -> String {
    let (before, rest) = page
        .split_once(opening)
        .unwrap_or_else(|| panic!("there is no line {opening:?}"));
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{opening}{text}{end}{after}")
}

// --- docs/api.md ---------------------------------------------------------------------------------------------------

/// Routes by tag, then schemas, each under a heading of its own.
fn api(openapi: &Value) -> String {
    let mut page = String::new();
    for (tag, operations) in by_tag(openapi) {
        let _ = write!(page, "## {}\n\n", capitalised(&tag));
        for (method, path, operation) in operations {
            page.push_str(&operation_section(method, path, operation));
        }
    }
    page.push_str("## Schemas\n\n");
    // Those of kinds are in docs/kinds.md.
    let schemas = entries(&openapi["components"]["schemas"]).filter(|(_, schema)| schema["x-kind"].is_null());
    for (name, schema) in schemas {
        page.push_str(&schema_section(name, schema));
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

type Operation<'a> = (&'a str, &'a str, &'a Value);

fn by_tag(openapi: &Value) -> BTreeMap<String, Vec<Operation<'_>>> {
    let mut tags: BTreeMap<String, Vec<Operation<'_>>> = BTreeMap::new();
    for (path, methods) in entries(&openapi["paths"]) {
        for (method, operation) in entries(methods) {
            let tag = operation["tags"][0].as_str().unwrap_or("other").to_owned();
            tags.entry(tag).or_default().push((method, path, operation));
        }
    }
    let rank = |method: &str| ["get", "post", "put"].iter().position(|known| *known == method);
    for operations in tags.values_mut() {
        operations.sort_by_key(|(method, path, _)| (*path, rank(method).unwrap_or(usize::MAX)));
    }
    tags
}

fn operation_section(method: &str, path: &str, operation: &Value) -> String {
    let summary = text(operation, "summary");
    let mut section = format!(
        "### {summary}\n\n`{} {path}`{}\n\n",
        method.to_uppercase(),
        scope_of(operation)
    );
    paragraph(&mut section, &text(operation, "description"));
    parameters(&mut section, operation);
    if let Some(body) = content_type(&operation["requestBody"]) {
        let _ = write!(section, "Body: {body}.\n\n");
    }
    responses(&mut section, operation);
    section
}

/// Which scope a caller needs, as `security` says.
fn scope_of(operation: &Value) -> String {
    let schemes = operation["security"].as_array().map_or(&[][..], Vec::as_slice);
    let scopes: Vec<String> = schemes
        .iter()
        .filter_map(|scheme| scheme["api_key"][0].as_str())
        .map(|scope| match scope {
            "any" => "needs a key or a session".to_owned(),
            scope => format!("needs the scope `{scope}`"),
        })
        .collect();
    if scopes.is_empty() {
        String::new()
    } else {
        format!(", {}", scopes.join(" or "))
    }
}

fn parameters(section: &mut String, operation: &Value) {
    let rows: Vec<String> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|parameter| {
            let required = if parameter["required"] == true {
                ", required"
            } else {
                ""
            };
            format!(
                "| `{}` | {}{required} | {} |\n",
                text(parameter, "name"),
                text(parameter, "in"),
                cell(&text(parameter, "description"))
            )
        })
        .collect();
    table(section, &["parameter", "in", "meaning"], &rows);
}

/// Answers that are no problems in a table; the problems, which are many and alike, in one line.
fn responses(section: &mut String, operation: &Value) {
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for (status, response) in entries(&operation["responses"]) {
        let description = text(response, "description");
        if response["content"]["application/problem+json"].is_object() {
            problems.push(format!("{status} {description}"));
        } else {
            let body = content_type(response).unwrap_or_else(|| "–".to_owned());
            rows.push(format!("| {status} | {body} | {} |\n", cell(&description)));
        }
    }
    table(section, &["status", "body", "meaning"], &rows);
    if !problems.is_empty() {
        let _ = write!(section, "Problems: {}.\n\n", problems.join(" · "));
    }
}

/// What a body is, as a link to its schema where it has one.
fn content_type(holder: &Value) -> Option<String> {
    let (media, content) = entries(&holder["content"]).next()?;
    Some(match content.get("schema") {
        Some(schema) if media == "application/json" => type_of(schema),
        _ => format!("`{media}`"),
    })
}

fn schema_section(name: &str, schema: &Value) -> String {
    let mut section = format!("### {name}\n\n");
    paragraph(&mut section, &text(schema, "description"));
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", plain(value))).collect();
        let _ = write!(section, "One of {}.\n\n", values.join(", "));
    }
    let parts = schema["allOf"]
        .as_array()
        .map_or_else(|| vec![schema], |parts| parts.iter().collect());
    let rows: Vec<String> = parts.into_iter().flat_map(fields).collect();
    table(&mut section, &["field", "type", "meaning"], &rows);
    if let Some(example) = schema.get("example") {
        let _ = write!(section, "```json\n{example}\n```\n\n");
    }
    section
}

fn fields(schema: &Value) -> Vec<String> {
    let required = |name: &str| {
        schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|required| required == name))
    };
    entries(&schema["properties"])
        .map(|(name, field)| {
            let optional = if required(name) { "" } else { ", optional" };
            format!(
                "| `{name}` | {}{optional} | {} |\n",
                type_of(field),
                cell(&(text(field, "description") + &range(field)))
            )
        })
        .collect()
}

/// The bounds that a schema gives, as a sentence.
fn range(field: &Value) -> String {
    let bound = |name: &str| field.get(name).filter(|bound| bound.as_f64() != Some(0.0));
    let words = [
        ("minimum", "At least"),
        ("maximum", "At most"),
        ("maxLength", "Characters at most:"),
        ("maxItems", "Items at most:"),
    ];
    words
        .into_iter()
        .filter_map(|(name, words)| Some(format!(" {words} {}.", bound(name)?)))
        .collect()
}

fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let choices = ["oneOf", "anyOf", "allOf"].into_iter();
    let choices = choices
        .filter(|_| schema["type"].is_null())
        .find_map(|name| schema[name].as_array());
    if let Some(choices) = choices {
        let mut names: Vec<String> = choices
            .iter()
            .filter(|choice| choice["type"] != "null")
            .map(type_of)
            .collect();
        names.dedup();
        return names.join(" or ");
    }
    let name = match &schema["type"] {
        Value::Array(types) => types.iter().find(|name| **name != "null").map(plain),
        Value::String(name) => Some(name.clone()),
        _ => None,
    };
    match (name.as_deref(), schema["format"].as_str()) {
        (Some("array"), _) => format!("list of {}", type_of(&schema["items"])),
        (Some("string"), Some("date-time")) => "time".to_owned(),
        (Some(name), _) => name.to_owned(),
        (None, _) => "any JSON".to_owned(),
    }
}

// --- docs/kinds.md -------------------------------------------------------------------------------------------------

/// The table of a kind: where it runs, how often it is tried, what its payload holds, and an example.
fn kind(kind: &Value) -> String {
    let retry = &kind["retry"];
    let mut page = format!(
        "Queue `{}` · timeout {} · {} attempts, delays from {} to {}{}\n\n",
        text(kind, "queue"),
        duration(&kind["timeout_seconds"]),
        retry["max_attempts"],
        duration(&retry["base_seconds"]),
        duration(&retry["cap_seconds"]),
        match retry["shortest_share"].as_f64() {
            Some(0.0) => ", with full jitter",
            Some(0.5) => ", with equal jitter",
            _ => "",
        }
    );
    let schema = &kind["payload_schema"];
    table(&mut page, &["field", "type", "meaning"], &fields(schema));
    let _ = write!(page, "```json\n{}\n```\n", schema["examples"][0]);
    page
}

// --- Markdown ------------------------------------------------------------------------------------------------------

fn table(page: &mut String, head: &[&str], rows: &[String]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "| {} |\n|{}\n{}\n",
        head.join(" | "),
        " --- |".repeat(head.len()),
        rows.concat()
    );
}

/// Each paragraph on one line, wherever the sources break it.
fn paragraph(page: &mut String, words: &str) {
    for paragraph in words.split("\n\n").filter(|words| !words.trim().is_empty()) {
        let _ = write!(page, "{}\n\n", one_line(paragraph));
    }
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// On one line, and without what would end a cell.
fn cell(words: &str) -> String {
    one_line(words).replace('|', "\\|")
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
}

fn capitalised(words: &str) -> String {
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

fn duration(seconds: &Value) -> String {
    let seconds = seconds.as_f64().unwrap_or_default();
    let (amount, unit) = if seconds >= 3600.0 && seconds % 3600.0 == 0.0 {
        (seconds / 3600.0, "h")
    } else if seconds >= 60.0 && seconds % 60.0 == 0.0 {
        (seconds / 60.0, "min")
    } else {
        (seconds, "s")
    };
    format!("{amount} {unit}")
}
