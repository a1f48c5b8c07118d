//! `holdfast jobs why`.

use holdfast_control::wire::JobStanding;
use holdfast_jobs::JobId;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

use crate::args::OutputArgs;

pub(super) async fn run(api: &Api, id: JobId, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "jobs", &id.to_string(), "why"], &[]).await?;
    let standing: JobStanding = api.read(&document)?;
    output.print(&document, || {
        let mut lines = vec![format!("{id} is {}", standing.state)];
        lines.extend(standing.reasons.iter().map(|reason| reason.message.clone()));
        lines.join("\n")
    })
}
