//! `holdfast backup`: the embedded database into one file, beside running services.

use std::path::PathBuf;

use holdfast_ops::{Failure, backup, in_process};
use holdfast_services::Program;

use crate::args::OutputArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write. It must not exist
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let report = backup::backup(&in_process::settings(program)?, &args.to).await?;
    args.output.print(&report, || {
        format!("wrote {} ({} bytes)", report.file.display(), report.bytes)
    })
}
