//! Your own kind of job, from its type to its result: `cargo run -p holdfast-services --example send_invite`

use std::error::Error;
use std::time::Duration;

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{self, Database};
use holdfast_jobs::worker::{Worker, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, PayloadFault};
use serde::{Deserialize, Serialize};

/// The payload. Producers send these fields as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SendInvite {
    to: String,
    team: String,
}

/// The result, stored with the job.
#[derive(Debug, Serialize)]
struct Sent {
    subject: String,
}

impl Job for SendInvite {
    const KIND: &'static str = "invite.send";
    const QUEUE: &'static str = "notifications";
    type Output = Sent;

    fn timeout() -> Option<Duration> {
        Some(Duration::from_secs(30))
    }

    /// Checked when the job is enqueued: an invalid payload is refused, not retried.
    fn validate(&self) -> Result<(), PayloadFault> {
        if self.to.contains('@') {
            return Ok(());
        }
        Err(PayloadFault::new("to", "must be an e-mail address"))
    }

    /// One attempt. `?` on any error is a retry; `JobError::permanent` discards the job immediately.
    async fn run(self, ctx: JobContext) -> Result<Sent, JobError> {
        let subject = format!("Join {}", self.team);
        println!("attempt {} for {}: {subject}", ctx.attempt(), self.to);
        Ok(Sent { subject })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = holdfast_core::config::load()?;
    sql::migrate(&settings.database).await?;
    let database = Database::open(&settings.database)?;
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let registry = holdfast_services::registry_for(&settings).register::<SendInvite>();
    let jobs = Jobs::new(&settings, registry, &database, &gate);

    let resources = holdfast_services::resources(&settings)?;
    let stop = Shutdown::new();
    let worker = Worker::new(
        WorkerParts {
            settings,
            jobs: jobs.clone(),
            gate,
            resources,
        },
        stop.clone(),
    )?;
    let working = tokio::spawn(worker.run());

    let invite = SendInvite {
        to: "ada@example.org".to_owned(),
        team: "Compilers".to_owned(),
    };
    let accepted = jobs.enqueue(invite).max_attempts(5).await?;
    if let Some(job) = jobs.wait(accepted.id, Duration::from_secs(30)).await? {
        println!(
            "{} is {}: {:?}",
            job.id,
            job.state,
            job.result.map(|result| result.to_string())
        );
    }

    stop.trigger();
    working.await??;
    Ok(())
}
