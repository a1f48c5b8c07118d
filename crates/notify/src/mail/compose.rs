//! A mail as the receiver's server gets it: headers, text, and HTML where there is some.

use holdfast_jobs::JobError;
use holdfast_product::mail_address::with_ascii_domain;
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use sha2::{Digest, Sha256};

use super::render::RenderedMail;

/// What is put into an envelope.
pub(super) struct Letter<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) to: Mailbox,
    pub(super) reply_to: Option<Mailbox>,
    pub(super) message_id: &'a str,
    /// By which the reader unsubscribes.
    pub(super) link: Option<String>,
    pub(super) written: RenderedMail,
}

impl Letter<'_> {
    /// # Errors
    /// Permanent: it cannot be a mail.
    pub(super) fn message(self) -> Result<Message, JobError> {
        let mut message = Message::builder()
            .from(with_ascii_domain(self.from.clone()))
            .to(with_ascii_domain(self.to))
            .date(holdfast_core::clock::now().into())
            .message_id(Some(self.message_id.to_owned()))
            .subject(&self.written.subject);
        if let Some(reply_to) = self.reply_to {
            message = message.reply_to(with_ascii_domain(reply_to));
        }
        if let Some(link) = self.link {
            let header = |name, text| HeaderValue::new(HeaderName::new_from_ascii_str(name), text);
            message = message
                .raw_header(header("List-Unsubscribe", format!("<{link}>")))
                .raw_header(header(
                    "List-Unsubscribe-Post",
                    "List-Unsubscribe=One-Click".to_owned(),
                ));
        }
        let RenderedMail { text, html, .. } = self.written;
        let message = match html {
            Some(html) => message.multipart(MultiPart::alternative_plain_html(text, html)),
            None => message.singlepart(SinglePart::plain(text)),
        };
        message.map_err(JobError::permanent)
    }
}

/// The same for every attempt, and for every job of the same key and address.
pub(super) fn message_id(key: &str, address: &str, from: &Mailbox) -> String {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update([0]);
    hash.update(address);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    let digest = uuid::Uuid::from_bytes(digest).simple();
    format!("<{digest}@{}>", from.email.domain())
}
