//! What is printed: text for people, or one JSON document for programs.

use std::io::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use holdfast_control::wire::{ErrorView, JobView};
use holdfast_ops::Failure;
use serde::Serialize;

use crate::args::OutputArgs;

impl OutputArgs {
    /// Prints `value` as JSON where that was asked for, else the text.
    pub(crate) fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let mut shown = if self.json {
            indented(&serde_json::to_string(value).map_err(io::Error::from)?)
        } else {
            text()
        };
        if !shown.ends_with('\n') {
            shown.push('\n');
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(shown.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}

/// A JSON text with a line for each value. Numbers and strings stay as they are written, byte for byte.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut rest = json.char_indices().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some((at, c)) = rest.next() {
        if in_string {
            out.push(c);
            in_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                let inner = json[at + 1..].trim_start();
                if inner.starts_with(['}', ']']) {
                    while rest.peek().is_some_and(|(_, c)| c.is_ascii_whitespace()) {
                        rest.next();
                    }
                    out.extend(rest.next().map(|(_, c)| c));
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// The text form of a job. The JSON form shows everything that the server says.
pub(crate) fn job_text(job: &JobView) -> String {
    let mut lines = vec![
        line("id", job.id),
        line("kind", &job.kind),
        line("queue", &job.queue),
        line("state", job.state),
        line("attempt", format!("{} of {}", job.attempt, job.max_attempts)),
    ];
    if job.crashes > 0 {
        lines.push(line("crashes", job.crashes));
    }
    let times = [
        ("created", Some(job.created_at)),
        ("run at", Some(job.run_at)),
        ("started", job.started_at),
        ("finished", job.finished_at),
    ];
    lines.extend(
        times
            .iter()
            .filter_map(|(name, at)| Some(line(name, shown((*at)?)))),
    );
    if !job.tags.is_empty() {
        lines.push(line("tags", job.tags.join(", ")));
    }
    lines.extend(job.enqueued_by.as_ref().map(|name| line("enqueued by", name)));
    lines.extend(job.worker.map(|worker| line("worker", worker)));
    let values = [("progress", &job.progress), ("result", &job.result)];
    lines.extend(
        values
            .iter()
            .filter_map(|(name, value)| Some(line(name, value.as_ref()?.get()))),
    );
    lines.extend(job.errors.iter().map(|error| line("error", error_text(error))));
    lines.join("\n")
}

fn error_text(error: &ErrorView) -> String {
    format!(
        "{} attempt {} ({}): {}",
        shown(error.at),
        error.attempt,
        error.class,
        error.message
    )
}

pub(crate) fn line(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:<10}{value}")
}

/// RFC 3339, in UTC.
pub(crate) fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// To the minute; `-` for no time.
pub(crate) fn minute(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.format("%Y-%m-%d %H:%M").to_string())
}

/// Rows under a header, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.map(str::to_owned);
    let lines = std::iter::once(&header).chain(rows).map(|row| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = [
            ["1".to_owned(), "completed".to_owned()],
            ["22".to_owned(), "ok".to_owned()],
        ];
        assert_eq!(table(["ID", "STATE"], &rows), "ID  STATE\n1   completed\n22  ok");
    }

    #[test]
    fn json_is_indented_without_a_change_of_its_values() {
        let text = r#"{"a":12345678901234567890.10, "b":[],"c":{ },"d":["x{,:\"\\", 1e400]}"#;
        let expected = r#"{
  "a": 12345678901234567890.10,
  "b": [],
  "c": {},
  "d": [
    "x{,:\"\\",
    1e400
  ]
}"#;
        assert_eq!(indented(text), expected);
    }
}
