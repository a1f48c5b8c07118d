//! `holdfast jobs retry`.

use holdfast_jobs::JobId;

use super::unknown;
use crate::args::OutputArgs;
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

pub(super) async fn run(target: &Target, id: JobId, output: OutputArgs) -> Result<(), Failure> {
    let steered = target.retry(id).await?.ok_or_else(|| unknown(id))?;
    output.print(&steered, || format!("{id} is {}", steered.state))
}
