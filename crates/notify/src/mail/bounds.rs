//! Limits on the memory that rendering a template takes.
//!
//! minijinja's fuel limits steps, and one step may produce any amount of text. So memory is limited where it is allocated:
//! - output, also of `set` blocks, macros and filter blocks, by a formatter that counts bytes;
//! - the result of a filter, which is estimated before the filter runs;
//! - texts that are concatenated with `~` or `+` and stored, by [`check_growth`]: a text that is concatenated with itself doubles with
//!   each step. A loop carries values from one iteration to the next in a `namespace` alone, so concatenation is refused beside
//!   namespaces and recursion; elsewhere it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};

/// Most bytes of one value that is output or that a filter returns.
const MAX_TEXT: usize = 2_097_152;

/// Most bytes of all output of one rendering, captured output included.
const MAX_PUT_OUT: usize = 8_388_608;

/// Deepest nesting of a value that is output.
const MAX_DEPTH: usize = 64;

/// Most values of a list that a filter takes.
const MAX_ITEMS: usize = 100_000;

/// Most concatenations in a template whose results are stored.
const MAX_KEPT_CONCATENATIONS: usize = 8;

/// Sets the limits of one rendering.
pub(super) fn bound(environment: &mut Environment<'_>) {
    let put_out = Arc::new(AtomicUsize::new(0));
    environment.set_formatter(move |out, state, value| {
        let bytes = text_len(value);
        let before = put_out.fetch_add(bytes, Ordering::Relaxed);
        if bytes > MAX_TEXT || before.saturating_add(bytes) > MAX_PUT_OUT {
            return Err(too_much("the output"));
        }
        escape_formatter(out, state, value)
    });
    for (name, filter, size) in guarded() {
        environment.add_filter(name, move |state: &State<'_, '_>, values: Rest<Value>| {
            if values.first().is_some_and(is_too_long) || size(&values) > MAX_TEXT {
                return Err(too_much(name));
            }
            filter.call(state, &values)
        });
    }
}

type Size = fn(&[Value]) -> usize;

/// Filters whose result may be larger than their input, each with an estimate of its size.
fn guarded() -> Vec<(&'static str, Value, Size)> {
    let none: Size = |_| 0;
    vec![
        ("join", Value::from_function(filters::join), joined),
        ("replace", Value::from_function(filters::replace), replaced),
        ("indent", Value::from_function(filters::indent), indented),
        ("format", Value::from_function(filters::format), formatted),
        ("pprint", Value::from_function(filters::pprint), all),
        ("string", Value::from_function(filters::string), all),
        ("batch", Value::from_function(filters::batch), cut),
        ("slice", Value::from_function(filters::slice), cut),
        ("list", Value::from_function(filters::list), none),
        ("sort", Value::from_function(filters::sort), none),
        ("unique", Value::from_function(filters::unique), none),
        ("reverse", Value::from_function(filters::reverse), none),
        ("map", Value::from_function(filters::map), none),
        ("groupby", Value::from_function(filters::groupby), none),
        ("select", Value::from_function(filters::select), none),
        ("reject", Value::from_function(filters::reject), none),
        ("sum", Value::from_function(filters::sum), none),
        ("min", Value::from_function(filters::min), none),
        ("max", Value::from_function(filters::max), none),
    ]
}

fn too_much(what: &str) -> Error {
    let detail = format!("{what} would take more than a mail may");
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// A lazy list has no length: it is counted up to the limit.
fn is_too_long(value: &Value) -> bool {
    match value.kind() {
        ValueKind::String => false,
        ValueKind::Iterable if value.len().is_none() => value
            .try_iter()
            .is_ok_and(|items| items.take(MAX_ITEMS + 1).count() > MAX_ITEMS),
        _ => value.len().is_some_and(|len| len > MAX_ITEMS),
    }
}

/// The length of a value as text, [`MAX_TEXT`] + 1 at most. Lists are measured item by item: formatting one as a whole does not stop at
/// an error of its writer.
fn text_len(value: &Value) -> usize {
    let mut left = MAX_TEXT;
    measure(value, &mut left, 0).map_or(MAX_TEXT + 1, |()| MAX_TEXT - left)
}

/// Takes the length of a value from what is left; `None`: it is longer, or nested too deep.
fn measure(value: &Value, left: &mut usize, depth: usize) -> Option<()> {
    let mut take = |bytes: usize| left.checked_sub(bytes).map(|rest| *left = rest);
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map if depth < MAX_DEPTH => {
            for item in value.try_iter().ok()? {
                // A comma and a blank, or quotes and a colon.
                left.checked_sub(2).map(|rest| *left = rest)?;
                if value.kind() == ValueKind::Map {
                    measure(&value.get_item(&item).ok()?, left, depth + 1)?;
                }
                measure(&item, left, depth + 1)?;
            }
            Some(())
        }
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => None,
        _ => take(value.as_str().map_or_else(|| value.to_string().len(), str::len)),
    }
}

