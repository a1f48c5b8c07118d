//! The blocks of the documents that are marked `console` run as they are pasted.
//!
//! A page is one session: its blocks run in one shell, in the order of the page, beside a fresh `holdfast dev` on an empty
//! directory. A command that fails fails the test, and so does an error that the API answers. A `json` block right after a
//! `console` block is what that block prints: the test compares the structure, and `scripts/generate` writes what was printed.
//! A `toml` block is a configuration file that loads. Blocks of other languages are not run.

use std::fmt::Write as _;
use std::ops::Range;

use holdfast_testkit::{Child, binary, free_port};
use serde_json::Value;
use tempfile::TempDir;

use crate::readme::{DEADLINE, documents, parsed, root, shape_of};

/// Printed after each block, on a line of its own.
const END_OF_BLOCK: &str = "-- end of block --";

/// A fenced block: its language, the range of its text in the page, and of its fences.
struct Block {
    language: String,
    text: Range<usize>,
    fences: Range<usize>,
}

/// A `console` block, and the range of the block with what it prints.
struct Snippet {
    script: String,
    printed: Option<Range<usize>>,
}

#[tokio::test]
async fn every_console_block_runs_as_it_is_pasted() {
    let mut blocks = 0;
    for (document, page) in documents() {
        let snippets = snippets(&page);
        blocks += snippets.len();
        for (snippet, printed) in snippets.iter().zip(run(&document, &snippets).await) {
            let Some(range) = &snippet.printed else { continue };
            assert_eq!(
                shape_of(&parsed(&printed)),
                shape_of(&parsed(&page[range.clone()])),
                "{document} shows something else than its commands print"
            );
        }
    }
    assert!(blocks > 20, "only {blocks} blocks were found");
}

#[tokio::test]
async fn every_toml_block_is_a_configuration_that_loads() {
    let mut checked = 0;
    for (document, page) in documents() {
        for block in blocks(&page).iter().filter(|block| block.language == "toml") {
            let directory = TempDir::new().unwrap();
            let text = &page[block.text.clone()];
            std::fs::write(directory.path().join("holdfast.toml"), text).unwrap();
            let mut migrate = Child::binary("holdfast")
                .arg("migrate")
                .current_dir(directory.path())
                .start()
                .unwrap();
            let status = migrate.wait_exit(DEADLINE).await.unwrap();
            let printed = migrate.printed(DEADLINE).await.unwrap().text;
            assert!(status.success(), "{document}:\n{text}\n{printed}");
            checked += 1;
        }
    }
    assert!(checked > 2, "only {checked} blocks were found");
}

/// Writes what the blocks print into the `json` blocks after them.
pub(crate) async fn bring_up_to_date() {
    for (document, mut page) in documents() {
        let snippets = snippets(&page);
        if snippets.iter().all(|snippet| snippet.printed.is_none()) {
            continue;
        }
        let printed = run(&document, &snippets).await;
        // From the last one to the first, so that the ranges before it stay right.
        for (snippet, printed) in snippets.iter().zip(&printed).rev() {
            if let Some(range) = &snippet.printed {
                page.replace_range(range.clone(), &format!("{}\n", printed.trim()));
            }
        }
        std::fs::write(root().join(&document), page).unwrap();
    }
}

/// Runs the blocks of one page in one shell; what each of them printed.
async fn run(document: &str, snippets: &[Snippet]) -> Vec<String> {
    if snippets.is_empty() {
        return Vec::new();
    }
    let dev = Dev::start().await;
    let mut shell = Child::program("bash")
        .args(["-c", &session(snippets, dev.port)])
        .current_dir(dev.directory.path())
        .env("PATH", path_with_binaries())
        .start()
        .unwrap();
    let status = shell.wait_exit(DEADLINE).await.unwrap();
    let printed = shell.printed(DEADLINE).await.unwrap();
    assert!(status.success(), "{document}: a block fails\n{}", printed.text);
    dev.stop().await;
    printed.stdout.split(END_OF_BLOCK).map(str::to_owned).collect()
}

