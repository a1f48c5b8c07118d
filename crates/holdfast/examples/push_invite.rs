//! A producer without a database: it pushes a job of the application in `examples/standalone` to Redis with apalis-redis. The queue
//! has `durability = "redis"`.

use std::error::Error;

use holdfast::jobs::Envelope;
use holdfast::jobs::stock::TaskSink;
use holdfast::prelude::*;
use serde::{Deserialize, Serialize};

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
    let app = App::from_env()?.register::<SendInvite>();
    let mut storage = app.redis_storage(SendInvite::QUEUE).await?;
    let invite = SendInvite {
        to: "linus@example.org".to_owned(),
        team: "Compilers".to_owned(),
    };
    storage.push(Envelope::of(&invite)?).await?;
    println!("pushed");
    Ok(())
}
