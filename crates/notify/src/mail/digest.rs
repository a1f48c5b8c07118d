//! `notify.digest`: what was put aside for a user, as one mail.
//!
//! # States
//! An item *waits* until its digest is due; one that belongs to a *batch* is being sent with all others of that batch; then
//! it is gone. A batch is the digest's name: it outlives the job that made it, so that the next process after a crash sends the
//! same mail under the same key, or finds it sent.
//!
//! # Invariants
//! - That a digest is sent and that its items are gone is one transaction. Like any mail it is sent twice only where a worker
//!   dies after the server has taken it and before that is noted, with the same `Message-ID`.
//! - A user has [`MAX_DIGEST_ITEMS`](super::MAX_DIGEST_ITEMS) items at most, all of which go into one mail; what comes beyond is left out, and the
//!   job that brought it says so.
//!
//! # When things fail
//! A digest that fails for good leaves its items; the beat makes another job an hour later.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::SecondsFormat;
use holdfast_core::clock;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::{Backoff, Job, JobContext, JobError, RetryPolicy};
use lettre::message::Mailbox;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use ulid::Ulid;

use super::built_in::DIGEST_TEMPLATE;
use super::compose::{Letter, message_id};
use super::digest_queue::{DigestItem, STEP};
use super::render::RenderedMail;
use super::send::{DELETED, NOWHERE, sent_by_another};
use super::sent::Claim;
use super::{Mail, MailError};
use crate::preferences::{self, Mode, Preferences};
use holdfast_product::UserName;
use holdfast_product::mail_address::normalised;

/// From what a reader of digests unsubscribes.
const DIGEST_LIST: &str = "digest";

/// Longest attempt: as `notify.email`.
const TIMEOUT: Duration = Duration::from_secs(150);

/// Sends a user what was put aside. The beat makes it when it is due.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyDigest {
    /// The id of the user: of an account, or the application's.
    pub user: UserName,
}

/// What became of a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Digested")]
pub struct DigestReport {
    /// The server has taken it from this job.
    pub sent: bool,
    pub items: usize,
    /// Why nothing was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl DigestReport {
    fn skipped(items: usize, reason: &str) -> Self {
        Self {
            sent: false,
            items,
            skipped: Some(reason.to_owned()),
        }
    }
}

impl Job for NotifyDigest {
    const KIND: &'static str = "notify.digest";
    const QUEUE: &'static str = "notifications";
    type Output = DigestReport;

    fn example() -> Option<Self> {
        let user = "01JD3V0S7W8Q4M2XKZC5T9R6BH".parse().ok()?;
        Some(Self { user })
    }

    fn timeout() -> Option<Duration> {
        Some(TIMEOUT)
    }

    /// As `notify.email`.
    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts: 16,
            backoff: Backoff::with_floor(Duration::from_secs(60), Duration::from_hours(2)),
        })
    }

    async fn run(self, ctx: JobContext) -> Result<DigestReport, JobError> {
        let mail = ctx.resource::<Mail>()?;
        let from = mail.0.transport.from()?;
        let reader = preferences::reader(&mail.0.sql, &self.user).await?;
        let Some(reader) = reader.filter(|reader| reader.is_stored) else {
            let left = mail.drop_digest(&self.user).await?;
            return Ok(DigestReport::skipped(left, DELETED));
        };
        if let Some(rest) = reader.preferences.quiet_for(clock::now()) {
            return Err(JobError::snooze(rest));
        }
        let (batch, all) = mail.take_batch(&self.user).await?;
        let Some(address) = reader.address else {
            mail.end_batch(&self.user, batch, None).await?;
            return Ok(DigestReport::skipped(all.len(), NOWHERE));
        };
        let to = normalised(&address);
        let items = mail.still_wanted(&address, &reader.preferences, all).await?;
        if items.is_empty() {
            mail.end_batch(&self.user, batch, None).await?;
            return Ok(DigestReport::skipped(0, "nothing waits that the user wants"));
        }
        let key = format!("digest/{}", Ulid(batch.as_u128()));
        let letter = Letter {
            from,
            to: Mailbox::new(None, address),
            reply_to: None,
            message_id: &message_id(&key, &to, from),
            link: mail.unsubscribe_link(&to, DIGEST_LIST).await?,
            written: mail
                .write_digest(&items, reader.preferences.language.as_deref())
                .await?,
        };
        let message = letter.message()?;
        match mail.claim(&key, &to, ctx.id(), Some(&self.user)).await? {
            Claim::Ours => {}
            Claim::Gone => return Ok(DigestReport::skipped(0, DELETED)),
            Claim::Theirs => return Err(sent_by_another()),
            Claim::Sent => {
                mail.end_batch(&self.user, batch, None).await?;
                return Ok(DigestReport::skipped(items.len(), "another job has sent it"));
            }
        }
        mail.hand_over(message, &to).await?;
        mail.end_batch(&self.user, batch, Some((&key, &to))).await?;
        Ok(DigestReport {
            sent: true,
            items: items.len(),
            skipped: None,
        })
    }
}

