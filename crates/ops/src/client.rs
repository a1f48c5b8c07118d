//! A Holdfast API, spoken to over HTTP: the one that an address names, or one in this process ([`InProcess`]).

use std::time::Duration;

use holdfast_services::Program;
use reqwest::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use url::Url;

use crate::failure::Failure;
use crate::in_process::InProcess;

/// Longest wait for an answer; a long poll adds its own.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer that is read: a page of jobs with the largest payloads that the default configuration takes.
const LONGEST: usize = 256 * 1024 * 1024;

/// One long poll; longer waits are several. Below the idle limit of common proxies.
const LONGEST_POLL: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the API key has characters that no HTTP header can carry")]
    InvalidKey,
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    #[error("the API at {address} cannot be reached")]
    Unreachable { address: String, source: reqwest::Error },
    /// The API's own words.
    #[error("{problem} (HTTP {})", status.as_u16())]
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
    #[error("the answer of {address} is not as documented")]
    Unread {
        address: String,
        source: serde_json::Error,
    },
}

/// RFC 9457, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: Option<String>,
}

impl ApiError {
    /// What the API answered with, if it did.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } | Self::Foreign { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The API answered 404.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

#[derive(Debug)]
pub struct Api {
    client: Client,
    base: Url,
    in_process: Option<InProcess>,
}

/// A JSON document, as the server worded it: numbers, the order of fields, and fields that this version does not know
/// stay what they are.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Document(Box<RawValue>);

impl Document {
    /// What of it this version knows.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }
}

impl Api {
    /// The API at `url`; without one, an API of `program` in this process, over what the configuration names.
    pub async fn open(
        url: Option<Url>,
        key: Option<&SecretString>,
        program: &Program,
    ) -> Result<Self, Failure> {
        match url {
            Some(url) => Ok(Self::new(url, key)?),
            None => Self::in_process(InProcess::open(program).await?),
        }
    }

    /// The API of this process.
    pub fn in_process(server: InProcess) -> Result<Self, Failure> {
        let mut api = Self::new(server.address().clone(), Some(server.key()))?;
        api.in_process = Some(server);
        Ok(api)
    }

    pub fn new(base: Url, key: Option<&SecretString>) -> Result<Self, ApiError> {
        // One provider of cryptography for the process; it is there already if another part has installed it.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // A change through another process is seen at once.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
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
        Ok(Self {
            client,
            base,
            in_process: None,
        })
    }

    /// The document at a path.
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Document, ApiError> {
        self.send(self.request(Method::GET, path, query).timeout(DEADLINE))
            .await
    }

    /// Long-polls the document at a path until `is_over` says so of it, or `limit` has passed.
    pub async fn wait<T: DeserializeOwned>(
        &self,
        path: &[&str],
        limit: Duration,
        is_over: impl Fn(&T) -> bool,
    ) -> Result<(Document, T), ApiError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = left.min(LONGEST_POLL);
            let query = (!wait.is_zero()).then(|| ("wait", wait.as_secs_f64().to_string()));
            let request = self.request(Method::GET, path, query.as_slice());
            let document = self.send(request.timeout(DEADLINE + wait)).await?;
            let read: T = self.read(&document)?;
            if is_over(&read) || wait.is_zero() {
                return Ok((document, read));
            }
        }
    }

    /// A list of any length, as it comes: `piece` gets the bytes.
    pub async fn copy(
        &self,
        path: &[&str],
        mut piece: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let request = self.request(Method::GET, path, &[]);
        let mut response = request.send().await.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(self
                .answer(response)
                .await
                .err()
                .map_or_else(|| Failure::no("no answer"), Failure::from));
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            piece(&chunk)?;
        }
        Ok(())
    }

    /// What a POST without a body answers.
    pub async fn post(&self, path: &[&str]) -> Result<Document, ApiError> {
        self.change(self.request(Method::POST, path, &[])).await
    }

    /// What a POST with a JSON body answers.
    pub async fn post_json(
        &self,
        path: &[&str],
        body: &impl Serialize,
        idempotency_key: Option<&str>,
    ) -> Result<Document, ApiError> {
        let mut request = self.request(Method::POST, path, &[]).json(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.change(request).await
    }

    /// What a PUT with a JSON body answers.
    pub async fn put_json(&self, path: &[&str], body: &impl Serialize) -> Result<Document, ApiError> {
        self.change(self.request(Method::PUT, path, &[]).json(body)).await
    }

    /// What a PATCH with a JSON body answers.
    pub async fn patch_json(&self, path: &[&str], body: &impl Serialize) -> Result<Document, ApiError> {
        self.change(self.request(Method::PATCH, path, &[]).json(body))
            .await
    }

    /// What a DELETE answers.
    pub async fn delete(&self, path: &[&str], query: &[(&str, String)]) -> Result<Document, ApiError> {
        self.change(self.request(Method::DELETE, path, query)).await
    }

    /// What this version knows of a document.
    pub fn read<T: DeserializeOwned>(&self, document: &Document) -> Result<T, ApiError> {
        document.read().map_err(|source| ApiError::Unread {
            address: self.address(),
            source,
        })
    }

    async fn change(&self, request: RequestBuilder) -> Result<Document, ApiError> {
        let document = self.send(request.timeout(DEADLINE)).await?;
        if let Some(server) = &self.in_process {
            server.let_the_bell_ring().await;
        }
        Ok(document)
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

    async fn send(&self, request: RequestBuilder) -> Result<Document, ApiError> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        self.answer(response).await
    }

    async fn answer(&self, response: Response) -> Result<Document, ApiError> {
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
            let read = serde_json::from_slice(&body).map(Document);
            return read.map_err(|error| self.foreign(status, &body, &error));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(Problem { title, detail }) => {
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
