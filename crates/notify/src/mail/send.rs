//! `notify.email`: one mail to one address.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_jobs::{
    Backoff, Job, JobContext, JobError, NO_CONTROL_PATTERN, PayloadFault, RetryPolicy, SecretField,
    SecretPart,
};
use holdfast_product::UserName;
use holdfast_product::mail_address::{MAX_ADDRESS, mailbox, normalised};
use lettre::Message;
use lettre::message::Mailbox;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::built_in::built_in;
use super::compose::{Letter, message_id};
use super::digest_queue::DigestEntry;
use super::render::RenderedMail;
use super::sent::{Claim, LEASE};
use super::templates::MailTemplate;
use super::transport::SendFault;
use super::{Mail, MailError};
use crate::names::{NAME_PATTERN, is_name};
use crate::preferences::{self, Mode, Preferences};

/// Longest attempt: the server's time and the database's. Below [`LEASE`].
const TIMEOUT: Duration = Duration::from_secs(150);

/// How long a job rests that finds its mail being sent by another.
const ASIDE: Duration = Duration::from_secs(30);

/// What the schema says of an address: more than this is decided by the parser.
const ADDRESS_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*@[^\u0000-\u001f\u007f-\u009f]*$";

/// Longest key of a payload, in bytes.
const MAX_KEY: usize = 255;

/// Why nothing was sent.
const NOBODY: &str = "it says neither to whom it goes nor for which user it is";
pub(super) const DELETED: &str = "the user was deleted";
pub(super) const NOWHERE: &str = "the user has no confirmed mail address";
const UNWANTED: &str = "the user wants no mail of this list";

/// A mail to be sent.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [
    {"required": ["to"], "properties": {"to": {"type": "string"}}},
    {"required": ["user"], "properties": {"user": {"type": "string"}}},
]))]
pub struct NotifyEmail {
    /// One address, `ada@example.com` or `Ada <ada@example.com>`. May be left out where there is a `user`: then it goes to
    /// the address of that user's preferences, if it is confirmed, or to the user's name, if that is an address.
    #[schemars(length(max = MAX_ADDRESS), pattern(ADDRESS_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The user who receives the mail: the id of an account, or the application's id of a user. With a `list`, that user's
    /// preferences and quiet hours apply. A deleted user receives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// The name of a template of `PUT /v1/mail-templates/{name}`.
    #[schemars(pattern(NAME_PATTERN))]
    pub template: String,
    /// The variables of the template: an object.
    #[schemars(extend("type" = ["object", "null"]))]
    #[serde(default)]
    pub data: Value,
    /// The mailing list, which readers can unsubscribe from, e.g. `digest`. Default: none, for mail such as a
    /// receipt.
    #[schemars(pattern(NAME_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The address for replies.
    #[schemars(length(max = MAX_ADDRESS), pattern(ADDRESS_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// One address receives one mail for each key. Default: the job's id.
    #[schemars(length(min = 1, max = MAX_KEY), pattern(NO_CONTROL_PATTERN))]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Mailed")]
pub struct MailReport {
    /// The server has taken it from this job.
    pub sent: bool,
    pub message_id: String,
    /// Why nothing was sent: the reason of the suppression, what the user wants, or that another job has sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Job for NotifyEmail {
    const KIND: &'static str = "notify.email";
    const QUEUE: &'static str = "notifications";
    type Output = MailReport;

    fn example() -> Option<Self> {
        Some(Self {
            to: Some("Ada <ada@example.com>".to_owned()),
            user: None,
            template: "invite".to_owned(),
            data: serde_json::json!({"team": "Compilers"}),
            list: Some("invitations".to_owned()),
            reply_to: None,
            key: Some("invite-17".to_owned()),
        })
    }

    fn timeout() -> Option<Duration> {
        Some(TIMEOUT)
    }

    /// Over at least nine hours: greylisting servers ask for minutes, and a server may be down for a night.
    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts: 16,
            backoff: Backoff::with_floor(Duration::from_secs(60), Duration::from_hours(2)),
        })
    }

    fn secret_fields() -> &'static [SecretField] {
        &[("data", SecretPart::Whole)]
    }

    fn validate(&self) -> Result<(), PayloadFault> {
        if self.to.is_none() && self.user.is_none() {
            return Err(PayloadFault::new("to", "is missing, and so is user"));
        }
        self.to
            .as_deref()
            .map_or(Ok(()), |text| mailbox_of("to", text).map(drop))?;
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

    async fn run(self, ctx: JobContext) -> Result<MailReport, JobError> {
        let mail = ctx.resource::<Mail>()?;
        let key = self.key.clone().unwrap_or_else(|| ctx.id().to_string());
        let from = mail.0.transport.from()?;
        let recipient = match mail.recipient(&self).await? {
            Ok(recipient) => recipient,
            Err(reason) => return Ok(MailReport::skipped(message_id(&key, "", from), reason)),
        };
        let address = normalised(&recipient.mailbox.email);
        let message_id = message_id(&key, &address, from);
        let skipped = |reason: String| Ok(MailReport::skipped(message_id.clone(), reason));
        if let Some(reason) = mail
            .suppressed(&recipient.mailbox.email, self.list.as_deref())
            .await?
        {
            return skipped(reason);
        }
        let wish = recipient.wish(self.list.as_deref(), clock::now());
        match wish {
            DeliveryPlan::Never => return skipped(UNWANTED.to_owned()),
            DeliveryPlan::NotBefore(rest) => return Err(JobError::snooze(rest)),
            DeliveryPlan::Now | DeliveryPlan::InDigest(_) => {}
        }
        let written = mail.write(&self, recipient.language()).await?;
        if let DeliveryPlan::InDigest(item) = wish {
            let aside = mail.put_aside(&item, &key, &written).await?;
            return skipped(aside.told().to_owned());
        }
        let message = mail
            .envelope(&self, recipient.mailbox, written, &message_id)
            .await?;
        let user = recipient.stored.as_ref().map(|(user, _)| user);
        match mail.claim(&key, &address, ctx.id(), user).await? {
            Claim::Ours => {}
            Claim::Gone => return skipped(DELETED.to_owned()),
            Claim::Sent => return skipped("another job has sent it".to_owned()),
            Claim::Theirs => return Err(sent_by_another()),
        }
        mail.hand_over(message, &address).await?;
        mail.note_sent(&key, &address).await?;
        Ok(MailReport {
            sent: true,
            message_id,
            skipped: None,
        })
    }
}