impl Mail {
    /// Without what the user has turned off, or unsubscribed from, since it was put aside.
    async fn still_wanted(
        &self,
        address: &lettre::Address,
        preferences: &Preferences,
        items: Vec<DigestItem>,
    ) -> Result<Vec<DigestItem>, LedgerError> {
        if self.suppressed(address, Some(DIGEST_LIST)).await?.is_some() {
            return Ok(Vec::new());
        }
        let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
        for item in &items {
            if !wanted.contains_key(&item.list) {
                let is_on = preferences.email_on(&item.list) != Mode::Off;
                let is_wanted = is_on && self.suppressed(address, Some(&item.list)).await?.is_none();
                wanted.insert(item.list.clone(), is_wanted);
            }
        }
        let keep = |item: &DigestItem| wanted.get(&item.list).copied().unwrap_or(true);
        Ok(items.into_iter().filter(keep).collect())
    }

    async fn write_digest(
        &self,
        items: &[DigestItem],
        language: Option<&str>,
    ) -> Result<RenderedMail, JobError> {
        let template = self.template_of(DIGEST_TEMPLATE, language).await?;
        template.render_off_thread(data_of(items)).await
    }

    /// Makes the jobs of digests that are due, every `period`, for as long as it is polled: a beat's duty.
    pub async fn sweep_digests(&self, period: Duration) {
        loop {
            match self.make_due_digests().await {
                // There may be more.
                Ok(made) if made == STEP => continue,
                Ok(_) => {}
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "due digests wait for the next look"
                ),
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Makes the jobs of the digests that are due, a hundred at most. How many there were.
    ///
    /// The job first: a beat that dies in between is followed by one that makes the same job, under the same key.
    pub async fn make_due_digests(&self) -> Result<usize, MailError> {
        let due = self.due_digests().await?;
        for (user, since) in &due {
            self.0
                .jobs
                .enqueue(NotifyDigest { user: user.clone() })
                .unique(user.to_string())
                .idempotency_key(format!("digest:{user}:{since}"))
                .await?;
            self.move_on(user).await?;
        }
        Ok(due.len())
    }
}

/// What a template for digests may name: `items`, oldest first, and the same by `topics`.
fn data_of(items: &[DigestItem]) -> serde_json::Value {
    let view = |item: &DigestItem| {
        json!({
            "list": item.list, "subject": item.subject, "text": item.text,
            "at": item.at.to_rfc3339_opts(SecondsFormat::Secs, true),
        })
    };
    let mut topics: BTreeMap<&str, Vec<serde_json::Value>> = BTreeMap::new();
    for item in items {
        topics.entry(&item.list).or_default().push(view(item));
    }
    let topics: Vec<_> = topics
        .into_iter()
        .map(|(name, items)| json!({ "name": name, "items": items }))
        .collect();
    let items: Vec<_> = items.iter().map(view).collect();
    json!({ "items": items, "topics": topics })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::super::MailTemplate;
    use super::super::built_in::built_in;
    use super::super::digest_queue::{MAX_DIGEST_ITEMS, MAX_SUBJECT, MAX_TEXT};
    use super::*;

    fn template() -> MailTemplate {
        built_in(DIGEST_TEMPLATE).unwrap()
    }

    fn waiting(list: &str, subject: &str, text: &str) -> DigestItem {
        DigestItem {
            list: list.to_owned(),
            subject: subject.to_owned(),
            text: text.to_owned(),
            at: DateTime::UNIX_EPOCH,
            due_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_built_in_template_groups_by_topic() {
        let items = [
            waiting("news", "One", "first\nline"),
            waiting("events", "<Two>", "second"),
            waiting("news", "Three", "third"),
        ];
        assert_eq!(template().check(), Ok(()));
        let written = template().render(&data_of(&items)).unwrap();
        assert_eq!(written.subject, "3 messages for you");
        assert_eq!(
            written.text,
            "events\n\n* <Two>\n  second\n\nnews\n\n* One\n  first\n  line\n\n* Three\n  third\n\n"
        );
        assert!(written.html.unwrap().contains("<h3>&lt;Two&gt;</h3>"));
        let one = template().render(&data_of(&items[..1])).unwrap();
        assert_eq!(one.subject, "1 message for you");
    }

    #[test]
    fn as_many_items_as_there_may_be_fit_into_a_mail() {
        let long = waiting(
            &"l".repeat(100),
            &"\"".repeat(MAX_SUBJECT),
            &"\"".repeat(MAX_TEXT),
        );
        let items = vec![long; MAX_DIGEST_ITEMS];
        assert!(template().render(&data_of(&items)).is_ok());
    }
}
