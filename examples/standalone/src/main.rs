//! An application with a kind of job of its own, on a queue of its own.

use std::process::ExitCode;

use holdfast::prelude::*;
use serde::{Deserialize, Serialize};

/// The payload. Producers send these fields as JSON.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SendInvite {
    to: String,
    team: String,
}

/// The result, stored with the job.
#[derive(Serialize, JsonSchema)]
struct SentInvitation {
    subject: String,
}

/// What the handlers share: here a name, elsewhere a client or a pool.
struct Sender {
    name: &'static str,
}

impl Job for SendInvite {
    const KIND: &'static str = "invite.send";
    const QUEUE: &'static str = "invites";
    type Output = SentInvitation;

    /// Checked when the job is enqueued: an invalid payload is refused, not retried.
    fn validate(&self) -> Result<(), PayloadFault> {
        if self.to.contains('@') {
            return Ok(());
        }
        Err(PayloadFault::new("to", "must be an e-mail address"))
    }

    /// One attempt. `?` on any error is a retry; `JobError::permanent` discards the job immediately.
    async fn run(self, ctx: JobContext) -> Result<SentInvitation, JobError> {
        let sender = ctx.resource::<Sender>()?;
        let subject = format!("{} invites you to {}", sender.name, self.team);
        println!("attempt {} for {}: {subject}", ctx.attempt(), self.to);
        Ok(SentInvitation { subject })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, holdfast::Error> {
    App::from_env()?
        .with(Sender { name: "Ada" })
        .register::<SendInvite>()
        .run()
        .await
}

#[cfg(test)]
mod tests {
    use holdfast::jobs::Resources;

    use super::*;

    /// A handler runs without a server. Tokio's clock is paused: what a handler waits for takes no time.
    #[tokio::test(start_paused = true)]
    async fn an_invitation_names_its_sender_and_its_team() {
        let resources = Resources::default().with(Sender { name: "Ada" });
        let context = JobContext::detached(JobId::generate(), 1, 4, resources);
        let invite = SendInvite {
            to: "grace@example.org".to_owned(),
            team: "Compilers".to_owned(),
        };
        assert_eq!(invite.validate(), Ok(()));
        let sent = invite.run(context).await.unwrap();
        assert_eq!(sent.subject, "Ada invites you to Compilers");
    }
}
