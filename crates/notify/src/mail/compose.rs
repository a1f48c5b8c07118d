//! A mail as the receiver's server gets it: headers, text, and HTML where there is some.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
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
            .raw_header(subject(&self.written.subject));
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

/// The longest word of a subject that is sent as it is: a line has 998 bytes at most (RFC 5322 §2.1.1), with the header's name.
const LONGEST_WORD: usize = 900;

/// Bytes of one encoded word: with its frame and the header's name it has 73 characters, of the 76 that RFC 2047 §2 allows.
const ENCODED_BYTES: usize = 39;

/// Lines are folded between words, so one that fits in no line is encoded, with the whole subject.
fn subject(text: &str) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str("Subject");
    if text.split_whitespace().all(|word| word.len() <= LONGEST_WORD) {
        return HeaderValue::new(name, text.to_owned());
    }
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.floor_char_boundary(ENCODED_BYTES));
        words.push(format!("=?utf-8?b?{}?=", BASE64_STANDARD.encode(word)));
        rest = after;
    }
    HeaderValue::dangerous_new_pre_encoded(name, text.to_owned(), words.join("\r\n "))
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
