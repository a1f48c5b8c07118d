//! Who looks at a page: the cookie of a session, its refresh, and whether a write comes from our own pages.
//!
//! The cookie holds the token of a session (`POST /v1/auth/login`) or an API key, and nothing else is stored: every API process
//! serves every console. It is `HttpOnly` and `SameSite=Strict`; with TLS it is named `__Host-holdfast` and `Secure`.
//!
//! # Invariants
//! - A token is in the cookie and in no page, address or log line.
//! - A request that changes something is served only if a page of this origin sent it.
//! - A token is refreshed once in this process, however many requests of a browser find it old: the API ends a session whose token is
//!   refreshed twice.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_core::clock;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::api::{Api, ApiRequest};
use crate::failure::Failure;
use crate::json::Json;

/// Behind TLS. The prefix binds it to this host and to TLS.
const SECURE_COOKIE: &str = "__Host-holdfast";

/// On this machine, over plain HTTP.
const PLAIN_COOKIE: &str = "holdfast";

/// Longest token that is taken from a cookie or a form, in bytes: as the API reads it.
const MAX_TOKEN: usize = 1_024;

/// How long a refreshed token is known by the one before: requests that were sent with that one are still under way.
const KNOWN_FOR: Duration = Duration::from_secs(120);

/// Most refreshed tokens that are known.
const MAX_KNOWN: usize = 10_000;

/// Whether the cookie goes over plain HTTP: the browser is on this machine, and no proxy is between.
fn is_plain(request: &HttpRequest) -> bool {
    is_for_this_machine(request) && !request.headers().contains_key("x-forwarded-proto")
}

/// Whether the browser has asked for this machine by one of its own names.
pub(crate) fn is_for_this_machine(request: &HttpRequest) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    host.is_some_and(holdfast_http::is_this_machine)
}

fn cookie_name(request: &HttpRequest) -> &'static str {
    if is_plain(request) {
        PLAIN_COOKIE
    } else {
        SECURE_COOKIE
    }
}

/// A cookie of this request.
pub(crate) fn cookie(request: &HttpRequest, name: &str) -> Option<String> {
    let values = request.headers().get_all(header::COOKIE);
    let mut pairs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(given, _)| *given == name)?;
    Some(value.to_owned())
}

/// A text in a cookie, encoded: a cookie cannot carry every character.
pub(crate) fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub(crate) fn decoded(value: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()
}

/// The token in the cookie.
pub(crate) fn token_of(request: &HttpRequest) -> Option<String> {
    decoded(&cookie(request, cookie_name(request))?).filter(|token| is_token(token))
}

/// Whether a text can be a token: it goes into a header.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `Set-Cookie` of a token; `None` ends the session of this browser.
pub(crate) fn set_token(request: &HttpRequest, token: Option<&str>) -> Option<HeaderValue> {
    let secure = if is_plain(request) { "" } else { "; Secure" };
    let (value, age) = match token {
        Some(token) => (encoded(token), ""),
        None => (String::new(), "; Max-Age=0"),
    };
    let name = cookie_name(request);
    let mut cookie = HeaderValue::from_str(&format!(
        "{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{age}"
    ))
    .ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// `Set-Cookie` of something that is no secret, for the pages of the console.
pub(crate) fn set_plain(name: &str, value: &str, path: &str, max_age: u64) -> Option<HeaderValue> {
    let text = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict; Max-Age={max_age}");
    HeaderValue::from_str(&text).ok()
}

/// Refuses a write that another site's page has sent. Browsers say where a request comes from; one that does not must name our origin.
pub(crate) fn refuse_other_sites(request: &HttpRequest) -> Result<(), Failure> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_ours = if let Some(site) = text("sec-fetch-site") {
        site == "same-origin"
    } else {
        let origin = text("origin").and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(_, authority)| Some(authority) == text("host"))
    };
    if is_ours {
        return Ok(());
    }
    Err(Failure::forbidden(
        "A page of another site has sent this, or the browser does not say which one did. Nothing was changed.",
    ))
}

/// A link on another site opened the page, so the browser kept the `SameSite=Strict` cookie back. A reload by ourselves sends it.
pub(crate) fn lacks_cookie_of_link(request: &HttpRequest) -> bool {
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    site == Some(b"cross-site") && request.method() == Method::GET && token_of(request).is_none()
}

/// Seconds since the epoch at which a session's token was made and ends. `None`: it is an API key.
fn times_of(token: &str) -> Option<(u64, u64)> {
    let claims = token.split('.').nth(1)?;
    if token.split('.').count() != 3 {
        return None;
    }
    let claims = Json::parse(&decoded(claims)?).ok()?;
    Some((claims.get("iat").as_count()?, claims.get("exp").as_count()?))
}

