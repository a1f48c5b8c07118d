//! The settings of notifications, webhooks and mail.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::declare::{certificates, optional_text, optional_url, seconds, secret};
use holdfast_core::config::{Reader, Settings};
use holdfast_core::settings;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

settings! {
    ["notifications"]
    /// Notifications (POST /v1/notifications) and webhooks (/v1/webhooks).
    #[derive(Debug, Clone)]
    pub struct NotificationsSettings {
        /// Longest time that a webhook's receiver may take to answer, in seconds, {range}. Standard Webhooks asks for 15 to 30.
        webhook_timeout: Duration = seconds(20.0, 0.1..=60.0);
        /// An endpoint that has failed for this long, without a single success, is disabled, in seconds, {range}. Five days.
        webhook_disable_after: Duration = seconds(432_000.0, 60.0..=31_536_000.0);
        /// How long delivery attempts and the Idempotency-Keys of POST /v1/notifications are stored, in seconds, {range}. Three
        /// days.
        retain_deliveries: Duration = seconds(259_200.0, 3600.0..=31_536_000.0);
        /// Public URL of the API, such as https://jobs.example.com, for links in mails. Empty: mails have no link to unsubscribe.
        public_url: Option<Url> =
            optional_url("give the URL under which people reach the API, such as https://jobs.example.com");
    }
}

settings! {
    ["smtp"]
    /// The mail server, for the kind `notify.email`.
    #[derive(Debug, Clone)]
    pub struct SmtpSettings {
        /// smtps://user:password@host (TLS), smtp://user:password@host:587?tls=required (STARTTLS), or smtp://localhost:1025
        /// (neither, for development). A secret. Empty: no mail can be sent.
        url: Option<SecretString> = secret().variables(&["SMTP_URL"]).then(check_url);
        /// Sender of mails: an address, or "Name <address>". Required if `url` is set.
        from: Option<String> = optional_text();
        /// Certificate authority for the server, instead of the public ones: a PEM text, or the path of a file that holds one.
        ca_certificate: Option<Arc<str>> = certificates();
        /// Longest time that the server may take for one mail, in seconds, {range}.
        timeout: Duration = seconds(30.0, 0.1..=120.0);
    }
    check = check_sender;
}

/// A mail server needs a sender.
fn check_sender(smtp: &SmtpSettings, reader: &mut Reader<'_>, _: &Settings) {
    let is_sender = |from: &String| from.contains('@') && !from.chars().any(char::is_control);
    if !smtp.from.as_ref().is_none_or(is_sender) || (smtp.from.is_none() && smtp.url.is_some()) {
        let problem = "the mail server is set, so it takes the address that mails come from".to_owned();
        let fix = "give an address, such as \"Holdfast <no-reply@example.com>\"".to_owned();
        reader.fault_once("smtp.from", || (problem, fix));
    }
}

fn check_url(reader: &mut Reader<'_>, path: &str, url: Option<SecretString>) -> Option<SecretString> {
    if let Some(Err(problem)) = url.as_ref().map(|url| check_smtp_url(url.expose_secret())) {
        let fix = "give smtps://user:password@host (TLS), smtp://user:password@host:587?tls=required (STARTTLS), or \
                   smtp://localhost:1025 (neither, for development)";
        reader.fault_once(path, || (problem.to_owned(), fix.to_owned()));
    }
    url
}

/// Never with the URL itself: it may hold a password.
fn check_smtp_url(url: &str) -> Result<(), &'static str> {
    let url = Url::parse(url).map_err(|_| "it is not a URL")?;
    if !url.has_host() {
        return Err("it names no host");
    }
    let tls = url.query_pairs().find(|(name, _)| name == "tls");
    match (url.scheme(), tls.as_ref().map(|(_, value)| &**value)) {
        ("smtps", None) | ("smtp", None | Some("required" | "opportunistic")) => Ok(()),
        ("smtps" | "smtp", _) => Err("its tls is neither required nor opportunistic"),
        _ => Err("it begins neither with smtps:// nor with smtp://"),
    }
}
