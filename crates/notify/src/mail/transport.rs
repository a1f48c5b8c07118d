//! The mail server of the settings, and what its answers mean.
//!
//! Each mail has a connection of its own: mail is not what a worker is fast for, and a connection that was kept is one that
//! may have ended. A certificate is verified against Mozilla's roots, compiled in, or against `smtp.ca_certificate`.

use std::fmt;
use std::time::Duration;

use holdfast_jobs::JobError;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{
    AsyncSmtpTransportBuilder, Error as SmtpError, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT,
};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use url::{Host, Url};

use crate::SmtpSettings;

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
        .map_err(|error| format!("smtp.from is not a sender: {error}"))?;
    let builder = builder(url.expose_secret())?;
    let builder = match encryption(url.expose_secret(), settings.ca_certificate.as_deref())? {
        Some(tls) => builder.tls(tls),
        None => builder,
    };
    let smtp = builder.timeout(Some(settings.timeout)).build();
    Ok(Server { smtp, from })
}

/// The transport that the URL asks for, apart from its encryption. No error repeats the URL, which holds the password.
fn builder(url: &str) -> Result<AsyncSmtpTransportBuilder, String> {
    let unusable = || "smtp.url cannot be used".to_owned();
    let parsed = Url::parse(url).map_err(|_| unusable())?;
    let named = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| unusable())?;
    let Some(Host::Ipv6(address)) = parsed.host() else {
        return Ok(named);
    };
    // The library would look up the address together with the brackets that it has in a URL.
    let is_encrypted = parsed.query_pairs().any(|(name, _)| name == "tls");
    let default_port = match (parsed.scheme(), is_encrypted) {
        ("smtps", _) => SUBMISSIONS_PORT,
        (_, true) => SUBMISSION_PORT,
        (_, false) => SMTP_PORT,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.to_string())
        .port(parsed.port().unwrap_or(default_port));
    let hello = parsed.path().trim_matches('/');
    if !hello.is_empty() {
        builder = builder.hello_name(ClientId::Domain(hello.to_owned()));
    }
    if let Some(password) = parsed.password() {
        let decoded = |text| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(String::from).map_err(|_| unusable())
        };
        let (user, password) = (decoded(parsed.username())?, decoded(password)?);
        builder = builder.credentials(Credentials::new(user, password));
    }
    Ok(builder)
}

/// The encryption that the URL asks for, where it has authorities of its own or an address that only a URL writes in
/// brackets; `None`: it asks for none, or the library's own is right.
fn encryption(url: &str, pem: Option<&str>) -> Result<Option<Tls>, String> {
    let unusable = |_| "smtp.ca_certificate cannot be used".to_owned();
    let url = Url::parse(url).map_err(|_| "smtp.url cannot be used".to_owned())?;
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        _ if pem.is_none() => return Ok(None),
        host => host.map(|host| host.to_string()).unwrap_or_default(),
    };
    let mut parameters = TlsParameters::builder(host);
    if let Some(pem) = pem {
        let authorities = Certificate::from_pem(pem.as_bytes()).map_err(unusable)?;
        parameters = parameters
            .certificate_store(CertificateStore::None)
            .add_root_certificate(authorities);
    }
    let parameters = parameters.build_rustls().map_err(unusable)?;
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