/// Whether a token is worth its refresh: half of its time is over, for a background request three quarters.
fn is_due(token: &str, in_background: bool) -> bool {
    let Some((made, ends)) = times_of(token) else {
        return false;
    };
    let (now, lifetime) = (clock::unix_millis() / 1_000, ends.saturating_sub(made));
    let share = if in_background { lifetime / 4 } else { lifetime / 2 };
    now + share >= ends
}

type Hash = [u8; 32];
type RefreshCell = Arc<OnceCell<Option<String>>>;

/// The tokens that this process has refreshed lately.
#[derive(Default)]
pub(crate) struct Refreshes(Mutex<HashMap<Hash, (Instant, RefreshCell)>>);

impl fmt::Debug for Refreshes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refreshes")
    }
}

impl Refreshes {
    /// The token to go on with, if it is another one.
    pub(crate) async fn next_of(
        &self,
        token: &str,
        api: &Api,
        request: &HttpRequest,
        in_background: bool,
    ) -> Option<String> {
        let cell = self.cell(token, is_due(token, in_background))?;
        // A failed refresh leaves the cell empty: the next request tries again.
        let next = cell.get_or_try_init(|| async {
            let refresh = ApiRequest::new(Method::POST, &["v1", "auth", "refresh"]);
            let opened = api.call(refresh, request, Some(token)).await?.document()?;
            Ok::<_, Failure>(opened.get("access_token").as_text().map(ToOwned::to_owned))
        });
        next.await.ok().cloned().flatten()
    }

    fn cell(&self, token: &str, is_due: bool) -> Option<RefreshCell> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hash: Hash = Sha256::digest(token).into();
        if let Some((_, cell)) = known.get(&hash) {
            return (is_due || cell.initialized()).then(|| Arc::clone(cell));
        }
        if !is_due {
            return None;
        }
        let now = Instant::now();
        known.retain(|_, (since, _)| now.duration_since(*since) < KNOWN_FOR);
        if known.len() >= MAX_KNOWN {
            return None;
        }
        let cell = RefreshCell::default();
        known.insert(hash, (now, Arc::clone(&cell)));
        Some(cell)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_write_comes_from_our_own_pages() {
        let request = |headers: &[(&'static str, &'static str)]| {
            let mut request = TestRequest::post();
            for header in headers {
                request = request.insert_header(*header);
            }
            request.to_http_request()
        };
        let host = ("host", "jobs.example.com");
        for ours in [
            &[host, ("sec-fetch-site", "same-origin")][..],
            &[host, ("origin", "https://jobs.example.com")],
        ] {
            assert!(refuse_other_sites(&request(ours)).is_ok(), "{ours:?}");
        }
        for other in [
            &[host][..],
            &[host, ("sec-fetch-site", "cross-site")],
            &[
                host,
                ("sec-fetch-site", "same-site"),
                ("origin", "https://jobs.example.com"),
            ],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("origin", "https://evil.example.com")],
            &[host, ("origin", "null")],
        ] {
            assert!(refuse_other_sites(&request(other)).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_cookie_is_bound_to_tls_except_on_this_machine() {
        let here = TestRequest::get()
            .insert_header(("host", "127.0.0.1:8080"))
            .to_http_request();
        let set = set_token(&here, Some("hf_1")).unwrap();
        assert_eq!(set, "holdfast=aGZfMQ; Path=/; HttpOnly; SameSite=Strict");
        let there = TestRequest::get()
            .insert_header(("host", "jobs.example.com"))
            .insert_header(("cookie", "a=b; __Host-holdfast=aGZfMQ"))
            .to_http_request();
        let set = set_token(&there, Some("hf_1")).unwrap();
        assert_eq!(
            set,
            "__Host-holdfast=aGZfMQ; Path=/; HttpOnly; SameSite=Strict; Secure"
        );
        assert_eq!(token_of(&there).as_deref(), Some("hf_1"));
        assert_eq!(token_of(&here), None);
    }

    #[test]
    fn a_token_is_refreshed_when_half_of_its_time_is_over() {
        let now = clock::unix_millis() / 1_000;
        let token = |made: u64, ends: u64| {
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{made},"exp":{ends}}}"#));
            format!("h.{claims}.s")
        };
        assert!(!is_due(&token(now - 100, now + 800), false));
        assert!(is_due(&token(now - 500, now + 400), false));
        assert!(!is_due(&token(now - 500, now + 400), true));
        assert!(is_due(&token(now - 800, now + 100), true));
        assert!(!is_due("hf_0123", false), "an API key");
    }
}