impl MailReport {
    fn skipped(message_id: String, reason: String) -> Self {
        Self {
            sent: false,
            message_id,
            skipped: Some(reason),
        }
    }
}

/// Whom a mail is for.
struct Recipient {
    mailbox: Mailbox,
    /// The user, if the mail is for one that is stored.
    stored: Option<(UserName, Preferences)>,
}

/// What the reader wants of a mail, at a moment.
enum DeliveryPlan {
    Now,
    Never,
    NotBefore(Duration),
    InDigest(DigestEntry),
}

impl Recipient {
    fn wish(&self, list: Option<&str>, now: DateTime<Utc>) -> DeliveryPlan {
        // Nobody unsubscribes from mail of no list, and nobody wants a new password by tomorrow's digest.
        let (Some((user, preferences)), Some(list)) = (&self.stored, list) else {
            return DeliveryPlan::Now;
        };
        match preferences.email_on(list) {
            Mode::Off => DeliveryPlan::Never,
            Mode::Digest => DeliveryPlan::InDigest(DigestEntry {
                user: user.clone(),
                list: list.to_owned(),
                due: preferences.digest_due(now),
            }),
            Mode::On => preferences
                .quiet_for(now)
                .map_or(DeliveryPlan::Now, DeliveryPlan::NotBefore),
        }
    }

    fn language(&self) -> Option<&str> {
        let (_, preferences) = self.stored.as_ref()?;
        preferences.language.as_deref()
    }
}

/// What to say to a job that finds its mail being sent.
pub(super) fn sent_by_another() -> JobError {
    let text = format!(
        "another job is sending this mail, or was {} s ago",
        LEASE.as_secs()
    );
    JobError::retry_after(ASIDE, text)
}

/// The address of a field.
fn mailbox_of(field: &str, text: &str) -> Result<Mailbox, PayloadFault> {
    mailbox(text).map_err(|reason| PayloadFault::new(field, reason))
}

impl Mail {
    /// Whom the mail goes to, or why to nobody.
    async fn recipient(&self, job: &NotifyEmail) -> Result<Result<Recipient, String>, JobError> {
        let given = job.to.as_deref().map(|to| mailbox_of("to", to)).transpose();
        let given = given.map_err(JobError::permanent)?;
        let Some(user) = &job.user else {
            let mailbox = given.ok_or_else(|| JobError::permanent(NOBODY))?;
            return Ok(Ok(Recipient {
                mailbox,
                stored: None,
            }));
        };
        let Some(reader) = preferences::reader(&self.0.sql, user).await? else {
            return Ok(Err(DELETED.to_owned()));
        };
        let Some(mailbox) = given.or(reader.address.map(|address| Mailbox::new(None, address))) else {
            return Ok(Err(NOWHERE.to_owned()));
        };
        let stored = reader.is_stored.then(|| (user.clone(), reader.preferences));
        Ok(Ok(Recipient { mailbox, stored }))
    }

    /// The one that was put, in the reader's language where there is one, or else the one that is built in.
    pub(super) async fn template_of(
        &self,
        name: &str,
        language: Option<&str>,
    ) -> Result<MailTemplate, JobError> {
        match self.template_in(name, language).await {
            Ok(record) => Ok(record.template),
            Err(MailError::Sql(error)) => Err(error.into()),
            Err(error) => built_in(name).ok_or_else(|| JobError::permanent(error)),
        }
    }

    async fn write(&self, job: &NotifyEmail, language: Option<&str>) -> Result<RenderedMail, JobError> {
        let template = self.template_of(&job.template, language).await?;
        template.render_off_thread(job.data.clone()).await
    }

    async fn envelope(
        &self,
        job: &NotifyEmail,
        to: Mailbox,
        written: RenderedMail,
        message_id: &str,
    ) -> Result<Message, JobError> {
        let link = match &job.list {
            Some(list) => self.unsubscribe_link(&normalised(&to.email), list).await?,
            None => None,
        };
        let reply_to = job.reply_to.as_deref().map(|text| mailbox_of("reply_to", text));
        let letter = Letter {
            from: self.0.transport.from()?,
            to,
            reply_to: reply_to.transpose().map_err(JobError::permanent)?,
            message_id,
            link,
            written,
        };
        letter.message()
    }

    /// To the server. An address that does not exist gets no more mail.
    pub(super) async fn hand_over(&self, message: Message, address: &str) -> Result<(), JobError> {
        match self.0.transport.send(message, address).await {
            Ok(()) => Ok(()),
            Err(SendFault::Failed(error)) => Err(error),
            Err(SendFault::NoSuchMailbox(text)) => {
                self.suppress_all(address, &text).await?;
                Err(JobError::permanent(text))
            }
        }
    }
}
