//! One request of a check, and in plain words what is wrong with the answer.

use std::error::Error as _;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use crate::checks::{CheckResult, Finding};

/// For the whole of one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(4);

/// Longest answer that is read. `/openapi.json` is the longest of ours, a tenth of this.
const LONGEST: usize = 4 * 1024 * 1024;

/// The API under check.
#[derive(Debug)]
pub(crate) struct Wire {
    client: Client,
    pub(crate) base: Url,
    pub(crate) key: Option<SecretString>,
    public: bool,
}

/// The caller.
#[derive(Debug, Clone, Copy)]
pub(crate) enum As<'a> {
    Nobody,
    /// With the key that was given, if one was.
    Us,
    Key(&'a str),
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
    pub(crate) took: Duration,
    location: Option<String>,
}

impl Wire {
    pub(crate) fn new(base: Url, key: Option<SecretString>) -> Result<Self, reqwest::Error> {
        // One provider of cryptography for the process; it is there already if another part has installed it.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(PATIENCE)
            .user_agent(concat!("holdfast-cli/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            base,
            key,
            public: false,
        })
    }

    /// The same for what everybody reaches, whatever the address: nothing is merely convenient there.
    pub(crate) fn taken_for_public(mut self) -> Self {
        self.public = true;
        self
    }

    /// Whether the service is on this machine: what is merely convenient is no fault there.
    pub(crate) fn is_local(&self) -> bool {
        !self.public && matches!(self.base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
    }

    /// Any answer at all.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        who: As<'_>,
        body: Option<&str>,
    ) -> CheckResult<Answer> {
        let mut url = self.base.clone();
        url.set_path(path);
        let mut request = self
            .client
            .request(method, url)
            .header("accept", "application/json");
        request = match (who, &self.key) {
            (As::Us, Some(key)) => request.bearer_auth(key.expose_secret()),
            (As::Key(key), _) => request.bearer_auth(key),
            _ => request,
        };
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_owned());
        }
        let started = Instant::now();
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let (content_type, location) = (header("content-type").unwrap_or_default(), header("location"));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                let hint = "Is this the address of a Holdfast API? Give --url its origin, without a path.";
                return Err(Finding::fail(
                    format!("{path} answers with more than 4 MiB"),
                    hint,
                ));
            }
        }
        Ok(Answer {
            status,
            content_type,
            body,
            took: started.elapsed(),
            location,
        })
    }

    /// A GET's JSON.
    pub(crate) async fn get(&self, path: &str, who: As<'_>) -> CheckResult<(Answer, Value)> {
        let answer = self.ask(Method::GET, path, who, None).await?;
        let value = answer.json(path)?;
        Ok((answer, value))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Finding {
        let address = self.base.origin().ascii_serialization();
        let causes = causes(error);
        let says = |words: &[&str]| words.iter().any(|word| causes.contains(word));
        if error.is_timeout() && !error.is_connect() {
            return Finding::fail(
                format!(
                    "{address} accepts the connection and does not answer within {} s",
                    PATIENCE.as_secs()
                ),
                "The process hangs, or another program listens there: see its log; restart it if it stays silent.",
            );
        }
        if says(&["certificate", "TLS", "tls", "handshake", "InvalidContentType"]) {
            return Finding::fail(
                format!("{address} refuses TLS: {causes}"),
                "Use http:// if the service has no TLS, or fix the certificate.",
            );
        }
        if says(&["dns error", "failed to lookup"]) {
            return Finding::fail(
                format!("the name of {address} cannot be resolved"),
                "Correct the host in --url; private names (….railway.internal) exist inside the platform only.",
            );
        }
        if error.is_connect() {
            return Finding::fail(
                format!("{address} cannot be connected to: {causes}"),
                "Start the API, or correct host and port in --url.",
            );
        }
        Finding::fail(
            format!("{address} broke the connection off: {causes}"),
            "Something in between breaks connections, or the process died: see its log.",
        )
    }
}

/// The innermost cause, which says most.
fn causes(error: &reqwest::Error) -> String {
    let mut innermost = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = error.source();
    }
    innermost
}

impl Answer {
    /// The JSON of an answer that Holdfast would give; else what it is instead.
    pub(crate) fn json(&self, path: &str) -> CheckResult<Value> {
        if let Some(location) = self.location.as_ref().filter(|_| self.status.is_redirection()) {
            return Err(Finding::fail(
                format!("{path} is redirected to {location}"),
                "Give --url the address that is redirected to.",
            ));
        }
        let text = String::from_utf8_lossy(&self.body);
        if self.content_type.starts_with("text/html") || text.trim_start().starts_with('<') {
            return Err(Finding::fail(
                format!(
                    "{path} answers {} with HTML instead of JSON",
                    self.status.as_u16()
                ),
                "A proxy's page, or another service: check --url, and what is in front of the API.",
            ));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = if error.is_eof() { "half a JSON document" } else { "something that is not JSON" };
            Finding::fail(
                format!("{path} answers {} with {what} ({} bytes)", self.status.as_u16(), self.body.len()),
                "A proxy cuts responses, or another service answers: check --url, and what is in front of the API.",
            )
        })
    }

    pub(crate) fn is_problem(&self) -> bool {
        self.content_type.starts_with("application/problem+json")
    }
}
