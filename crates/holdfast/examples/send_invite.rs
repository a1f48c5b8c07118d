//! An application with one kind of job of its own.

use std::process::ExitCode;

use holdfast::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct SendInvite {
    to: String,
}

impl Job for SendInvite {
    const KIND: &'static str = "invite.send";
    const QUEUE: &'static str = "invites";
    type Output = ();

    async fn run(self, ctx: JobContext) -> Result<(), JobError> {
        println!("attempt {} for {}", ctx.attempt(), self.to);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, holdfast::Error> {
    App::from_env()?.register::<SendInvite>().run().await
}
