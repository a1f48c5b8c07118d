//! The settings of the web console.

use super::super::declare::{choice, flag, text};
use super::super::reader::Reader;
use crate::settings;

/// First segments of paths that the API serves itself.
const TAKEN: &[&str] = &["v1", "docs", "health", "metrics", "openapi.json", "bench"];

/// Longest label, in characters: it stands in the header of every page.
const MAX_LABEL: usize = 40;

/// The colour of an installation's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelColor {
    Gray,
    Blue,
    Green,
    Amber,
    Red,
}

const COLORS: [(&str, LabelColor); 5] = [
    ("gray", LabelColor::Gray),
    ("blue", LabelColor::Blue),
    ("green", LabelColor::Green),
    ("amber", LabelColor::Amber),
    ("red", LabelColor::Red),
];

impl LabelColor {
    pub fn as_str(self) -> &'static str {
        COLORS
            .iter()
            .find(|(_, color)| *color == self)
            .map_or("gray", |(name, _)| name)
    }
}

settings! {
    ["console"]
    /// The web console, which the API serves.
    #[derive(Debug, Clone)]
    pub struct ConsoleSettings {
        /// Whether the API serves the web console. It shows and does what the API lets its user see and do.
        enabled: bool = flag(true);
        /// Where it is served: a path such as "/console", or "/ops/holdfast". `/` leads to it.
        path: String = text("/console").then(check_path);
        /// A name of this installation, such as "production", that stands in the header of every page. Empty: none.
        label: String = text("").then(check_label);
        /// The colour of that label: "gray", "blue", "green", "amber" or "red".
        label_color: LabelColor = choice("gray", &COLORS);
        /// Whether the console changes nothing, whatever its user may do over the API.
        read_only: bool = flag(false);
    }
}

fn check_path(reader: &mut Reader<'_>, path: &str, text: String) -> String {
    if !is_path(&text) {
        let fix = "give a path such as \"/console\": segments of a-z, 0-9, - and _, each behind a slash; the API serves \
                   /v1, /docs, /health, /metrics and /openapi.json itself";
        reader.fault_once(path, || {
            (format!("{text:?} is not a path for the console"), fix.to_owned())
        });
    }
    text
}

fn is_path(text: &str) -> bool {
    let Some(segments) = text.strip_prefix('/') else {
        return false;
    };
    let is_segment = |segment: &str| {
        !segment.is_empty()
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
    };
    text.len() <= 100
        && segments.split('/').all(is_segment)
        && !TAKEN
            .iter()
            .any(|taken| segments.split('/').next() == Some(taken))
}

fn check_label(reader: &mut Reader<'_>, path: &str, text: String) -> String {
    if text.chars().count() > MAX_LABEL || text.chars().any(char::is_control) {
        let fix = format!("give a short name such as \"production\", at most {MAX_LABEL} characters");
        reader.fault_once(path, || (format!("{text:?} is not a label"), fix));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_plain_segments_and_hides_no_route_of_the_api() {
        for path in ["/console", "/ops/holdfast", "/a-b_1"] {
            assert!(is_path(path), "{path}");
        }
        for path in [
            "",
            "/",
            "console",
            "/console/",
            "/Console",
            "/v1/console",
            "/docs",
            "/a//b",
            "/a b",
            "/ä",
        ] {
            assert!(!is_path(path), "{path}");
        }
    }
}