fn all(values: &[Value]) -> usize {
    values
        .iter()
        .fold(0, |sum, value| sum.saturating_add(text_len(value)))
}

fn joined(values: &[Value]) -> usize {
    let joiner = values.get(1).map_or(0, text_len);
    let Some(Ok(items)) = values.first().map(Value::try_iter) else {
        return 0;
    };
    let mut sum = 0_usize;
    for item in items {
        sum = sum.saturating_add(text_len(&item)).saturating_add(joiner);
        if sum > MAX_TEXT {
            break;
        }
    }
    sum
}

fn replaced(values: &[Value]) -> usize {
    let [value, from, to, ..] = values else { return 0 };
    let (value, from) = (value.to_string(), from.to_string());
    let found = value.matches(from.as_str()).count();
    value.len().saturating_add(found.saturating_mul(text_len(to)))
}

fn indented(values: &[Value]) -> usize {
    let Some(value) = values.first() else { return 0 };
    let named = values.last().and_then(|last| last.get_attr("width").ok());
    let width = values.get(1).and_then(Value::as_usize);
    let width = width
        .or_else(|| named.as_ref().and_then(Value::as_usize))
        .unwrap_or(4);
    let text = value.to_string();
    let lines = text.matches('\n').count() + 1;
    text.len().saturating_add(lines.saturating_mul(width))
}

/// A width or a precision of more than four digits, or one that is an argument (`*`), is taken as unlimited.
fn formatted(values: &[Value]) -> usize {
    let Some(text) = values.first().and_then(Value::as_str) else {
        return 0;
    };
    let mut digits = 0;
    let is_wide = text.chars().any(|letter| {
        digits = if letter.is_ascii_digit() { digits + 1 } else { 0 };
        digits > 4
    });
    let conversions = text.matches('%').count();
    if is_wide || (text.contains('*') && conversions > 0) {
        return MAX_TEXT + 1;
    }
    all(values).saturating_add(conversions.saturating_mul(9_999))
}

fn cut(values: &[Value]) -> usize {
    match values.get(1).and_then(Value::as_usize) {
        Some(count) if count > MAX_ITEMS => MAX_TEXT + 1,
        _ => 0,
    }
}

/// Refuses a template that could concatenate a text with itself without a limit, with the reason.
pub(super) fn check_growth(source: &str) -> Result<(), String> {
    let tags = tags(source);
    let code: String = tags
        .iter()
        .map(|(_, code)| code.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    let names = macros(&tags);
    let calls_itself = names.iter().any(|name| called_in_macros(&tags, name));
    let recurses = calls_itself || has_word(&code, "recursive");
    let carries = has_word(&code, "namespace");
    let concatenates = |code: &str| code.matches('~').count();
    if (recurses || carries) && concatenates(&code) > 0 {
        return Err(
            "`~` in a template with a namespace, a recursive loop or a macro that calls macros".to_owned(),
        );
    }
    if (recurses || carries) && adds_texts(&code) {
        let hint = "`+` of what may be texts in a template with a namespace, a recursive loop or a macro that calls macros: \
                    write `+ 1`, or `+ value | int`";
        return Err(hint.to_owned());
    }
    let keeps = |(statement, code): &&(bool, String)| {
        let first = code.split_whitespace().next().unwrap_or_default();
        let is_kept = *statement && !["if", "elif", "for"].contains(&first);
        is_kept || (!names.is_empty() && !*statement)
    };
    let kept: usize = tags
        .iter()
        .filter(keeps)
        .map(|(_, code)| concatenates(code) + code.matches('+').count())
        .sum();
    if kept > MAX_KEPT_CONCATENATIONS {
        return Err(format!(
            "{kept} times `~` or `+` in what is kept (`set`, `with`, macros); {MAX_KEPT_CONCATENATIONS} are allowed"
        ));
    }
    Ok(())
}

/// The tags of a template: whether each is a statement, and its code without string literals.
fn tags(source: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest
        .find("{%")
        .into_iter()
        .chain(rest.find("{{"))
        .chain(rest.find("{#"))
        .min()
    {
        let (kind, inside) = (&rest[start..start + 2], &rest[start + 2..]);
        let end = match kind {
            "{#" => inside.find("#}"),
            "{%" => end_of(inside, "%}"),
            _ => end_of(inside, "}}"),
        };
        let end = end.unwrap_or(inside.len());
        if kind != "{#" {
            let code = without_literals(&inside[..end]);
            found.push((
                kind == "{%",
                code.trim_matches(['-', '+', ' ', '\n', '\t']).to_owned(),
            ));
        }
        rest = inside.get(end + 2..).unwrap_or_default();
    }
    found
}

/// Where the tag ends: not inside a literal.
fn end_of(inside: &str, end: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (place, letter) in inside.char_indices() {
        match (quote, letter) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, _) if inside[place..].starts_with(end) => return Some(place),
            (None, _) => {}
        }
    }
    None
}

