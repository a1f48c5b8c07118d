//! What an `http.request` job keeps of the answer.
//!
//! The request has been made by now, so nothing about its answer may fail the job: a result is cut to what the
//! ledger takes ([`ResultLimit`]), measured as the JSON that is stored, and a body that SQL cannot hold as text is
//! stored as base64.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemars::JsonSchema;
use serde::Serialize;

use holdfast_outbound::{Answer, shown};

/// Headers of the answer that the result keeps: what it is, and how to find it again.
const KEPT_HEADERS: [&str; 10] = [
    "content-language",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "link",
    "location",
    "request-id",
    "retry-after",
    "x-request-id",
];
/// Longer header values are left out.
const MAX_HEADER_VALUE: usize = 1024;
/// What a body adds to the JSON around it: its name, quotes, a comma, and the `truncated` mark.
const BODY_FRAME: usize = r#","body_base64":"","truncated":true"#.len();

/// Largest result in bytes of JSON; the runner discards jobs whose results are larger.
#[derive(Debug, Clone, Copy)]
pub struct ResultLimit(pub usize);

/// What came back.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HttpResult {
    pub status: u16,
    /// Origin and path of the URL that answered, if redirects led elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirected_to: Option<String>,
    /// Some of the answer's headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<&'static str, String>,
    pub elapsed_ms: u64,
    /// The answer, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The answer, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Only the beginning of the answer is here: it was longer than `http_request.max_response_bytes`, or the
    /// result would have been longer than a result may be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl HttpResult {
    pub(super) fn of(answer: &Answer, ResultLimit(limit): ResultLimit) -> Self {
        let mut result = Self {
            status: answer.status.as_u16(),
            redirected_to: (answer.redirects > 0).then(|| shown(&answer.url)),
            headers: kept_headers(answer),
            elapsed_ms: answer.elapsed.as_millis() as u64,
            body: None,
            body_base64: None,
            truncated: answer.truncated,
        };
        if result.encoded_len() > limit {
            result.headers.clear();
        }
        let room = limit.saturating_sub(result.encoded_len() + BODY_FRAME);
        result.keep_body(&answer.body, room);
        result
    }

    fn encoded_len(&self) -> usize {
        // A struct of strings and numbers always encodes.
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }

    fn keep_body(&mut self, body: &[u8], room: usize) {
        if body.is_empty() {
            return;
        }
        let kept = if let Some(text) = storable_text(body, self.truncated) {
            let kept = beginning(text, room);
            self.body = Some(kept.to_owned());
            self.truncated |= kept.len() < text.len();
            kept.len()
        } else {
            let kept = body.len().min(room / 4 * 3);
            self.body_base64 = Some(BASE64.encode(&body[..kept]));
            self.truncated |= kept < body.len();
            kept
        };
        if kept == 0 {
            (self.body, self.body_base64) = (None, None);
        }
    }
}

fn kept_headers(answer: &Answer) -> BTreeMap<&'static str, String> {
    let header = |&name: &&'static str| {
        let value = answer.headers.get(name)?.to_str().ok()?;
        (value.len() <= MAX_HEADER_VALUE).then(|| (name, value.to_owned()))
    };
    KEPT_HEADERS.iter().filter_map(header).collect()
}

/// The body as text: UTF-8 without NUL, which marks what is binary. A cut through a
/// character at the end of a truncated body is forgiven.
fn storable_text(body: &[u8], truncated: bool) -> Option<&str> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) if truncated && error.error_len().is_none() => {
            std::str::from_utf8(&body[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// As much of `text` as JSON writes in `room` bytes.
fn beginning(text: &str, room: usize) -> &str {
    /// The longest form of a byte: `\u0001`.
    const LONGEST: usize = 6;
    if text.len() <= room / LONGEST {
        return text;
    }
    let mut used = 0;
    let beyond = text.char_indices().find(|(_, character)| {
        used += encoded_len(*character);
        used > room
    });
    beyond.map_or(text, |(end, _)| &text[..end])
}

fn encoded_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        ..' ' => 6,
        _ => character.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::*;

    fn answer(body: &[u8]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "x/y".parse().unwrap());
        headers.insert("link", "x".repeat(MAX_HEADER_VALUE + 1).parse().unwrap());
        Answer {
            status: StatusCode::OK,
            headers,
            body: Bytes::copy_from_slice(body),
            truncated: false,
            url: "http://example.org/".parse().unwrap(),
            redirects: 0,
            elapsed: Duration::from_millis(7),
        }
    }

    #[test]
    fn a_result_never_exceeds_the_limit_and_wastes_little_of_it() {
        let every_ascii: String = (1..128_u8).map(char::from).collect();
        for body in [
            every_ascii.repeat(20).into_bytes(),
            "\"\\\n".repeat(1000).into_bytes(),
            "é€𝄞".repeat(1000).into_bytes(),
            vec![0xff; 4000],
        ] {
            for limit in 200..260 {
                let result = HttpResult::of(&answer(&body), ResultLimit(limit));
                let json = serde_json::to_string(&result).unwrap();
                assert!(
                    result.truncated && json.len() <= limit && json.len() + 16 > limit,
                    "{limit} {json}"
                );
            }
        }
    }

    #[test]
    fn what_fits_is_kept_whole_and_what_cannot_fit_is_left_out() {
        let json =
            |limit| serde_json::to_string(&HttpResult::of(&answer(b"text"), ResultLimit(limit))).unwrap();
        let whole = r#"{"status":200,"headers":{"content-type":"x/y"},"elapsed_ms":7,"body":"text"}"#;
        assert_eq!(json(1000), whole);
        assert_eq!(
            json(70),
            r#"{"status":200,"headers":{"content-type":"x/y"},"elapsed_ms":7,"truncated":true}"#
        );
        assert_eq!(json(0), r#"{"status":200,"elapsed_ms":7,"truncated":true}"#);
    }
}
