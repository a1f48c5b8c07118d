//! Cached answers, for the routes that opt in.
//!
//! | route | fresh for | forgotten by |
//! | --- | --- | --- |
//! | `GET /v1/queues` | `cache.lists_ttl_seconds` | pause, resume |
//! | `GET /v1/workers` | `cache.lists_ttl_seconds` | |
//! | `GET /v1/stats` | `cache.lists_ttl_seconds` | |
//! | `GET /v1/events` | `cache.api_response_ttl_seconds` | a change of any event, by whoever made it |
//!
//! The first three are polled by dashboards, cost the database a count of the table, and may be a second old. An answer is kept
//! under method, path, canonical query and identity: what one key was told is never told to another, and HEAD is
//! answered from what GET would say. It is also kept under a fingerprint of the database, for those who let two
//! deployments share one Redis. Only answers with status 200 are kept.
//!
//! With the database away, an answer past its time is served within `cache.stale_if_error_seconds`, marked
//! `X-Cache: stale` with its `Age`. `Cache-Control: no-cache` in a request bypasses all this. Every answer carries a
//! strong `ETag`, the hash of its body, and `If-None-Match` is honoured with 304.
//!
//! `/openapi.json` is a constant: it has an `ETag` and a time to be kept by clients, and needs no cache here.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_cache::{Cache, CachedValue, Key, LoadError, Namespace, Source};
use holdfast_core::config::Settings;
use secrecy::ExposeSecret;
use serde::Serialize;
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::caller::Caller;
use crate::context::{ServerContext, json};
use crate::problem::{Problem, ProblemKind};

/// How an answer came about: `hit`, `stale`, `miss` or `bypass`.
pub const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// An ETag without its quotes: 16 bytes of SHA-256 as base64url.
const TAG: usize = 22;

/// A route that opts in.
pub struct CachedRoute {
    pub namespace: Namespace<Bytes>,
    pub lifetime: Lifetime,
}

/// How long the answers of a route are fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// `cache.lists_ttl_seconds`.
    List,
    /// `cache.api_response_ttl_seconds`.
    Answer,
}

impl fmt::Debug for CachedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedRoute")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// The cached answers of one server.
#[derive(Debug)]
pub struct Responses {
    cache: Cache,
    /// Tells deployments on different databases apart.
    deployment: String,
    lists: Duration,
    answers: Duration,
    stale_if_error: Duration,
}

impl Responses {
    pub fn new(cache: Cache, settings: &Settings) -> Self {
        let digest = Sha256::digest(settings.database.url.expose_secret());
        Self {
            cache,
            deployment: URL_SAFE_NO_PAD.encode(&digest[..9]),
            lists: settings.cache.lists_ttl,
            answers: settings.cache.api_response_ttl,
            stale_if_error: settings.cache.stale_if_error,
        }
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// How long its answers are fresh; zero: they are not kept.
    fn fresh(&self, route: &CachedRoute) -> Duration {
        match route.lifetime {
            Lifetime::List => self.lists,
            Lifetime::Answer => self.answers,
        }
    }

    /// Forgets every answer of a route, on every server.
    pub async fn forget(&self, route: &CachedRoute) {
        if !self.fresh(route).is_zero() {
            self.cache.bump(&route.namespace).await;
        }
    }

    fn key(&self, request: &HttpRequest, caller: &Caller, route: &CachedRoute) -> Key<Bytes> {
        let query = canonical(request.query_string());
        let namespace = route
            .namespace
            .ttl(self.fresh(route))
            .stale(Duration::ZERO, self.stale_if_error);
        // HEAD has no answer of its own.
        namespace.key(&[
            "GET",
            self.deployment.as_str(),
            request.path(),
            query.as_str(),
            caller.to_string().as_str(),
        ])
    }
}

impl ServerContext {
    /// Answers from the cache, or with what `build` brings. `build` runs where pooled connections outlive it.
    pub async fn cached<T, E>(
        &self,
        request: &HttpRequest,
        caller: &Caller,
        route: &CachedRoute,
        build: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<HttpResponse, Problem>
    where
        T: Serialize + Send + 'static,
        E: Send + 'static,
        Problem: From<E>,
    {
        if self.responses.fresh(route).is_zero() || bypasses(request) {
            let mut response = json(StatusCode::OK, &self.on_runtime(build).await?)?;
            response
                .headers_mut()
                .insert(X_CACHE, HeaderValue::from_static("bypass"));
            return Ok(response);
        }
        let key = self.responses.key(request, caller, route);
        let load = move || async move { tagged_json(&build.await?) };
        let found = self.responses.cache.get_or_load(&key, load).await;
        found
            .map(|found| respond(request, &found))
            .map_err(|error| problem(&error))
    }
}

/// An answer of which only the client keeps a copy.
pub fn constant(request: &HttpRequest, tag: &str, body: &Bytes, kept: &'static str) -> HttpResponse {
    let mut response = unless_known(request, tag);
    response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static(kept)));
    finish(response, body)
}