fn without_literals(code: &str) -> String {
    let mut quote = None;
    let mut escaped = false;
    let mut kept = String::with_capacity(code.len());
    for letter in code.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if letter == '\\' => escaped = true,
            Some(open) if open == letter => {
                quote = None;
                kept.push_str("''");
            }
            Some(_) => {}
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None => kept.push(letter),
        }
    }
    kept
}

fn macros(tags: &[(bool, String)]) -> Vec<String> {
    let names = tags.iter().filter_map(|(_, code)| {
        let rest = code.strip_prefix("macro ")?;
        let name = rest.trim_start().split(['(', ' ']).next()?;
        Some(name.to_owned())
    });
    names.collect()
}

/// Whether a macro is called between `macro` and `endmacro`.
fn called_in_macros(tags: &[(bool, String)], name: &str) -> bool {
    let mut depth = 0_usize;
    for (is_statement, code) in tags {
        let first = code.split_whitespace().next().unwrap_or_default();
        match (is_statement, first) {
            (true, "macro") => depth += 1,
            (true, "endmacro") => depth = depth.saturating_sub(1),
            _ if depth > 0 && has_word(code, name) => return true,
            _ => {}
        }
    }
    false
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .any(|one| one == word)
}

/// Whether a `+` has no number beside it and no `| int`, `| float`, `| length` or `| round` behind it.
fn adds_texts(code: &str) -> bool {
    code.match_indices('+').any(|(place, _)| {
        let (before, after) = (code[..place].trim_end(), code[place + 1..].trim_start());
        let is_number = after.starts_with(|letter: char| letter.is_ascii_digit());
        let word_before = before
            .rsplit(|letter: char| !(letter.is_alphanumeric() || letter == '.'))
            .next();
        let was_number = word_before.is_some_and(|word| !word.is_empty() && word.parse::<f64>().is_ok());
        let rest = after.trim_start_matches(|letter: char| letter.is_alphanumeric() || "_.".contains(letter));
        let filter = rest
            .trim_start()
            .strip_prefix('|')
            .map(str::trim_start)
            .unwrap_or_default();
        let is_numeric = ["int", "float", "length", "count", "round"]
            .iter()
            .any(|name| filter.starts_with(name));
        !(is_number || was_number || is_numeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_grow_out_of_themselves_are_refused() {
        for source in [
            "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "{% macro d(s, n) %}{% if n %}{{ d(s ~ s, n - 1) }}{% endif %}{% endmacro %}{{ d('x', 40) }}",
            "{% for x in ['a'] recursive %}{{ loop([x ~ x]) }}{% endfor %}",
            &"{% set a = a ~ a %}".repeat(9),
        ] {
            assert!(check_growth(source).is_err(), "{source}");
        }
    }

    #[test]
    fn what_templates_usually_say_is_not() {
        for source in [
            "Hello {{ first ~ ' ' ~ last }}, {% set full = first ~ '~~~~~~~~~' ~ last %}{{ full }}",
            "{% set ns = namespace(n=0) %}{% for i in items %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "{% set ns = namespace(n=0) %}{% for i in items %}{% set ns.n = ns.n + i.price | float %}{% endfor %}",
            "{% macro b(x) %}<b>{{ x }}</b>{% endmacro %}{{ b(name) }}{# a ~ b #}",
            "1 + 1 ~ {{ a }}",
        ] {
            assert_eq!(check_growth(source), Ok(()), "{source}");
        }
    }
}
