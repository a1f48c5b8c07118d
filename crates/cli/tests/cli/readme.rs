//! The README and the docs say what is true: links and paths exist, settings and commands are real, and the example is the
//! file that a test runs. Their commands are run in `snippets.rs`, the generated reference is compared in `reference.rs`.
//!
//! What is generated is brought up to date by `scripts/generate`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_services::settings_table;
use holdfast_testkit::Child;
use serde_json::Value;

pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Files that pages print whole, each after its name in a comment. Tests of `crates/holdfast` run them.
const EXAMPLES: [(&str, &str); 6] = [
    ("README.md", "crates/holdfast/examples/send_invite.rs"),
    (
        "docs/getting-started.md",
        "crates/holdfast/examples/send_invite.rs",
    ),
    ("docs/jobs.md", "examples/standalone/Cargo.toml"),
    ("docs/jobs.md", "examples/standalone/src/main.rs"),
    ("docs/jobs.md", "crates/holdfast/examples/enqueue_invite.rs"),
    ("docs/jobs.md", "crates/holdfast/examples/push_invite.rs"),
];
const CONFIGURATION: &str = "docs/configuration.md";
const SETTINGS: (&str, &str) = ("<!-- settings -->\n", "<!-- /settings -->");

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document that people read: path from the root, and text.
pub(crate) fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<String> = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(str::to_owned)
        .to_vec();
    for directory in ["docs", "docs/adr"] {
        for entry in std::fs::read_dir(root().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "md")
            {
                paths.push(format!("{directory}/{name}"));
            }
        }
    }
    paths
        .into_iter()
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

/// The text of the fenced block that follows a marker.
fn block_after(text: &str, marker: &str) -> String {
    let (_, rest) = text
        .split_once(marker)
        .unwrap_or_else(|| panic!("the page has no {marker}"));
    let fence = rest.find("```").unwrap();
    let (_, body) = rest[fence..].split_once('\n').unwrap();
    body[..body.find("```").unwrap()].to_owned()
}

fn with_block_after(text: &str, marker: &str, body: &str) -> String {
    let old = block_after(text, marker);
    let at = text.find(marker).unwrap() + marker.len();
    let (before, after) = text.split_at(at);
    let fence = after.find("```").unwrap();
    let start = fence + after[fence..].find('\n').unwrap() + 1;
    format!("{before}{}{body}{}", &after[..start], &after[start + old.len()..])
}

fn settings_as_table() -> String {
    let rows = settings_table().into_iter().map(|setting| {
        let short = first_sentence(&setting.help);
        format!(
            "| `{}` | `{}` | `{}` | {short} |",
            setting.key, setting.env, setting.default
        )
    });
    let head = [
        "| setting | variable | default | |".to_owned(),
        "| --- | --- | --- | --- |".to_owned(),
    ];
    let lines: Vec<String> = head.into_iter().chain(rows).collect();
    lines.join("\n") + "\n"
}

/// Up to the first full stop that ends a sentence, safe in a table.
fn first_sentence(help: &str) -> String {
    let end = help.find(". ").unwrap_or(help.trim_end_matches('.').len());
    help[..end].trim_end_matches('.').replace('|', "\\|")
}

#[test]
fn the_examples_are_the_files_that_are_compiled_and_run() {
    for (page, file) in EXAMPLES {
        let printed = block_after(&read(page), &format!("<!-- {file} -->"));
        assert_eq!(printed, read(file), "{page}");
    }
}

