//! `notify.email`: one mail to one address.

use std::time::Duration;

use holdfast_jobs::{Backoff, Job, JobContext, JobError, PayloadFault, RetryPolicy};
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::built_in::built_in;
use super::render::Written;
use super::sent::{Claim, LEASE};
use super::templates::{MailTemplate, is_name};
use super::transport::SendFault;
use super::{Mail, MailError, normalised};

/// Longest attempt: the server's time and the database's. Below [`LEASE`].
const TIMEOUT: Duration = Duration::from_secs(150);

/// How long a job rests that finds its mail being sent by another.
const ASIDE: Duration = Duration::from_secs(30);

/// Longest key of a payload, in bytes.
const MAX_KEY: usize = 255;

/// Longest address with its display name, in bytes.
const MAX_ADDRESS: usize = 512;

/// A mail to be sent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyEmail {
    /// One address, `ada@example.com` or `Ada <ada@example.com>`.
    pub to: String,
    /// A template, as `PUT /v1/mail-templates/{name}` named it.
    pub template: String,
    /// What the template is written out with: an object.
    #[serde(default)]
    pub data: Value,
    /// What kind of mail this is to its reader, who may unsubscribe from it: `digest`. None: mail that nobody unsubscribes
    /// from, such as a receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Under one key an address gets one mail. The job's own id unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Without what it says to whom.
impl std::fmt::Debug for NotifyEmail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifyEmail")
            .field("template", &self.template)
            .field("list", &self.list)
            .finish_non_exhaustive()
    }
}

/// What became of a mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mailed {
    /// The server has taken it from this job.
    pub sent: bool,
    pub message_id: String,
    /// Why nothing was sent: the reason of the suppression, or that another job has sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Job for NotifyEmail {
    const KIND: &'static str = "notify.email";
    const QUEUE: &'static str = "notifications";
    type Output = Mailed;

    fn timeout() -> Option<Duration> {
        Some(TIMEOUT)
    }

    /// Greylisting servers want minutes, and one that is down some hours.
    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts: 10,
            backoff: Backoff {
                base: Duration::from_secs(60),
                cap: Duration::from_hours(2),
                jitter: true,
            },
        })
    }

    fn validate(&self) -> Result<(), PayloadFault> {
        mailbox_of("to", &self.to)?;
        self.reply_to
            .as_deref()
            .map_or(Ok(()), |text| mailbox_of("reply_to", text).map(drop))?;
        for (field, name) in [("template", Some(&self.template)), ("list", self.list.as_ref())] {
            if name.is_some_and(|name| !is_name(name)) {
                return Err(PayloadFault::new(
                    field,
                    "must be 1 to 100 of a-z, 0-9, _, - and .",
                ));
            }
        }
        if !matches!(self.data, Value::Object(_) | Value::Null) {
            return Err(PayloadFault::new(
                "data",
                "must be an object: what the template names",
            ));
        }
        let is_key = |key: &String| (1..=MAX_KEY).contains(&key.len()) && !key.chars().any(char::is_control);
        if !self.key.as_ref().is_none_or(is_key) {
            let reason = "must have 1 to 255 bytes, and no control characters";
            return Err(PayloadFault::new("key", reason));
        }
        Ok(())
    }

    async fn run(self, ctx: JobContext) -> Result<Mailed, JobError> {
        let mail = ctx.resource::<Mail>()?;
        let to = mailbox_of("to", &self.to).map_err(JobError::permanent)?;
        let address = normalised(&to.email);
        let key = self.key.clone().unwrap_or_else(|| ctx.id().to_string());
        let message_id = message_id(&key, &address, mail.0.transport.from()?);
        let skipped = |reason: String| Mailed {
            sent: false,
            message_id: message_id.clone(),
            skipped: Some(reason),
        };
        if let Some(reason) = mail.suppressed(&address, self.list.as_deref()).await? {
            return Ok(skipped(reason));
        }
        let message = mail.compose(&self, to, &address, &message_id).await?;
        match mail.claim(&key, &address, ctx.id()).await? {
            Claim::Ours => {}
            Claim::Sent => return Ok(skipped("another job has sent it".to_owned())),
            Claim::Theirs => {
                let text = format!(
                    "another job is sending this mail, or was {} s ago",
                    LEASE.as_secs()
                );
                return Err(JobError::retry_after(ASIDE, text));
            }
        }
        match mail.0.transport.send(message).await {
            Ok(()) => {}
            Err(SendFault::Failed(error)) => return Err(error),
            Err(SendFault::NoSuchMailbox(text)) => {
                mail.suppress_all(&address, &text).await?;
                return Err(JobError::permanent(text));
            }
        }
        mail.note_sent(&key, &address).await?;
        Ok(Mailed {
            sent: true,
            message_id,
            skipped: None,
        })
    }
}

/// The address of a field.
fn mailbox_of(field: &str, text: &str) -> Result<Mailbox, PayloadFault> {
    mailbox(text).map_err(|reason| PayloadFault::new(field, reason))
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    if text.len() > MAX_ADDRESS {
        return Err(format!("is longer than {MAX_ADDRESS} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("holds a line break or another control character".to_owned());
    }
    text.parse()
        .map_err(|error| format!("is no single mail address: {error}"))
}

/// Whether a mail could be sent to it: one address, `ada@example.com` or `Ada <ada@example.com>`.
///
/// # Errors
/// Why not.
pub fn check_address(text: &str) -> Result<(), String> {
    mailbox(text).map(drop)
}

impl Mail {
    /// The one that was put, or else the one that is built in.
    async fn template_of(&self, name: &str) -> Result<MailTemplate, JobError> {
        match self.template(name).await {
            Ok(record) => Ok(record.template),
            Err(MailError::Sql(error)) => Err(error.into()),
            Err(error) => built_in(name).ok_or_else(|| JobError::permanent(error)),
        }
    }

    async fn compose(
        &self,
        job: &NotifyEmail,
        to: Mailbox,
        address: &str,
        message_id: &str,
    ) -> Result<Message, JobError> {
        let template = self.template_of(&job.template).await?;
        let written = template.render(&job.data).map_err(JobError::permanent)?;
        let link = match &job.list {
            Some(list) => self.unsubscribe_link(address, list).await?,
            None => None,
        };
        let mut message = Message::builder()
            .from(self.0.transport.from()?.clone())
            .to(to)
            .date(holdfast_core::clock::now().into())
            .message_id(Some(message_id.to_owned()))
            .subject(&written.subject);
        if let Some(reply_to) = &job.reply_to {
            let reply_to = mailbox_of("reply_to", reply_to).map_err(JobError::permanent)?;
            message = message.reply_to(reply_to);
        }
        if let Some(link) = link {
            let header = |name, text| HeaderValue::new(HeaderName::new_from_ascii_str(name), text);
            message = message
                .raw_header(header("List-Unsubscribe", format!("<{link}>")))
                .raw_header(header(
                    "List-Unsubscribe-Post",
                    "List-Unsubscribe=One-Click".to_owned(),
                ));
        }
        let Written { text, html, .. } = written;
        let message = match html {
            Some(html) => message.multipart(MultiPart::alternative_plain_html(text, html)),
            None => message.singlepart(lettre::message::SinglePart::plain(text)),
        };
        message.map_err(JobError::permanent)
    }
}

/// The same for every attempt, and for every job of the same key and address.
fn message_id(key: &str, address: &str, from: &Mailbox) -> String {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update([0]);
    hash.update(address);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    let digest = uuid::Uuid::from_bytes(digest).simple();
    format!("<{digest}@{}>", from.email.domain())
}
