//! An API over HTTP, for `holdfast console --url`.

use std::fmt;
use std::time::Duration;

use actix_web::body::{BodyStream, BoxBody, MessageBody as _};
use actix_web::http::StatusCode;
use bytes::BytesMut;
use futures::StreamExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::api::{ApiAnswer, ApiRequest, MAX_ANSWER};
use crate::failure::Failure;

/// Longest wait for an answer. The API ends a request after `server.request_timeout_seconds`, 10 by default.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// An API at an address.
pub(crate) struct RemoteApi {
    client: Client,
    base: Url,
    /// Of the person who started the console; requests of a browser that came by the printed link carry it.
    key: Option<SecretString>,
}

impl fmt::Debug for RemoteApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteApi({})", self.base)
    }
}

/// The client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be built")]
pub struct RemoteError(#[from] reqwest::Error);

impl RemoteApi {
    pub(crate) fn new(base: Url, key: Option<SecretString>) -> Result<Self, RemoteError> {
        // One provider of cryptography for the process; it is there already if another part has installed it.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .redirect(Policy::none())
            .user_agent(concat!("holdfast-console/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, base, key })
    }

    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    pub(crate) async fn call(&self, request: ApiRequest, token: Option<&str>) -> Result<ApiAnswer, Failure> {
        let mut response = self.send(request, token, Some(DEADLINE)).await?;
        let status = status_of(&response);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| Failure::unreachable())? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(ApiAnswer {
            status,
            body: body.freeze(),
        })
    }

    pub(crate) async fn stream(
        &self,
        request: ApiRequest,
        token: Option<&str>,
    ) -> Result<(StatusCode, BoxBody), Failure> {
        let response = self.send(request, token, None).await?;
        let status = status_of(&response);
        let chunks = response
            .bytes_stream()
            .map(|chunk| chunk.map_err(std::io::Error::other));
        Ok((status, BodyStream::new(chunks).boxed()))
    }

    async fn send(
        &self,
        request: ApiRequest,
        token: Option<&str>,
        deadline: Option<Duration>,
    ) -> Result<Response, Failure> {
        let mut url = self.base.clone();
        let (path, query) = request
            .path
            .split_once('?')
            .map_or((&*request.path, None), |(path, query)| (path, Some(query)));
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        url.set_query(query);
        let method =
            Method::from_bytes(request.method.as_str().as_bytes()).map_err(|_| Failure::unreadable())?;
        let mut sent = self.client.request(method, url);
        for (name, value) in &request.headers {
            sent = sent.header(name.as_str(), value.as_bytes());
        }
        if let Some(token) = token {
            sent = sent.bearer_auth(token);
        }
        if let Some(body) = request.body {
            sent = sent.header("content-type", "application/json").body(body);
        }
        if let Some(deadline) = deadline {
            sent = sent.timeout(deadline);
        }
        sent.send().await.map_err(|error| {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the API cannot be reached"
            );
            Failure::unreachable()
        })
    }

    /// The token of a browser that came by the printed link.
    pub(crate) fn exposed_key(&self) -> Option<&str> {
        self.key.as_ref().map(SecretString::expose_secret)
    }
}

fn status_of(response: &Response) -> StatusCode {
    StatusCode::from_u16(response.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY)
}
