//! A Holdfast API, spoken to over HTTP.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

/// Longest wait for an answer; a long poll adds its own.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Problems that say no more than that what was asked for is not there.
const NOT_THERE: [&str; 3] = [":job-not-found", ":batch-not-found", ":schedule-not-found"];

#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the API key has characters that no HTTP header can carry")]
    InvalidKey,
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    #[error("the API at {address} cannot be reached")]
    Unreachable { address: String, source: reqwest::Error },
    /// The API's own words.
    #[error("the API refused ({status}): {problem}")]
    Refused { status: StatusCode, problem: String },
    #[error("the answer is not from a Holdfast API ({0})")]
    Unintelligible(StatusCode),
}

/// RFC 9457, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    #[serde(default)]
    detail: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    base: Url,
}

impl Api {
    pub(crate) fn new(base: Url, key: Option<&SecretString>) -> Result<Self, ApiError> {
        // One provider of cryptography for the process; it is there already if another part has installed it.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(key) = key {
            let bearer = format!("Bearer {}", key.expose_secret());
            let mut bearer = HeaderValue::try_from(bearer).map_err(|_| ApiError::InvalidKey)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let client = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_DEADLINE)
            .user_agent(concat!("holdfast-cli/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ApiError::Client)?;
        Ok(Self { client, base })
    }

    /// The JSON at a path; `None` if there is no such job, batch or schedule.
    pub(crate) async fn get(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        wait: Duration,
    ) -> Result<Option<Value>, ApiError> {
        self.send(self.request(Method::GET, path, query).timeout(DEADLINE + wait))
            .await
    }

    /// What a POST without a body answers; `None` if there is no such job, batch or schedule.
    pub(crate) async fn post(&self, path: &[&str]) -> Result<Option<Value>, ApiError> {
        self.send(self.request(Method::POST, path, &[]).timeout(DEADLINE))
            .await
    }

    /// What a POST with a JSON body answers.
    pub(crate) async fn post_json(
        &self,
        path: &[&str],
        body: &Value,
        idempotency_key: Option<&str>,
    ) -> Result<Value, ApiError> {
        let mut request = self.request(Method::POST, path, &[]).timeout(DEADLINE).json(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.send(request)
            .await?
            .ok_or(ApiError::Unintelligible(StatusCode::NOT_FOUND))
    }

    /// What a PUT with a JSON body answers.
    pub(crate) async fn put_json(&self, path: &[&str], body: &Value) -> Result<Value, ApiError> {
        let request = self.request(Method::PUT, path, &[]).timeout(DEADLINE).json(body);
        self.send(request)
            .await?
            .ok_or(ApiError::Unintelligible(StatusCode::NOT_FOUND))
    }

    /// What a DELETE answers; `None` if there is no such thing.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Option<Value>, ApiError> {
        self.send(self.request(Method::DELETE, path, &[]).timeout(DEADLINE))
            .await
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Every http URL can take a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.client.request(method, url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Option<Value>, ApiError> {
        let unreachable = |error: reqwest::Error| ApiError::Unreachable {
            address: self.base.origin().ascii_serialization(),
            source: error.without_url(),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map(Some)
                .map_err(|_| ApiError::Unintelligible(status));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if NOT_THERE.iter().any(|slug| problem.kind.ends_with(slug)) => Ok(None),
            Ok(Problem { title, detail, .. }) => {
                let problem = detail.map_or_else(|| title.clone(), |detail| format!("{title}: {detail}"));
                Err(ApiError::Refused { status, problem })
            }
            Err(_) => Err(ApiError::Unintelligible(status)),
        }
    }
}