#[test]
fn the_settings_are_those_of_the_program() {
    let page = read(CONFIGURATION);
    let (_, rest) = page.split_once(SETTINGS.0).unwrap();
    let (table, _) = rest.split_once(SETTINGS.1).unwrap();
    assert_eq!(table, settings_as_table());
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut dead = Vec::new();
    for (path, text) in documents() {
        let directory = root().join(&path).parent().unwrap().to_owned();
        for target in links(&text) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() {
                root().join(&path)
            } else {
                directory.join(file)
            };
            if !file.exists() {
                dead.push(format!("{path}: {target}"));
            } else if !anchor.is_empty()
                && !anchors(&std::fs::read_to_string(&file).unwrap()).contains(anchor)
            {
                dead.push(format!("{path}: {target} (no such heading)"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn every_path_in_backticks_exists() {
    const ROOTS: [&str; 6] = ["crates/", "docs/", "migrations/", "scripts/", ".ci/", "deploy/"];
    let mut missing = Vec::new();
    for (document, text) in documents() {
        for path in code_spans(&text)
            .into_iter()
            .filter(|span| ROOTS.iter().any(|root| span.starts_with(root)))
        {
            if !path.contains(['…', '*', '<', ' ']) && !root().join(&path).exists() {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_setting_and_variable_in_backticks_exists() {
    let table = settings_table();
    let keys: BTreeSet<&str> = table.iter().map(|setting| setting.key.as_str()).collect();
    let sections: BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| Some(key.split_once('.')?.0))
        .collect();
    let variables: BTreeSet<&str> = table.iter().map(|setting| setting.env.as_str()).collect();
    // A kind's name may begin like a setting's.
    let kinds = holdfast_services::registry();
    let mut unknown = Vec::new();
    for (document, text) in documents() {
        for span in code_spans(&text) {
            let is_key = span.split_once('.').is_some_and(|(section, key)| {
                sections.contains(section)
                    && key != "rs"
                    && key.chars().all(|c| c.is_ascii_lowercase() || "_.".contains(c))
            });
            if is_key && !keys.contains(span.as_str()) && kinds.get(&span).is_none() {
                unknown.push(format!("{document}: {span}"));
            }
            let variable = span.split('=').next().unwrap_or_default();
            let is_ours = variable.starts_with("HOLDFAST__");
            if is_ours && !variables.contains(variable) && !variable.contains("SECTION") {
                unknown.push(format!("{document}: {span}"));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// Asks the binary itself: each command must have help, and the help must name each flag.
#[tokio::test]
async fn every_command_and_flag_exists() {
    let mut checked = 0;
    for (document, text) in documents() {
        for command in commands(&text) {
            let (program, command) = command;
            let (words, flags) = parts_of(&command);
            let mut help = Child::binary(program).args(&words).arg("--help").start().unwrap();
            let status = help.wait_exit(DEADLINE).await.unwrap();
            assert!(
                status.success(),
                "{document}: {command}: there is no such command"
            );
            let printed = help.printed(DEADLINE).await.unwrap().text;
            for flag in flags {
                assert!(
                    printed.contains(&flag),
                    "{document}: {command}: there is no {flag}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked >= 4, "only {checked} commands were found");
}

#[tokio::test]
#[ignore = "a generator: scripts/generate runs it after a change"]
async fn bring_the_documents_up_to_date() {
    let page = read(CONFIGURATION);
    let (before, rest) = page.split_once(SETTINGS.0).unwrap();
    let (_, after) = rest.split_once(SETTINGS.1).unwrap();
    let (opening, end) = SETTINGS;
    let page = format!("{before}{opening}{}{end}{after}", settings_as_table());
    std::fs::write(root().join(CONFIGURATION), page).unwrap();
    for (page, file) in EXAMPLES {
        let text = with_block_after(&read(page), &format!("<!-- {file} -->"), &read(file));
        std::fs::write(root().join(page), text).unwrap();
    }
    crate::snippets::bring_up_to_date().await;
    crate::reference::bring_up_to_date().await;
    std::fs::write(root().join(".env.example"), crate::env_text::generated()).unwrap();
}

pub(crate) fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json:?}"))
}

/// The value with what differs from run to run masked: ids and times.
pub(crate) fn shape_of(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let masked = fields.iter().map(|(name, value)| {
                let varies = !value.is_null() && (name == "id" || name == "worker" || name.ends_with("_at"));
                (
                    name.clone(),
                    if varies {
                        Value::from("…")
                    } else {
                        shape_of(value)
                    },
                )
            });
            Value::Object(masked.collect())
        }
        Value::Array(values) => values.iter().map(shape_of).collect(),
        other => other.clone(),
    }
}

/// Targets of `[text](target)`, outside fenced blocks.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose
        .match_indices("](")
        .filter_map(|(at, _)| prose[at + 2..].split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let slug = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

/// What stands in single backticks, outside fenced blocks.
pub(crate) fn code_spans(text: &str) -> Vec<String> {
    prose(text)
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn prose(text: &str) -> String {
    let mut in_fence = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_fence = !in_fence;
        } else if !in_fence {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The `holdfast …`, `holdfast-bench …` and `cargo run -- …` lines of shell blocks, and those in backticks: program and
/// the rest.
fn commands(text: &str) -> Vec<(&'static str, String)> {
    let mut in_shell = false;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_shell = line == "```sh";
        } else if in_shell {
            lines.push(line.to_owned());
        }
    }
    lines.extend(code_spans(text));
    let of_ours = |line: &String| {
        let (program, command) = [
            ("holdfast ", "holdfast"),
            ("cargo run -- ", "holdfast"),
            ("holdfast-bench ", "holdfast-bench"),
        ]
        .into_iter()
        .find_map(|(start, program)| Some((program, line.strip_prefix(start)?)))?;
        Some((program, command.split(" #").next()?.trim().to_owned()))
    };
    lines.iter().filter_map(of_ours).collect()
}

/// The leading words that are commands, and the flags.
fn parts_of(command: &str) -> (Vec<&str>, Vec<String>) {
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let words = command
        .split(' ')
        .take_while(|word| is_word(word) && !word.starts_with('-'))
        .collect();
    let flags = command.split(' ').filter(|word| word.starts_with("--"));
    (
        words,
        flags
            .map(|flag| flag.split('=').next().unwrap_or(flag).to_owned())
            .collect(),
    )
}
