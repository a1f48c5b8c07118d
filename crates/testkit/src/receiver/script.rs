//! What a path asks the receiver to do.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::RecordedRequest;

/// A request, understood.
pub(super) struct Script {
    /// Whom this execution is counted for.
    pub(super) id: Option<String>,
    /// What concurrency is counted by.
    pub(super) key: String,
    action: Action,
}

enum Action {
    Status(u16),
    Slow(Duration),
    FailThenOk(u32),
    RetryAfter(u64),
    Hang,
    Close,
    Redirect(String),
    Echo,
    NotUnderstood,
}

pub(super) enum Outcome {
    Now(Answer),
    After(Duration, Answer),
    Never,
    Close,
}

pub(super) struct Answer {
    status: u16,
    header: Option<(&'static str, String)>,
    body: String,
}

impl Script {
    pub(super) fn of(request: &RecordedRequest) -> Self {
        let segments: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let (id, action) = match segments[..] {
            ["hit", id] => (Some(id), Action::Status(200)),
            ["status", code] => (None, code.parse().map_or(Action::NotUnderstood, Action::Status)),
            ["slow", ms] => (
                None,
                ms.parse().map_or(Action::NotUnderstood, |ms| {
                    Action::Slow(Duration::from_millis(ms))
                }),
            ),
            ["fail-then-ok", n, id] => (
                Some(id),
                n.parse().map_or(Action::NotUnderstood, Action::FailThenOk),
            ),
            ["retry-after", secs, id] => (
                Some(id),
                secs.parse().map_or(Action::NotUnderstood, Action::RetryAfter),
            ),
            ["hang"] => (None, Action::Hang),
            ["close"] => (None, Action::Close),
            ["redirect"] => (
                None,
                request
                    .query_value("to")
                    .map_or(Action::NotUnderstood, Action::Redirect),
            ),
            ["echo"] => (None, Action::Echo),
            _ => (None, Action::Status(200)),
        };
        let id = request.query_value("id").or_else(|| id.map(percent_decoded));
        let key = request
            .query_value("key")
            .unwrap_or_else(|| segments[0].to_owned());
        Self { id, key, action }
    }

    /// `occurrence`: how often this id has been seen now, this time included.
    pub(super) fn play(&self, request: &RecordedRequest, occurrence: u32) -> Outcome {
        Outcome::Now(match &self.action {
            Action::Status(code) => Answer::status(*code),
            Action::Slow(delay) => return Outcome::After(*delay, Answer::status(200)),
            Action::FailThenOk(failures) => Answer::status(if occurrence <= *failures { 503 } else { 200 }),
            Action::RetryAfter(secs) if occurrence == 1 => {
                Answer::with_header(429, "retry-after", secs.to_string())
            }
            Action::RetryAfter(_) => Answer::status(200),
            Action::Hang => return Outcome::Never,
            Action::Close => return Outcome::Close,
            Action::Redirect(to) => Answer::with_header(302, "location", to.clone()),
            Action::Echo => Answer::json(&echo(request)),
            Action::NotUnderstood => Answer {
                body: "no such script\n".to_owned(),
                ..Answer::status(400)
            },
        })
    }
}

impl Answer {
    fn status(status: u16) -> Self {
        Self {
            status,
            header: None,
            body: String::new(),
        }
    }

    fn with_header(status: u16, name: &'static str, value: String) -> Self {
        Self {
            header: Some((name, value)),
            ..Self::status(status)
        }
    }

    fn json(body: &Value) -> Self {
        let header = Some(("content-type", "application/json".to_owned()));
        Self {
            status: 200,
            header,
            body: body.to_string(),
        }
    }

    pub(super) fn encode(&self, keep: bool) -> Vec<u8> {
        let mut text = String::with_capacity(128 + self.body.len());
        let _ = write!(text, "HTTP/1.1 {} -\r\n", self.status);
        if let Some((name, value)) = &self.header {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if !keep {
            text.push_str("connection: close\r\n");
        }
        if matches!(self.status, 204 | 304) {
            text.push_str("\r\n");
        } else {
            let _ = write!(text, "content-length: {}\r\n\r\n{}", self.body.len(), self.body);
        }
        text.into_bytes()
    }
}

fn echo(request: &RecordedRequest) -> Value {
    let headers: serde_json::Map<String, Value> = request
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    json!({
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": headers,
        "body": String::from_utf8_lossy(&request.body),
    })
}

/// Decodes `%XX`; what is not a valid escape stays as it is.
pub(super) fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let escape = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn percent_escapes_are_decoded_and_bad_ones_kept() {
        assert_eq!(percent_decoded("http%3A%2F%2Fx%2f%C3%A4"), "http://x/ä");
        assert_eq!(percent_decoded("100%&%zz%4"), "100%&%zz%4");
    }
}
