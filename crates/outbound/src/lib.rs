//! The HTTP client that jobs share: one connection pool, one address policy, one reading of answers.
//!
//! Invariants:
//! - A connection is only ever opened to an address that the [`AddressPolicy`] permits. Literal addresses are
//!   checked before each request, names by the resolver, and redirects are followed here, hop by hop, through the
//!   same two checks. No proxy is taken from the environment: it would connect on our behalf, unchecked.
//! - A call ends by its own deadline, redirects and answer included.
//! - At most `max_response_bytes` of an answer are read, and a few KiB of one that only explains an error.
//! - No error text contains the user, password, query or header values of a request.
//!
//! What an answer means is decided in one place, `fault.rs`: accepted; worth a retry, perhaps after the rest that
//! the server asks for; or pointless to repeat. The client itself repeats only what provably never reached the
//! server (a pooled connection that was closed before the first byte).

mod address;
mod fault;
mod hop;
mod resolver;
mod retry_after;
mod signature;
#[cfg(test)]
mod tls_tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::config::HttpRequestSettings;
use holdfast_jobs::JobError;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use address::{AddressPolicy, RefusedAddress};
use fault::CallFault;
use hop::Hop;
pub use hop::is_public;
use resolver::Resolver;
pub use signature::{InvalidSecret, SigningSecret, is_of_signature, signed_headers};

/// How a request introduces itself unless it says otherwise.
pub const USER_AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the shortest keep-alive in common use (Node and Apache: 5 s): a server that closes a pooled connection
/// just as a request is written to it costs the job an attempt.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const POOL_MAX_IDLE_PER_HOST: usize = 256;
/// A shared HTTP/2 connection that died silently would otherwise fail every request until its timeout.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(10);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer that is not wanted is read, for its explanation and to keep the connection.
const ASIDE_BYTES: usize = 8 * 1024;
const ASIDE_TIMEOUT: Duration = Duration::from_secs(1);

/// The shared client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("the TLS configuration is refused")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client cannot be built")]
    Client(#[from] reqwest::Error),
}

/// One request, and what to make of its answer.
#[derive(Clone)]
pub struct Call {
    pub method: Method,
    /// `http` or `https`; user and password are not read from it, they belong in `headers`.
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    /// For everything: connecting, redirects, and the whole answer.
    pub timeout: Duration,
    /// The statuses that count as success, which may include redirects; every 2xx if empty.
    pub accept: Vec<StatusCode>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("url", &shown(&self.url))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Call {
    fn accepts(&self, status: StatusCode) -> bool {
        if self.accept.is_empty() {
            status.is_success()
        } else {
            self.accept.contains(&status)
        }
    }
}

/// An accepted answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The answer was longer than `max_response_bytes`; `body` is its beginning.
    pub truncated: bool,
    /// Where the answer came from, after `redirects` redirects.
    pub url: Url,
    pub redirects: usize,
    /// From the call to the end of the answer.
    pub elapsed: Duration,
}

/// Any answer of one exchange, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// The beginning, as far as it could be read.
    pub body: Bytes,
    /// From the call to the end of what was read.
    pub elapsed: Duration,
    headers: HeaderMap,
}

impl Reply {
    /// The rest that a server asks for which is too busy, or down.
    pub fn retry_after(&self) -> Option<Duration> {
        let is_busy = matches!(self.status.as_u16(), 429 | 503);
        retry_after::retry_after(&self.headers).filter(|_| is_busy)
    }
}

/// The shared HTTP client. Build it once per process.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: Client,
    policy: AddressPolicy,
    max_redirects: usize,
    max_response_bytes: usize,
}

impl Outbound {
    /// The client that the settings describe.
    pub fn new(settings: &HttpRequestSettings) -> Result<Self, OutboundError> {
        Self::with_policy(settings, AddressPolicy::of(settings))
    }

    /// Reaches what `policy` permits, whatever `settings.allow_private` says.
    pub fn with_policy(settings: &HttpRequestSettings, policy: AddressPolicy) -> Result<Self, OutboundError> {
        // Mozilla's roots, compiled in: a slim container has none of its own.
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        Self::build(settings, policy, roots)
    }

    /// The same client, connections included, with another limit of answers.
    #[must_use]
    pub fn limited_to(&self, max_response_bytes: usize) -> Self {
        Self {
            max_response_bytes,
            ..self.clone()
        }
    }

