//! `holdfast copy`: an installation from SQLite to PostgreSQL. Progress goes to stderr.

use holdfast_ops::copy::{self, Report};
use holdfast_ops::{Failure, in_process};
use holdfast_services::Program;
use secrecy::SecretString;

use crate::args::OutputArgs;
use crate::output::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The SQLite database to copy, sqlite://PATH. It is only read
    #[arg(long, value_name = "URL", env = "HOLDFAST_COPY_FROM", hide_env_values = true)]
    from: SecretString,
    /// The PostgreSQL database to copy into: an empty one, or that of a copy that was interrupted. It is migrated first
    #[arg(long, value_name = "URL", env = "HOLDFAST_COPY_TO", hide_env_values = true)]
    to: SecretString,
    /// Copy although a worker or beat of the source seems to run
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let settings = in_process::settings_with_progress(program)?;
    let options = copy::Options {
        from: args.from,
        to: args.to,
        force: args.force,
    };
    let report = copy::copy(&settings, &options).await?;
    args.output.print(&report, || text(&report))
}

fn text(report: &Report) -> String {
    let rows: Vec<[String; 4]> = report
        .tables
        .iter()
        .map(|table| {
            [
                table.table.clone(),
                table.rows.to_string(),
                table.copied.to_string(),
                table.verified.to_string(),
            ]
        })
        .collect();
    table(["TABLE", "ROWS", "COPIED", "VERIFIED"], &rows)
}
