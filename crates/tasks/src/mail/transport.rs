//! The mail server of the settings, and what its answers mean.
//!
//! Each mail has a connection of its own: mail is not what a worker is fast for, and a connection that was kept is one that
//! may have ended. A certificate is verified against Mozilla's roots, compiled in, or against `smtp.ca_certificate`.

use std::fmt;
use std::time::Duration;

use holdfast_core::config::SmtpSettings;
use holdfast_jobs::JobError;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use secrecy::ExposeSecret;
use url::Url;

/// The enhanced status of a mailbox that does not exist (RFC 3463).
const NO_SUCH_MAILBOX: &str = "5.1.1";

/// How a mail was not sent.
#[derive(Debug)]
pub(super) enum SendFault {
    Failed(JobError),
    /// Its address does not exist, says the server.
    NoSuchMailbox(String),
}

pub(super) struct Transport {
    server: Result<Server, String>,
    timeout: Duration,
}

struct Server {
    smtp: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("configured", &self.server.is_ok())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// What is wrong with the settings is told by every mail: a process that sends none needs no server.
    pub(super) fn new(settings: &SmtpSettings) -> Self {
        Self {
            server: server(settings),
            timeout: settings.timeout,
        }
    }

    /// The sender of all mails.
    ///
    /// # Errors
    /// Permanent: there is no server to send by.
    pub(super) fn from(&self) -> Result<&Mailbox, JobError> {
        Ok(&self.server()?.from)
    }

    fn server(&self) -> Result<&Server, JobError> {
        self.server
            .as_ref()
            .map_err(|problem| JobError::permanent(problem.clone()))
    }

    /// `address`: the receiver's, in lower case; no error repeats it, because errors outlive what is kept of people.
    pub(super) async fn send(&self, message: Message, address: &str) -> Result<(), SendFault> {
        let server = self.server().map_err(SendFault::Failed)?;
        match tokio::time::timeout(self.timeout, server.smtp.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(fault(error, address)),
            Err(_) => {
                let seconds = self.timeout.as_secs_f64();
                let text = format!("the mail server did not take the mail within {seconds} s");
                Err(SendFault::Failed(JobError::transient(text)))
            }
        }
    }
}

fn server(settings: &SmtpSettings) -> Result<Server, String> {
    let (Some(url), Some(from)) = (&settings.url, &settings.from) else {
        return Err("there is no mail server: set smtp.url (SMTP_URL) and smtp.from".to_owned());
    };
    let from = from
        .parse()
        .map_err(|error| format!("smtp.from is no sender: {error}"))?;
    // The error would repeat the URL, which holds the password.
    let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
        .map_err(|_| "smtp.url cannot be used".to_owned())?;
    let builder = match &settings.ca_certificate {
        Some(pem) => match encryption(url.expose_secret(), pem)? {
            Some(tls) => builder.tls(tls),
            None => builder,
        },
        None => builder,
    };
    let smtp = builder.timeout(Some(settings.timeout)).build();
    Ok(Server { smtp, from })
}

/// The encryption that the URL asks for, with authorities of its own; `None`: it asks for none.
fn encryption(url: &str, pem: &str) -> Result<Option<Tls>, String> {
    let unusable = |_| "smtp.ca_certificate cannot be used".to_owned();
    let url = Url::parse(url).map_err(|_| "smtp.url cannot be used".to_owned())?;
    let authorities = Certificate::from_pem(pem.as_bytes()).map_err(unusable)?;
    let parameters = TlsParameters::builder(url.host_str().unwrap_or_default().to_owned())
        .certificate_store(CertificateStore::None)
        .add_root_certificate(authorities)
        .build_rustls()
        .map_err(unusable)?;
    let tls = url.query_pairs().find(|(name, _)| name == "tls");
    Ok(match (url.scheme(), tls.as_ref().map(|(_, value)| &**value)) {
        ("smtps", _) => Some(Tls::Wrapper(parameters)),
        (_, Some("required")) => Some(Tls::Required(parameters)),
        (_, Some("opportunistic")) => Some(Tls::Opportunistic(parameters)),
        _ => None,
    })
}

/// What the server's answer, or its silence, means.
fn fault(error: SmtpError, address: &str) -> SendFault {
    if error.is_permanent() && names(&error, NO_SUCH_MAILBOX) {
        return SendFault::NoSuchMailbox(without(address, &told(&error)));
    }
    // What the client refuses to send (an address that the server cannot take, no way to log in) is no better next time.
    let is_final = error.is_permanent() || error.is_client();
    let text = told(&error);
    let cause: Box<dyn std::error::Error + Send + Sync> = match without(address, &text) {
        clean if clean == text => Box::new(error),
        clean => clean.into(),
    };
    SendFault::Failed(if is_final {
        JobError::permanent(cause)
    } else {
        JobError::transient(cause)
    })
}

/// With its causes.
fn told(error: &SmtpError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// The text without the address, in whatever case a server repeats it.
fn without(address: &str, text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find(address) {
        clean.push_str(&rest[..at]);
        clean.push_str("the address");
        rest = &rest[at + address.len()..];
    }
    clean.push_str(rest);
    clean
}

/// Whether a server's answer begins with this enhanced status.
fn names(error: &SmtpError, status: &str) -> bool {
    let text = std::error::Error::source(error).map(ToString::to_string);
    text.is_some_and(|text| text.split_whitespace().next() == Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_repeats_the_address() {
        let text = "permanent error (550): 5.7.1 <Ada@Example.com> not here, ada@example.com!";
        assert_eq!(
            without("ada@example.com", text),
            "permanent error (550): 5.7.1 <the address> not here, the address!"
        );
        assert_eq!(without("bob@example.com", text), text);
    }
}
