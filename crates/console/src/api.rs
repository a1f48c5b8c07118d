//! The API that the pages are made from: that of this process, or one over HTTP.
//!
//! Every request carries the credentials of the person who looks at the page and the headers by which the API judges where a request
//! comes from. The console has no rights of its own.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use actix_http::{Payload, Request, h1};
use actix_web::HttpRequest;
use actix_web::body::{self, BoxBody, MessageBody};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, Uri};
use actix_web::web::ServiceConfig;
use bytes::Bytes;
use holdfast_core::config::ServerSettings;
use holdfast_http::server::LocalRoutes;

use crate::failure::Failure;
use crate::json::Json;
use crate::remote::RemoteApi;

/// Longest answer that becomes a page, in bytes. The API ends a page of jobs at 8 MiB of payloads.
pub(crate) const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// By these the API judges where a request comes from; they reach it as the browser and the proxies sent them.
const PASSED_ON: &[&str] = &[
    "host",
    "origin",
    "sec-fetch-site",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// One request to the API.
#[derive(Debug)]
pub(crate) struct ApiRequest {
    pub(crate) method: Method,
    /// Encoded, with its query.
    pub(crate) path: String,
    /// A JSON document.
    pub(crate) body: Option<String>,
    pub(crate) headers: HeaderMap,
}

impl ApiRequest {
    pub(crate) fn new(method: Method, segments: &[&str]) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.push_str(&crate::urls::segment(segment));
        }
        Self {
            method,
            path,
            body: None,
            headers: HeaderMap::new(),
        }
    }

    /// Parameters with an empty value are left out.
    pub(crate) fn query(mut self, parameters: &[(&str, &str)]) -> Self {
        let query = crate::urls::query(parameters);
        self.path.push_str(&query);
        self
    }

    pub(crate) fn body(mut self, body: Option<String>) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// What the API answered.
pub(crate) struct ApiAnswer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl ApiAnswer {
    /// The document of a success; otherwise what the API says is wrong.
    pub(crate) fn document(self) -> Result<Json, Failure> {
        let text = String::from_utf8_lossy(&self.body);
        if self.status.is_success() {
            if text.is_empty() {
                return Ok(Json::Null);
            }
            return Json::parse(&text).map_err(|_| Failure::unreadable());
        }
        Err(Failure::refused(
            self.status,
            &Json::parse(&text).unwrap_or_default(),
        ))
    }
}

/// Shared by the threads of a server.
#[derive(Clone)]
pub(crate) enum ApiSource {
    Local {
        server: Arc<ServerSettings>,
        configure: Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>,
    },
    Remote(Arc<RemoteApi>),
}

impl fmt::Debug for ApiSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local { .. } => "ApiSource::Local",
            Self::Remote(_) => "ApiSource::Remote",
        })
    }
}

/// The API, of one HTTP thread.
#[derive(Debug)]
pub(crate) struct Api {
    source: ApiSource,
    /// Set up at the first request.
    local: RefCell<Option<Rc<LocalRoutes>>>,
}

impl Api {
    pub(crate) fn new(source: ApiSource) -> Self {
        Self {
            source,
            local: RefCell::new(None),
        }
    }

    pub(crate) fn remote(&self) -> Option<&RemoteApi> {
        match &self.source {
            ApiSource::Remote(remote) => Some(remote),
            ApiSource::Local { .. } => None,
        }
    }

    /// Sends a request for the person who sent `from`, who has this token.
    pub(crate) async fn call(
        &self,
        request: ApiRequest,
        from: &HttpRequest,
        token: Option<&str>,
    ) -> Result<ApiAnswer, Failure> {
        match &self.source {
            ApiSource::Remote(remote) => remote.call(request, token).await,
            ApiSource::Local { server, configure } => {
                let routes = self.local_routes(server, configure).await?;
                let answered = routes.call(local_request(request, from, token)?).await;
                let (status, body) = (answered.status(), answered.into_body());
                let body = body::to_bytes_limited(body, MAX_ANSWER).await;
                match body {
                    Ok(Ok(body)) => Ok(ApiAnswer { status, body }),
                    Ok(Err(_)) => Err(Failure::unreadable()),
                    Err(_) => Err(Failure::too_long()),
                }
            }
        }
    }

    /// The body of a GET as it comes, for streams and exports.
    pub(crate) async fn stream(
        &self,
        request: ApiRequest,
        from: &HttpRequest,
        token: Option<&str>,
    ) -> Result<(StatusCode, BoxBody), Failure> {
        match &self.source {
            ApiSource::Remote(remote) => remote.stream(request, token).await,
            ApiSource::Local { server, configure } => {
                let routes = self.local_routes(server, configure).await?;
                let answered = routes.call(local_request(request, from, token)?).await;
                Ok((answered.status(), answered.into_body().boxed()))
            }
        }
    }

    async fn local_routes(
        &self,
        server: &ServerSettings,
        configure: &Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>,
    ) -> Result<Rc<LocalRoutes>, Failure> {
        let ready = self.local.borrow().clone();
        if let Some(routes) = ready {
            return Ok(routes);
        }
        let configure = Arc::clone(configure);
        let started = LocalRoutes::start(server, move |config| configure(config)).await;
        let routes = Rc::new(started.map_err(|_| Failure::unreachable())?);
        *self.local.borrow_mut() = Some(Rc::clone(&routes));
        Ok(routes)
    }
}

fn local_request(request: ApiRequest, from: &HttpRequest, token: Option<&str>) -> Result<Request, Failure> {
    let uri: Uri = request.path.parse().map_err(|_| Failure::unreadable())?;
    // The sender is dropped: what is read is what was put in here.
    let (_, mut payload) = h1::Payload::create(true);
    let length = request.body.as_ref().map(String::len);
    if let Some(body) = request.body {
        payload.unread_data(Bytes::from(body));
    }
    let mut built = Request::with_payload(Payload::from(payload));
    let head = built.head_mut();
    head.method = request.method;
    head.uri = uri;
    head.peer_addr = from.peer_addr();
    if let Some(length) = length {
        let headers = &mut head.headers;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    for name in PASSED_ON {
        for value in from.headers().get_all(*name) {
            head.headers.append(HeaderName::from_static(name), value.clone());
        }
    }
    if is_followed_link(from) {
        head.headers.remove("sec-fetch-site");
    }
    for (name, value) in request.headers {
        head.headers.insert(name, value);
    }
    if let Some(id) = holdfast_http::request_id(from).and_then(|id| HeaderValue::from_str(&id).ok()) {
        head.headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    if let Some(token) = token {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Failure::unreadable())?;
        value.set_sensitive(true);
        head.headers.insert(header::AUTHORIZATION, value);
    }
    Ok(built)
}

/// A link on another site's page that opens a page of the console: it changes nothing, and the other site cannot read the answer.
pub(crate) fn is_followed_link(request: &HttpRequest) -> bool {
    let is = |name: &str, value: &str| {
        request
            .headers()
            .get(name)
            .is_some_and(|given| given.as_bytes() == value.as_bytes())
    };
    request.method() == Method::GET && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}
