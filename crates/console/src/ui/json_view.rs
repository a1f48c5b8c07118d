//! A JSON document, indented and coloured. Every number is shown with the digits that the API sent.

use maud::{Markup, html};

use crate::json::{Json, quoted};

/// A document longer than this is shown without colours, in bytes.
const MAX_COLOURED: usize = 64 * 1024;

/// The document, with a button that copies it.
pub(crate) fn json_block(json: &Json, label: &str) -> Markup {
    let text = json.pretty();
    html! {
        div.code {
            button.copy.small type="button" hidden data-copy { "Copy" }
            pre tabindex="0" aria-label=(label) {
                code { @if text.len() > MAX_COLOURED { (text) } @else { (coloured(json, 0)) } }
            }
        }
    }
}

fn coloured(json: &Json, depth: usize) -> Markup {
    let indent = |depth: usize| " ".repeat(depth * 2);
    html! {
        @match json {
            Json::Null => span.j-null { "null" },
            Json::Bool(flag) => span.j-bool { (flag) },
            Json::Number(number) => span.j-number { (number) },
            Json::Text(text) => span.j-text { (quoted(text)) },
            Json::List(items) if items.is_empty() => "[]",
            Json::Object(fields) if fields.is_empty() => "{}",
            Json::List(items) => {
                "[\n"
                @for (index, item) in items.iter().enumerate() {
                    (indent(depth + 1)) (coloured(item, depth + 1)) @if index + 1 < items.len() { "," } "\n"
                }
                (indent(depth)) "]"
            }
            Json::Object(fields) => {
                "{\n"
                @for (index, (name, value)) in fields.iter().enumerate() {
                    (indent(depth + 1)) span.j-name { (quoted(name)) } ": " (coloured(value, depth + 1))
                    @if index + 1 < fields.len() { "," } "\n"
                }
                (indent(depth)) "}"
            }
        }
    }
}
