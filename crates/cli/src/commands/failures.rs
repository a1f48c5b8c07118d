//! `holdfast failures`: dead letters in groups.

use clap::Subcommand;
use holdfast_control::wire::{FailurePage, FailureView};
use holdfast_ops::Failure;
use holdfast_services::Program;

use crate::args::OperatorArgs;
use crate::output::{line, minute, shown, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List groups of dead letters: by kind, class of the error, and message without numbers and ids
    List {
        /// Most groups to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=100))]
        limit: u16,
    },
    /// Show one group
    Show {
        /// The group's fingerprint
        fingerprint: String,
    },
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List { limit } => {
            let document = api
                .get(&["v1", "failures"], &[("limit", limit.to_string())])
                .await?;
            let list: FailurePage = api.read(&document)?;
            output.print(&document, || {
                let rows: Vec<_> = list.failures.iter().map(row).collect();
                table(
                    ["FINGERPRINT", "COUNT", "LAST", "KIND", "CLASS", "MESSAGE"],
                    &rows,
                )
            })
        }
        Command::Show { fingerprint } => {
            let document = api.get(&["v1", "failures", &fingerprint], &[]).await?;
            let failure: FailureView = api.read(&document)?;
            output.print(&document, || text(&failure))
        }
    }
}

fn row(failure: &FailureView) -> [String; 6] {
    [
        failure.fingerprint.clone(),
        count(failure),
        minute(Some(failure.last_at)),
        failure.kind.clone(),
        failure.class.clone(),
        failure.message.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn count(failure: &FailureView) -> String {
    let more = if failure.is_capped { "+" } else { "" };
    format!("{}{more}", failure.count)
}

fn text(failure: &FailureView) -> String {
    let mut lines = vec![
        line("group", &failure.fingerprint),
        line("kind", &failure.kind),
        line("queue", &failure.queue),
        line("class", &failure.class),
    ];
    lines.extend(failure.message.as_ref().map(|message| line("message", message)));
    lines.extend([
        line("count", count(failure)),
        line("first", shown(failure.first_at)),
        line("last", shown(failure.last_at)),
    ]);
    lines.extend(failure.samples.iter().map(|id| line("job", id)));
    lines.join("\n")
}
