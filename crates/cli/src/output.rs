//! What is printed: text for people, or one JSON document for programs.

use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::OutputArgs;
use holdfast_ops::Failure;

impl OutputArgs {
    /// Prints `value` as JSON where that was asked for, else the text.
    pub(crate) fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let mut shown = if self.json {
            serde_json::to_string_pretty(value).map_err(io::Error::from)?
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

/// What the text form of a job shows. The JSON form shows everything that the server says.
#[derive(Debug, Deserialize)]
pub(crate) struct JobView {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) queue: String,
    pub(crate) state: String,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    #[serde(default)]
    pub(crate) crashes: u32,
    #[serde(default)]
    pub(crate) run_at: Option<String>,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
    #[serde(default)]
    pub(crate) started_at: Option<String>,
    #[serde(default)]
    pub(crate) finished_at: Option<String>,
    #[serde(default)]
    pub(crate) worker: Option<String>,
    #[serde(default)]
    pub(crate) progress: Option<Value>,
    #[serde(default)]
    pub(crate) result: Option<Value>,
    #[serde(default)]
    pub(crate) errors: Vec<ErrorView>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ErrorView {
    pub(crate) at: String,
    pub(crate) attempt: u32,
    pub(crate) class: String,
    pub(crate) message: String,
}

impl JobView {
    pub(crate) fn of(job: &Value) -> Result<Self, Failure> {
        // Anything but a job here is a fault of the other side, which the JSON form would still show.
        Self::deserialize(job).map_err(|error| Failure::no(format!("the answer is not a job: {error}")))
    }

    pub(crate) fn text(&self) -> String {
        let mut lines = vec![
            line("id", &self.id),
            line("kind", &self.kind),
            line("queue", &self.queue),
            line("state", &self.state),
            line("attempt", format!("{} of {}", self.attempt, self.max_attempts)),
        ];
        if self.crashes > 0 {
            lines.push(line("crashes", self.crashes));
        }
        let times = [
            ("created", &self.created_at),
            ("run at", &self.run_at),
            ("started", &self.started_at),
            ("finished", &self.finished_at),
            ("worker", &self.worker),
        ];
        lines.extend(
            times
                .iter()
                .filter_map(|(name, value)| Some(line(name, value.as_ref()?))),
        );
        let values = [("progress", &self.progress), ("result", &self.result)];
        lines.extend(
            values
                .iter()
                .filter_map(|(name, value)| Some(line(name, value.as_ref()?))),
        );
        lines.extend(self.errors.iter().map(|error| line("error", error.text())));
        lines.join("\n")
    }
}

impl ErrorView {
    fn text(&self) -> String {
        format!(
            "{} attempt {} ({}): {}",
            self.at, self.attempt, self.class, self.message
        )
    }
}

fn line(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:<10}{value}")
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
}
