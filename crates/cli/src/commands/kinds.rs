//! `holdfast kinds`: what can be enqueued.

use clap::Subcommand;
use holdfast_control::wire::{KindList, KindView};
use holdfast_ops::Failure;
use holdfast_services::Program;

use crate::args::OperatorArgs;
use crate::output::table;

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List kinds with their queue, timeout and attempts
    List,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let Command::List = args.command;
    let api = args.target.open(program).await?;
    let document = api.get(&["v1", "kinds"], &[]).await?;
    let list: KindList = api.read(&document)?;
    args.output.print(&document, || {
        let rows: Vec<_> = list.kinds.iter().map(row).collect();
        table(["KIND", "QUEUE", "TIMEOUT", "ATTEMPTS"], &rows)
    })
}

fn row(kind: &KindView) -> [String; 4] {
    [
        kind.kind.to_string(),
        kind.queue.to_string(),
        format!("{} s", kind.timeout_seconds),
        kind.retry.max_attempts.to_string(),
    ]
}
