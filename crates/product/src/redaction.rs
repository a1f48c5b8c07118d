//! How a payload is shown to callers who may not see its secrets.
//!
//! A kind names its secret fields: one of the code by [`holdfast_jobs::Job::secret_fields`], a declared one by `redact`. The caller decides
//! who may see secrets. What is not of the form that a path expects is hidden whole ([`holdfast_jobs::marks`]).

use reqwest::header::HeaderName;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

pub use holdfast_jobs::marks::REDACTED;
use holdfast_jobs::{Marks, SecretPart};
use holdfast_outbound::is_public;

/// A payload without its secrets; `None`: there are no secret fields.
pub fn redact(marks: &Marks, payload: &RawValue) -> Option<Box<RawValue>> {
    marks.replaced(payload, shown)
}

fn shown(part: SecretPart, value: Value) -> Value {
    match (part, value) {
        (SecretPart::Url, Value::String(url)) => Value::String(redacted_url(&url)),
        (SecretPart::Headers, Value::Object(mut headers)) => {
            for (_, value) in headers.iter_mut().filter(|(name, _)| !is_public_name(name)) {
                *value = Value::from(REDACTED);
            }
            Value::Object(headers)
        }
        _ => Value::from(REDACTED),
    }
}

fn is_public_name(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| is_public(&name))
}

/// A URL without its user, its password, its fragment and the values of its query.
pub fn redacted_url(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return REDACTED.to_owned();
    };
    let named: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    if url.query().is_some() {
        let names = named.iter().map(|name| (name.as_str(), REDACTED));
        url.query_pairs_mut().clear().extend_pairs(names);
    }
    url.set_fragment(None);
    // Only URLs that have no host have no place for a user.
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user && (url.set_username("redacted").is_err() || url.set_password(None).is_err()) {
        return REDACTED.to_owned();
    }
    url.into()
}

/// The scheme and host of a URL whose path is a secret, as that of a private feed.
pub fn redacted_feed(text: &str) -> String {
    let url = Url::parse(text).ok();
    let shown = url.and_then(|url| Some(format!("{}://{}/{REDACTED}", url.scheme(), url.host_str()?)));
    shown.unwrap_or_else(|| REDACTED.to_owned())
}

#[cfg(test)]
mod tests {
    use holdfast_jobs::SecretField;

    use super::*;

    fn shown(kind: &str, payload: &str) -> String {
        let payload: Box<RawValue> = serde_json::from_str(payload).unwrap();
        let fields: &[SecretField] = match kind {
            "http.request" => &[("url", SecretPart::Url), ("headers", SecretPart::Headers)],
            "notify.email" => &[("data", SecretPart::Whole)],
            _ => &[],
        };
        let marks = Marks::of_fields(fields).unwrap();
        redact(&marks, &payload).unwrap_or(payload).get().to_owned()
    }

    #[test]
    fn secrets_of_an_http_request_are_taken_out_and_the_rest_stays() {
        let payload = r#"{"url":"https://u:p%40ss@example.com/x?token=QTOK&page=2#frag","method":"POST",
            "headers":{"authorization":"Bearer SK_LIVE_1","X-Api-Key":"K","accept":"text/html"},"body":"b"}"#;
        let shown = shown("http.request", payload);
        for secret in ["p%40ss", "QTOK", "SK_LIVE_1", "\"K\"", "frag"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        for kept in ["example.com/x", "token=", "POST", "text/html", "\"b\""] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn the_data_of_a_mail_is_taken_out() {
        let shown = shown(
            "notify.email",
            r#"{"to":"ada@example.com","template":"reset","data":{"code":"SECRET-77"}}"#,
        );
        assert!(!shown.contains("SECRET-77") && shown.contains("reset"), "{shown}");
    }

    #[test]
    fn what_cannot_be_read_is_not_shown_and_other_kinds_are_as_they_came() {
        assert_eq!(
            shown("http.request", r#"["https://u:p@example.com"]"#),
            "\"[redacted]\""
        );
        assert!(!shown("http.request", r#"{"url":["https://u:p@example.com"]}"#).contains("u:p"));
        assert!(!shown("http.request", r#"{"url":"no url, but a SECRET"}"#).contains("SECRET"));
        assert_eq!(
            shown("app.own", r#"{ "b": 1e2, "a": 1 }"#),
            r#"{ "b": 1e2, "a": 1 }"#
        );
    }

    #[test]
    fn of_a_feed_the_host_is_shown() {
        let feed = "https://u:p@calendar.example.com/private-abc/basic.ics?key=1";
        assert_eq!(redacted_feed(feed), "https://calendar.example.com/[redacted]");
        assert_eq!(redacted_feed("nonsense"), REDACTED);
    }
}
