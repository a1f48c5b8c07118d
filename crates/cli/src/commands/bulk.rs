//! Operations that may take several calls: asked for again, under one key, until they are finished.

use holdfast_control::wire::{BulkPreview, BulkView};
use holdfast_jobs::JobId;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use serde::Serialize;

use crate::args::OutputArgs;

/// A key that nobody else has.
pub(crate) fn fresh_key() -> String {
    format!("cli-{}", JobId::generate())
}

/// Repeats a POST under one key until the operation is finished, and prints what it did.
pub(crate) async fn run(
    api: &Api,
    path: &[&str],
    body: &impl Serialize,
    done: &str,
    output: OutputArgs,
) -> Result<(), Failure> {
    let key = fresh_key();
    loop {
        let document = api.post_json(path, body, Some(&key)).await?;
        let view: BulkView = api.read(&document)?;
        if !view.finished && view.operation.is_some() {
            eprintln!("{} so far", view.affected);
            continue;
        }
        output.print(&document, || match view.skipped {
            0 => format!("{done} {}", view.affected),
            skipped => format!("{done} {}, skipped {skipped}", view.affected),
        })?;
        return match view.affected {
            0 => Err(Failure::no("nothing matches")),
            _ => Ok(()),
        };
    }
}

/// How many jobs an operation would change; `body` says that it is a dry run.
///
/// # Errors
/// None: there is nothing to ask about.
pub(crate) async fn matched(api: &Api, path: &[&str], body: &impl Serialize) -> Result<u64, Failure> {
    let document = api.post_json(path, body, None).await?;
    match api.read::<BulkPreview>(&document)?.matched {
        0 => Err(Failure::no("nothing matches")),
        matched => Ok(matched),
    }
}

/// Prints what an operation would do; `body` says that it is a dry run.
pub(crate) async fn preview(
    api: &Api,
    path: &[&str],
    body: &impl Serialize,
    output: OutputArgs,
) -> Result<(), Failure> {
    let document = api.post_json(path, body, None).await?;
    let preview: BulkPreview = api.read(&document)?;
    output.print(&document, || {
        format!("{} match; nothing was changed", preview.matched)
    })
}