/// The ETag of a body, without its quotes.
pub fn tag_of(body: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(body)[..16])
}

/// What is cached: the ETag, and the body behind it.
pub fn tagged(body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(TAG + body.len());
    bytes.put_slice(tag_of(body).as_bytes());
    bytes.put_slice(body);
    bytes.freeze()
}

fn tagged_json(body: &impl Serialize) -> Result<Bytes, Problem> {
    let text = serde_json::to_vec(body).map_err(Problem::internal)?;
    Ok(tagged(&text))
}

/// The answer to this request from what is cached.
pub fn respond(request: &HttpRequest, found: &CachedValue<Bytes>) -> HttpResponse {
    let tag = found
        .value
        .get(..TAG)
        .and_then(|tag| std::str::from_utf8(tag).ok());
    let mut response = unless_known(request, tag.unwrap_or_default());
    let word = match found.source {
        Source::Local | Source::Redis => "hit",
        Source::Stale => "stale",
        Source::Loaded => "miss",
    };
    let max_age = found.fresh_for.as_secs();
    response
        .insert_header((X_CACHE, HeaderValue::from_static(word)))
        .insert_header((header::CACHE_CONTROL, format!("private, max-age={max_age}")))
        .insert_header((header::VARY, HeaderValue::from_static("authorization")))
        .insert_header((header::AGE, found.age.as_secs()));
    finish(response, &found.value.slice(TAG.min(found.value.len())..))
}

/// 304 if the client has this very answer, and 200 otherwise.
fn unless_known(request: &HttpRequest, tag: &str) -> HttpResponseBuilder {
    let status = if knows(request, tag) {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    };
    let mut response = HttpResponse::build(status);
    response.insert_header((header::ETAG, format!("\"{tag}\"")));
    response
}

fn finish(mut response: HttpResponseBuilder, body: &Bytes) -> HttpResponse {
    let mut answer = response.finish();
    if answer.status() == StatusCode::NOT_MODIFIED {
        return answer;
    }
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.set_body(actix_web::body::BoxBody::new(body.clone()))
}

/// `If-None-Match`: `*`, or a list that has the tag. A weak one is the same answer too, as GET compares them.
fn knows(request: &HttpRequest, tag: &str) -> bool {
    let values = request.headers().get_all(header::IF_NONE_MATCH);
    let mut tags = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|one| one.trim().trim_start_matches("W/"));
    tags.any(|one| one == "*" || one.strip_prefix('"').and_then(|one| one.strip_suffix('"')) == Some(tag))
}

/// The client wants an answer that was made for it.
fn bypasses(request: &HttpRequest) -> bool {
    let values = request
        .headers()
        .get_all(header::CACHE_CONTROL)
        .chain(request.headers().get_all(header::PRAGMA));
    let mut words = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    words.any(|word| {
        matches!(
            word.trim().to_ascii_lowercase().as_str(),
            "no-cache" | "no-store" | "max-age=0"
        )
    })
}

/// Parameters in one order and one spelling.
fn canonical(query: &str) -> String {
    if query.is_empty() {
        return String::new();
    }
    let mut pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    pairs.sort();
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

/// What one of those who waited for a failed load is told.
fn problem(error: &LoadError<Problem>) -> Problem {
    match error {
        LoadError::Failed(problem) => problem.for_another(),
        LoadError::TimedOut => Problem::new(ProblemKind::TimedOut, "there was no answer in time; try again"),
        LoadError::Unencodable(_) | LoadError::Lost => Problem::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_query_has_one_spelling() {
        assert_eq!(canonical("b=2&a=1"), canonical("a=1&b=2"));
        assert_eq!(canonical("a=%41"), canonical("a=A"));
        assert_ne!(canonical("a=1&b=2"), canonical("a=1%26b=2"));
        assert_eq!(canonical(""), "");
    }

    #[test]
    fn a_known_answer_is_known_however_it_is_named() {
        for (sent, known) in [
            ("\"tag\"", true),
            ("W/\"tag\"", true),
            ("\"other\", \"tag\"", true),
            ("*", true),
            ("tag", false),
            ("\"other\"", false),
            ("\"tag", false),
        ] {
            let request = TestRequest::default()
                .insert_header((header::IF_NONE_MATCH, sent))
                .to_http_request();
            assert_eq!(knows(&request, "tag"), known, "{sent}");
        }
    }

    #[test]
    fn a_client_may_ask_for_an_answer_of_its_own() {
        for (name, sent, bypass) in [
            ("cache-control", "no-cache", true),
            ("cache-control", "max-age=60, No-Store", true),
            ("pragma", "no-cache", true),
            ("cache-control", "max-age=60", false),
        ] {
            let request = TestRequest::default()
                .insert_header((name, sent))
                .to_http_request();
            assert_eq!(bypasses(&request), bypass, "{name}: {sent}");
        }
    }
}
