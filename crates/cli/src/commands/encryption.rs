//! `holdfast encryption`: the keys of what is encrypted at rest, and their rotation. The keys themselves are in the environment alone.

use std::collections::BTreeMap;

use holdfast_control::wire::{EncryptionKeyView, EncryptionView, RotateBody, RotatedView, UnreadableView};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_services::Program;

use crate::args::{OperatorArgs, OutputArgs};
use crate::output::table;

pub(crate) type Args = OperatorArgs<Command>;

/// Passes over the whole database at most: rows that traffic held in one of them are looked at in the next.
const PASSES: usize = 10;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the ids of the API's keys, and of those that it misses
    List,
    /// Encrypt every stored value under the first key of HOLDFAST_ENCRYPTION_KEYS, beside traffic; may be repeated
    Rotate,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List => list(&api, output).await,
        Command::Rotate => rotate(&api, output).await,
    }
}

async fn list(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "encryption"], &[]).await?;
    let view: EncryptionView = api.read(&document)?;
    output.print(&document, || {
        if !view.enabled && view.missing_keys.is_empty() {
            return "nothing is encrypted: HOLDFAST_ENCRYPTION_KEYS is not set".to_owned();
        }
        let missing = view
            .missing_keys
            .iter()
            .map(|id| [id.clone(), "missing".to_owned()]);
        let rows: Vec<_> = view.keys.iter().map(row).chain(missing).collect();
        table(["KEY", "USE"], &rows)
    })
}

fn row(key: &EncryptionKeyView) -> [String; 2] {
    let use_of_it = if key.encrypts {
        "encrypts and decrypts"
    } else {
        "decrypts"
    };
    [key.id.clone(), use_of_it.to_owned()]
}

/// Passes until one has nothing left to do.
async fn rotate(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let mut total = RotatedView {
        rewritten: 0,
        skipped: 0,
        unreadable: Vec::new(),
        next: None,
    };
    for _ in 0..PASSES {
        let pass = pass(api).await?;
        total.rewritten += pass.rewritten;
        (total.skipped, total.unreadable) = (pass.skipped, pass.unreadable);
        if total.skipped == 0 {
            break;
        }
    }
    output.print(&total, || {
        let done = format!("{} rows encrypted under the first key", total.rewritten);
        let skipped = format!("{} rows are held by traffic: repeat the command", total.skipped);
        let skipped = (total.skipped > 0).then_some(skipped);
        let stays = |view: &UnreadableView| format!("{} rows stay as they are: {}", view.rows, view.reason);
        let unreadable = total.unreadable.iter().map(stays);
        let lines: Vec<String> = [done].into_iter().chain(skipped).chain(unreadable).collect();
        lines.join("\n")
    })
}

/// Over the whole database.
async fn pass(api: &Api) -> Result<RotatedView, Failure> {
    let (mut body, mut unreadable) = (RotateBody::default(), BTreeMap::<String, u64>::new());
    let (mut rewritten, mut skipped) = (0, 0);
    loop {
        let document = api
            .post_json(&["v1", "encryption", "rotate"], &body, None)
            .await?;
        let part: RotatedView = api.read(&document)?;
        rewritten += part.rewritten;
        skipped += part.skipped;
        for UnreadableView { reason, rows } in part.unreadable {
            *unreadable.entry(reason).or_default() += rows;
        }
        if part.next.is_none() {
            let unreadable = unreadable.into_iter();
            return Ok(RotatedView {
                rewritten,
                skipped,
                unreadable: unreadable
                    .map(|(reason, rows)| UnreadableView { reason, rows })
                    .collect(),
                next: None,
            });
        }
        body.after = part.next;
    }
}
