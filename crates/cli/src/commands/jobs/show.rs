//! `holdfast jobs show`.

use std::time::Duration;

use holdfast_jobs::JobId;

use super::{print_job, unknown};
use crate::args::OutputArgs;
use holdfast_ops::Failure;
use holdfast_ops::target::Target;
use holdfast_ops::time;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's id
    id: JobId,
    /// Wait until the job has finished, at most this long; exit with 1 unless it completed
    #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "30", value_parser = time::duration)]
    wait: Option<Duration>,
}

pub(super) async fn run(target: &Target, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let job = target
        .show(args.id, args.wait)
        .await?
        .ok_or_else(|| unknown(args.id))?;
    print_job(&job, args.wait.is_some(), output)
}
