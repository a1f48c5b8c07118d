//! One line for each figure: what, how much, the ratio to the yardsticks, the aim.

use std::io::Write;

use super::yardstick::Yardstick;

#[derive(Debug)]
pub(super) struct Report {
    markdown: bool,
    yardstick: Option<Yardstick>,
    begun: bool,
}

/// What a figure is measured in, and which way is better.
#[derive(Debug, Clone, Copy)]
pub(super) enum Figure {
    /// A second, more is better.
    Rate(f64),
    /// A minute, more is better.
    PerMinute(f64),
    /// Milliseconds, less is better.
    Millis(f64),
    /// Bytes, less is better.
    Bytes(f64),
    /// Less is better.
    Percent(f64),
    /// Percent of something else, more is better.
    Share(f64),
    /// Microseconds, less is better.
    Micros(f64),
    /// So many, less is better.
    Count(f64),
    /// From 0 to 1, more is better.
    Score(f64),
}

impl Figure {
    fn text(self) -> String {
        match self {
            Self::Rate(rate) => format!("{}/s", grouped(rate)),
            Self::PerMinute(rate) => format!("{}/min", grouped(rate)),
            Self::Millis(millis) => format!("{millis:.2} ms"),
            Self::Bytes(bytes) if bytes >= 1_048_576.0 => format!("{:.1} MiB", bytes / 1_048_576.0),
            Self::Bytes(bytes) => format!("{bytes:.0} bytes"),
            Self::Percent(percent) => format!("{percent:.2} %"),
            Self::Share(percent) => format!("{percent:.0} %"),
            Self::Micros(micros) => format!("{micros:.1} µs"),
            Self::Count(count) => format!("{count:.2}"),
            Self::Score(score) => format!("{score:.4}"),
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::Rate(value)
            | Self::PerMinute(value)
            | Self::Millis(value)
            | Self::Bytes(value)
            | Self::Percent(value)
            | Self::Share(value)
            | Self::Micros(value)
            | Self::Count(value)
            | Self::Score(value) => value,
        }
    }

    fn meets(self, aim: Self) -> bool {
        if self.more_is_better() {
            self.value() >= aim.value()
        } else {
            self.value() <= aim.value()
        }
    }

    fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Rate(_) | Self::PerMinute(_) | Self::Share(_) | Self::Score(_)
        )
    }
}

impl Report {
    pub(super) fn new(markdown: bool) -> Self {
        Self {
            markdown,
            yardstick: None,
            begun: false,
        }
    }

    pub(super) fn yardstick(&mut self, yardstick: Yardstick) {
        self.figure(
            "yardstick",
            "LPUSH one by one",
            Figure::Rate(yardstick.one_by_one),
            None,
        );
        self.figure(
            "yardstick",
            "LPUSH pipelined by 500",
            Figure::Rate(yardstick.pipelined),
            None,
        );
        self.yardstick = Some(yardstick);
    }

    pub(super) fn figure(&mut self, part: &str, what: &str, figure: Figure, aim: Option<Figure>) {
        let ratios = match (figure, &self.yardstick) {
            (Figure::Rate(rate), Some(yard)) => {
                format!("{:.2}× / {:.2}×", rate / yard.one_by_one, rate / yard.pipelined)
            }
            _ => String::new(),
        };
        let aimed = aim.map_or(String::new(), |aim| {
            let sign = if aim.more_is_better() { "≥" } else { "≤" };
            let verdict = if figure.meets(aim) { "met" } else { "missed" };
            format!("{sign} {} {verdict}", aim.text())
        });
        self.row(part, what, &figure.text(), &ratios, &aimed);
    }

    pub(super) fn skipped(&mut self, part: &str, why: &str) {
        self.row(part, "skipped", why, "", "");
    }

    fn row(&mut self, part: &str, what: &str, figure: &str, ratios: &str, aim: &str) {
        let mut out = std::io::stdout().lock();
        let line = if self.markdown {
            format!("| {part} | {what} | {figure} | {ratios} | {aim} |")
        } else {
            format!("{part:<10} {what:<44} {figure:>14}  {ratios:<18} {aim}")
        };
        let head = (!self.begun && self.markdown).then_some(
            "| part | what | measured | × LPUSH one by one / pipelined | aim |\n| --- | --- | ---: | --- | --- |",
        );
        self.begun = true;
        // A reader that has gone needs no figures.
        head.map(|head| writeln!(out, "{head}")).transpose().ok();
        writeln!(out, "{line}").ok();
        out.flush().ok();
    }
}

/// 1234567 → 1,234,567
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
