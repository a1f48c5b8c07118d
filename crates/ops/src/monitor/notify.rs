//! Where notices go: a webhook signed as Standard Webhooks says, and mail.
//!
//! One task delivers, so that a slow receiver never delays a look at the target. A notice is tried
//! [`ATTEMPTS`] times; one that cannot be delivered is told on stderr and dropped, as is one that comes while
//! [`MOST_WAITING`] wait. The id of a notice is the same at every attempt, so that a receiver can tell a repeat.

use std::time::Duration;

use holdfast_core::clock;
pub use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::Webhook;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

use super::alerts::{Notice, NoticeKind};
use crate::failure::Failure;

const ATTEMPTS: u32 = 4;
/// After the first failed attempt; doubled after each further one.
const PAUSE: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);
const MOST_WAITING: usize = 256;
/// How long the end of the run waits for what is still to be delivered.
const FLUSH: Duration = Duration::from_secs(15);

/// Where notices are sent.
#[derive(Debug, Clone, Default)]
pub struct Sinks {
    /// A webhook, signed as Standard Webhooks says; it needs the secret.
    pub webhook: Option<Url>,
    /// Secret of the webhook's signature: whsec_ and base64.
    pub webhook_secret: Option<SecretString>,
    /// smtps://user:password@host, or smtp://host:port; it needs sender and receivers.
    pub smtp: Option<SecretString>,
    pub mail_from: Option<Mailbox>,
    pub mail_to: Vec<Mailbox>,
}

/// Takes notices, and delivers them in the background.
#[derive(Debug)]
pub(super) struct Notifier {
    waiting: mpsc::Sender<Notice>,
    delivering: JoinHandle<()>,
}

impl Notifier {
    /// Call it inside tokio.
    pub(super) fn start(sinks: &Sinks) -> Result<Self, Failure> {
        let receivers = Receivers::new(sinks)?;
        let (waiting, notices) = mpsc::channel(MOST_WAITING);
        Ok(Self {
            waiting,
            delivering: tokio::spawn(deliver_all(receivers, notices)),
        })
    }

    /// Returns at once.
    pub(super) fn send(&self, notice: Notice) {
        if let Err(error) = self.waiting.try_send(notice) {
            eprintln!("holdfast: a notice is dropped, too many wait: {error}");
        }
    }

    /// Delivers what waits, as far as it can be done in time.
    pub(super) async fn finish(self) {
        drop(self.waiting);
        if timeout(FLUSH, self.delivering).await.is_err() {
            eprintln!("holdfast: some notices could not be delivered in time");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Sink {
    Webhook,
    Mail,
}

struct Receivers {
    client: Client,
    webhook: Option<(Url, Webhook)>,
    mail: Option<Mail>,
}

struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Receivers {
    fn new(sinks: &Sinks) -> Result<Self, Failure> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder()
            .timeout(DEADLINE)
            .user_agent(concat!("holdfast-monitor/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::service("the HTTP client cannot be built", error))?;
        let webhook = match (&sinks.webhook, &sinks.webhook_secret) {
            (Some(url), Some(secret)) => {
                let signer = Webhook::new(secret.expose_secret()).map_err(|_| {
                    Failure::Misused(
                        "--webhook-secret: expected whsec_ and base64 (openssl rand -base64 32)".to_owned(),
                    )
                })?;
                Some((url.clone(), signer))
            }
            _ => None,
        };
        let mail = match (&sinks.smtp, &sinks.mail_from) {
            (Some(url), Some(from)) => Some(Mail::new(url, from.clone(), sinks.mail_to.clone())?),
            _ => None,
        };
        Ok(Self {
            client,
            webhook,
            mail,
        })
    }

    async fn deliver(&self, notice: &Notice) {
        if self.webhook.is_some() {
            self.repeatedly(Sink::Webhook, notice).await;
        }
        if self.mail.is_some() {
            self.repeatedly(Sink::Mail, notice).await;
        }
    }

    async fn repeatedly(&self, sink: Sink, notice: &Notice) {
        for number in 1..=ATTEMPTS {
            let attempt = match sink {
                Sink::Webhook => self.post(notice).await,
                Sink::Mail => self.mail(notice).await,
            };
            match attempt {
                Ok(()) => return,
                Err(problem) if number == ATTEMPTS => {
                    eprintln!("holdfast: a notice could not be delivered by {sink:?}: {problem}");
                }
                Err(_) => tokio::time::sleep(PAUSE * 2_u32.pow(number - 1)).await,
            }
        }
    }

    async fn post(&self, notice: &Notice) -> Result<(), String> {
        let Some((url, signer)) = &self.webhook else {
            return Ok(());
        };
        let body = serde_json::to_vec(&notice).map_err(|error| error.to_string())?;
        let id = message_id(notice);
        let timestamp = clock::now().timestamp();
        let signature = signer
            .sign(&id, timestamp, &body)
            .map_err(|error| error.to_string())?;
        let request = self
            .client
            .post(url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature)
            .body(body);
        // The URL may hold a secret of its receiver.
        let answer = request
            .send()
            .await
            .map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(format!("answered {}", answer.status().as_u16()))
    }

    async fn mail(&self, notice: &Notice) -> Result<(), String> {
        match &self.mail {
            Some(mail) => mail.send(notice).await,
            None => Ok(()),
        }
    }
}

/// Of one notice, at every attempt.
fn message_id(notice: &Notice) -> String {
    let word = match notice.kind {
        NoticeKind::Alert => "alert".to_owned(),
        NoticeKind::Recovery => "recovery".to_owned(),
        NoticeKind::Reminder => format!("reminder-{}", notice.at.timestamp()),
    };
    format!("msg_{}_{word}", notice.id)
}

impl Mail {
    fn new(url: &SecretString, from: Mailbox, to: Vec<Mailbox>) -> Result<Self, Failure> {
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret()).map_err(|_| {
            Failure::Misused("--smtp: expected smtps://user:password@host or smtp://host:port".to_owned())
        })?;
        Ok(Self {
            transport: builder.timeout(Some(DEADLINE)).build(),
            from,
            to,
        })
    }

    async fn send(&self, notice: &Notice) -> Result<(), String> {
        let mut message = Message::builder().from(self.from.clone()).subject(format!(
            "[holdfast] {}: {}",
            notice.severity.as_str(),
            subject(notice)
        ));
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message.body(text(notice)).map_err(|error| error.to_string())?;
        let sending = timeout(DEADLINE, self.transport.send(message)).await;
        match sending {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        }
    }
}

fn subject(notice: &Notice) -> String {
    match notice.kind {
        NoticeKind::Alert => notice.rule.clone(),
        NoticeKind::Reminder => format!("still: {}", notice.rule),
        NoticeKind::Recovery => format!("over: {}", notice.rule),
    }
}

fn text(notice: &Notice) -> String {
    let until = notice
        .until
        .map(|until| format!("until:     {until}\n"))
        .unwrap_or_default();
    let reason = notice
        .reason
        .as_ref()
        .map(|reason| format!("reason:    {reason}\n"))
        .unwrap_or_default();
    format!(
        "{}\n\ntarget:    {}\ncondition: {}\nvalue:     {}\nsince:     {}\n{until}{reason}\nSee docs/runbook.md.\n",
        notice.summary(),
        notice.target,
        notice.condition,
        notice.value,
        notice.since,
    )
}

async fn deliver_all(receivers: Receivers, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        receivers.deliver(&notice).await;
    }
}
