//! A Holdfast API, spoken to over HTTP.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

/// Longest wait for an answer; a long poll adds its own.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer that is read: a page of jobs with the largest payloads that the default configuration takes.
const LONGEST: usize = 256 * 1024 * 1024;

/// Problems that say no more than that what was asked for is not there.
const NOT_THERE: [&str; 3] = [":job-not-found", ":batch-not-found", ":schedule-not-found"];

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the API key has characters that no HTTP header can carry")]
    InvalidKey,
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    #[error("the API at {address} cannot be reached")]
    Unreachable { address: String, source: reqwest::Error },
    /// The API's own words.
    #[error("the API refused ({status}): {problem}")]
    Refused { status: StatusCode, problem: String },
    #[error("the API at {address} accepts the connection and gives no answer in time")]
    Silent { address: String },
    #[error("{address} redirects to {location}: give --url that address")]
    Redirected { address: String, location: String },
    #[error("{address} answered {status} with {what}: is this the address of a Holdfast API?")]
    Foreign {
        address: String,
        status: StatusCode,
        what: &'static str,
    },
    #[error("the answer of {address} has more than {} MiB", LONGEST / (1024 * 1024))]
    TooLong { address: String },
    #[error("it is not there")]
    NotThere,
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
pub struct Api {
    client: Client,
    base: Url,
}

impl Api {
    pub fn new(base: Url, key: Option<&SecretString>) -> Result<Self, ApiError> {
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
            // The key would not be sent along, and a sign-in page is no answer of ours.
            .redirect(Policy::none())
            .user_agent(concat!("holdfast-cli/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ApiError::Client)?;
        Ok(Self { client, base })
    }

    /// The JSON at a path; `None` if there is no such job, batch or schedule.
    pub async fn get(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        wait: Duration,
    ) -> Result<Option<Value>, ApiError> {
        self.send(self.request(Method::GET, path, query).timeout(DEADLINE + wait))
            .await
    }

    /// What a POST without a body answers; `None` if there is no such job, batch or schedule.
    pub async fn post(&self, path: &[&str]) -> Result<Option<Value>, ApiError> {
        self.send(self.request(Method::POST, path, &[]).timeout(DEADLINE))
            .await
    }

    /// What a POST with a JSON body answers.
    pub async fn post_json(
        &self,
        path: &[&str],
        body: &Value,
        idempotency_key: Option<&str>,
    ) -> Result<Value, ApiError> {
        let mut request = self.request(Method::POST, path, &[]).timeout(DEADLINE).json(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.send(request).await?.ok_or(ApiError::NotThere)
    }

    /// What a PUT with a JSON body answers.
    pub async fn put_json(&self, path: &[&str], body: &Value) -> Result<Value, ApiError> {
        let request = self.request(Method::PUT, path, &[]).timeout(DEADLINE).json(body);
        self.send(request).await?.ok_or(ApiError::NotThere)
    }

    /// What a DELETE answers; `None` if there is no such thing.
    pub async fn delete(&self, path: &[&str]) -> Result<Option<Value>, ApiError> {
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
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if let Some(location) = response
            .headers()
            .get(LOCATION)
            .filter(|_| status.is_redirection())
        {
            return Err(ApiError::Redirected {
                address: self.address(),
                location: String::from_utf8_lossy(location.as_bytes()).into_owned(),
            });
        }
        let body = self.body(response).await?;
        if status.is_success() {
            let read = serde_json::from_slice(&body).map(Some);
            return read.map_err(|error| self.foreign(status, &body, &error));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if NOT_THERE.iter().any(|slug| problem.kind.ends_with(slug)) => Ok(None),
            Ok(Problem { title, detail, .. }) => {
                let problem = detail.map_or_else(|| title.clone(), |detail| format!("{title}: {detail}"));
                Err(ApiError::Refused { status, problem })
            }
            Err(error) => Err(self.foreign(status, &body, &error)),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ApiError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                return Err(ApiError::TooLong {
                    address: self.address(),
                });
            }
        }
        Ok(body)
    }

    fn unreachable(&self, error: reqwest::Error) -> ApiError {
        let address = self.address();
        if error.is_timeout() && !error.is_connect() {
            return ApiError::Silent { address };
        }
        ApiError::Unreachable {
            address,
            source: error.without_url(),
        }
    }

    /// What no Holdfast answers.
    fn foreign(&self, status: StatusCode, body: &[u8], error: &serde_json::Error) -> ApiError {
        let what = match body.trim_ascii_start() {
            [] => "nothing",
            [b'<', ..] => "a web page",
            _ if error.is_eof() => "half a JSON document",
            _ if error.is_data() => "a JSON document of another kind",
            _ => "something that is not JSON",
        };
        ApiError::Foreign {
            address: self.address(),
            status,
            what,
        }
    }

    fn address(&self) -> String {
        self.base.origin().ascii_serialization()
    }
}