    fn build(
        settings: &HttpRequestSettings,
        policy: AddressPolicy,
        roots: RootCertStore,
    ) -> Result<Self, OutboundError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls(roots)?)
            .dns_resolver(Resolver::new(policy.clone()))
            .redirect(Policy::none())
            .no_proxy()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
            .http2_keep_alive_interval(HTTP2_PING_INTERVAL)
            .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT)
            .build()?;
        Ok(Self {
            client,
            policy,
            max_redirects: settings.max_redirects,
            max_response_bytes: settings.max_response_bytes,
        })
    }

    /// Makes the call, follows its redirects, and reads its answer.
    ///
    /// # Errors
    /// Transient: network faults, timeouts, and the statuses 408, 425, 429 and 5xx; with the rest that
    /// `Retry-After` asks for, if it does. Permanent: every other status that the call does not accept, refused
    /// addresses, and redirects that lead nowhere.
    pub async fn send(&self, call: Call) -> Result<Answer, JobError> {
        self.follow(call).await.map_err(CallFault::into_job_error)
    }

    /// Makes the call once, without following a redirect, and reads up to `limit` bytes of the answer. Every status is an
    /// answer; one whose text breaks off or does not end was given all the same.
    ///
    /// # Errors
    /// As [`Outbound::send`], where there is no answer.
    pub async fn send_once(&self, call: Call, limit: usize) -> Result<Reply, JobError> {
        let started = Instant::now();
        let deadline = Deadline {
            at: started + call.timeout,
            after: call.timeout,
        };
        let exchanged = self.exchange(&Hop::first(&call), deadline).await;
        let mut response = exchanged.map_err(CallFault::into_job_error)?;
        let headers = std::mem::take(response.headers_mut());
        let status = response.status();
        let mut body = read_aside(response, deadline).await;
        body.truncate(limit);
        Ok(Reply {
            status,
            body,
            elapsed: started.elapsed(),
            headers,
        })
    }

    async fn follow(&self, call: Call) -> Result<Answer, CallFault> {
        let started = Instant::now();
        let deadline = Deadline {
            at: started + call.timeout,
            after: call.timeout,
        };
        let mut hop = Hop::first(&call);
        let mut redirects = 0;
        loop {
            let response = self.exchange(&hop, deadline).await?;
            if call.accepts(response.status()) {
                return self.collect(response, hop, redirects, started, deadline).await;
            }
            let Some(next) = hop.redirected(response.status(), response.headers())? else {
                return Err(refusal(response, &hop, deadline).await);
            };
            if redirects == self.max_redirects {
                return Err(CallFault::TooManyRedirects {
                    target: shown(&call.url),
                    limit: redirects,
                });
            }
            // A redirect's text explains nothing; it is read so that the connection can be used again.
            read_aside(response, deadline).await;
            redirects += 1;
            hop = next;
        }
    }

    /// One request and the head of its answer.
    async fn exchange(&self, hop: &Hop, deadline: Deadline) -> Result<Response, CallFault> {
        self.policy
            .check_url(&hop.url)
            .map_err(|refused| CallFault::Refused {
                target: shown(&hop.url),
                refused,
            })?;
        match timeout_at(deadline.at, self.client.execute(hop.request())).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(CallFault::of_exchange(shown(&hop.url), error)),
            Err(_) => Err(CallFault::NoAnswer {
                target: shown(&hop.url),
                after: deadline.after,
            }),
        }
    }

    /// The rest of an accepted answer, up to the limit.
    async fn collect(
        &self,
        mut response: Response,
        hop: Hop,
        redirects: usize,
        started: Instant,
        deadline: Deadline,
    ) -> Result<Answer, CallFault> {
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let (body, truncated) =
            match timeout_at(deadline.at, read_up_to(&mut response, self.max_response_bytes)).await {
                Ok(Ok(read)) => read,
                Ok(Err(source)) => {
                    return Err(CallFault::broken_off(shown(&hop.url), status, source));
                }
                Err(_) => {
                    let target = shown(&hop.url);
                    return Err(CallFault::Endless {
                        target,
                        status,
                        after: deadline.after,
                    });
                }
            };
        Ok(Answer {
            status,
            headers,
            body,
            truncated,
            url: hop.url,
            redirects,
            elapsed: started.elapsed(),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    // Named here rather than installed for the process: a library does not choose for its host.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The fault that an unaccepted answer stands for, with the beginning of what it says.
async fn refusal(response: Response, hop: &Hop, deadline: Deadline) -> CallFault {
    let status = response.status();
    let headers = response.headers().clone();
    let text = read_aside(response, deadline).await;
    CallFault::of_status(hop, status, &headers, &text)
}

/// The beginning of an answer whose status has said what matters. A fault of this reading changes nothing about
/// that, so it ends the reading and is not reported.
async fn read_aside(mut response: Response, deadline: Deadline) -> Bytes {
    let until = deadline.at.min(Instant::now() + ASIDE_TIMEOUT);
    match timeout_at(until, read_up_to(&mut response, ASIDE_BYTES)).await {
        Ok(Ok((text, _))) => text,
        Ok(Err(_)) | Err(_) => Bytes::new(),
    }
}

/// At most `limit` bytes of the body, and whether there were more.
async fn read_up_to(response: &mut Response, limit: usize) -> Result<(Bytes, bool), reqwest::Error> {
    let Some(first) = response.chunk().await? else {
        return Ok((Bytes::new(), false));
    };
    let mut body = BytesMut::from(first);
    while body.len() <= limit {
        match response.chunk().await? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => return Ok((body.freeze(), false)),
        }
    }
    body.truncate(limit);
    Ok((body.freeze(), true))
}

/// A URL as errors and results show it: origin and path. User, password and query may be secrets.
pub fn shown(url: &Url) -> String {
    const LONGEST: usize = 256;
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut shown = format!("{}://{host}{port}{}", url.scheme(), url.path());
    // Serialised URLs are ASCII, so every index is a character's border.
    if shown.len() > LONGEST {
        shown.truncate(LONGEST);
        shown.push('…');
    }
    shown
}
