//! `holdfast jobs cancel`.

use holdfast_jobs::{JobId, State};

use super::unknown;
use crate::args::OutputArgs;
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

pub(super) async fn run(target: &Target, id: JobId, output: OutputArgs) -> Result<(), Failure> {
    let steered = target.cancel(id).await?.ok_or_else(|| unknown(id))?;
    output.print(&steered, || match steered.state {
        State::Running => format!("{id} is running; it was asked to stop"),
        state => format!("{id} is {state}"),
    })
}