/// A fresh `holdfast dev` on an empty directory.
pub(crate) struct Dev {
    directory: TempDir,
    port: u16,
    child: Child,
}

impl Dev {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these settings in its environment.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let port = free_port().unwrap();
        let child = Child::binary("holdfast")
            .current_dir(directory.path())
            .env("PORT", port.to_string())
            .envs(settings.iter().copied())
            .start()
            .unwrap();
        child.wait_for_line("curl", DEADLINE).await.unwrap();
        Self {
            directory,
            port,
            child,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What a route answers, with `curl`'s arguments for the request; an error fails the test.
    pub(crate) async fn ask(&self, path: &str, arguments: &[&str]) -> Value {
        // Into a file: a line that a child prints is cut at 16 KiB, and the OpenAPI document is one line of 200 KiB.
        let body = tempfile::NamedTempFile::new().unwrap();
        let mut curl = Child::program("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--output"])
            .arg(body.path())
            .args(arguments)
            .arg(format!("http://127.0.0.1:{}{path}", self.port))
            .start()
            .unwrap();
        let status = curl.wait_exit(DEADLINE).await.unwrap();
        let printed = curl.printed(DEADLINE).await.unwrap().text;
        let answer = std::fs::read_to_string(body.path()).unwrap();
        assert!(status.success(), "{path} {arguments:?}: {printed}{answer}");
        parsed(&answer)
    }

    pub(crate) async fn stop(mut self) {
        self.child.sigterm().unwrap();
        assert!(self.child.wait_exit(DEADLINE).await.unwrap().success());
    }
}

/// The blocks as one script. An error that the API answers is a failure of `curl` here, as a reader would see it.
fn session(snippets: &[Snippet], port: u16) -> String {
    let mut script = "set -euo pipefail\ncurl() { command curl --fail-with-body \"$@\"; }\n".to_owned();
    for snippet in snippets {
        let commands = snippet
            .script
            .replace(":8080", &format!(":{port}"))
            .replace("cargo run -- ", "holdfast ");
        let _ = writeln!(script, "{commands}printf '\\n{END_OF_BLOCK}\\n'");
    }
    script
}

/// The `holdfast` that cargo has built comes first.
#[allow(
    clippy::disallowed_methods,
    reason = "the programs of the machine, no setting of ours"
)]
pub(crate) fn path_with_binaries() -> String {
    let binaries = binary("holdfast").unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", binaries.parent().unwrap().display())
}

fn snippets(page: &str) -> Vec<Snippet> {
    let blocks = blocks(page);
    let follows = |block: &Block| {
        blocks.iter().find(|next| {
            next.language == "json"
                && next.fences.start >= block.fences.end
                && page[block.fences.end..next.fences.start].trim().is_empty()
        })
    };
    blocks
        .iter()
        .filter(|block| block.language == "console")
        .map(|block| Snippet {
            script: page[block.text.clone()].to_owned(),
            printed: follows(block).map(|next| next.text.clone()),
        })
        .collect()
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, usize, usize)> = None;
    let mut at = 0;
    for line in page.split_inclusive('\n') {
        let end = at + line.len();
        if let Some(after) = line.strip_prefix("```") {
            open = match open.take() {
                None => Some((after.trim().to_owned(), at, end)),
                Some((language, fence, text)) => {
                    blocks.push(Block {
                        language,
                        text: text..at,
                        fences: fence..end,
                    });
                    None
                }
            };
        }
        at = end;
    }
    blocks
}

#[test]
fn a_json_block_belongs_to_the_console_block_right_before_it() {
    let page = "text\n```console\necho 1\n```\n\n```json\n1\n```\nwords\n```json\n2\n```\n```console\necho 3\n```\nwords\n\n```json\n3\n```\n";
    let found: Vec<_> = snippets(page)
        .into_iter()
        .map(|snippet| (snippet.script, snippet.printed.map(|range| &page[range])))
        .collect();
    assert_eq!(
        found,
        [
            ("echo 1\n".to_owned(), Some("1\n")),
            ("echo 3\n".to_owned(), None)
        ]
    );
}
