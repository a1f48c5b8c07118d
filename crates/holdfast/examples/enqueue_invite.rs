//! A producer that runs no service: it enqueues a job of the application in `examples/standalone` and waits for its result.

use std::error::Error;
use std::time::Duration;

use holdfast::prelude::*;
use serde::{Deserialize, Serialize};

/// A kind of the application. Producer and application have it from a crate that both depend on.
#[derive(Serialize, Deserialize, JsonSchema)]
struct SendInvite {
    to: String,
    team: String,
}

impl Job for SendInvite {
    const KIND: &'static str = "invite.send";
    const QUEUE: &'static str = "invites";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Err(JobError::permanent("jobs run in the application's worker"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let jobs = App::from_env()?.register::<SendInvite>().client()?;
    let invite = SendInvite {
        to: "ada@example.org".to_owned(),
        team: "Compilers".to_owned(),
    };
    let accepted = jobs.enqueue(invite).max_attempts(5).await?;
    if let Some(job) = jobs.wait(accepted.id, Duration::from_secs(30)).await? {
        let result = job.result.map(|result| result.to_string());
        println!("{} is {}: {}", job.id, job.state, result.unwrap_or_default());
    }
    Ok(())
}
