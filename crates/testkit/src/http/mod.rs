//! A minimal HTTP/1.1 client of our own: one keep-alive connection, a deadline on every request, no retry.
//!
//! A test must be able to count requests, so nothing is ever sent twice: a request whose connection breaks is
//! an error. Only a kept connection that the server has closed before we send is replaced silently.

pub(crate) mod wire;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use self::wire::{Body, Connection, Head};

const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// A client of one server; clone-free and cheap: make one per task.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    deadline: Duration,
    headers: Vec<(String, String)>,
    connection: Option<Connection>,
}

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            deadline: DEFAULT_DEADLINE,
            headers: Vec::new(),
            connection: None,
        }
    }

    /// How long a request may take in all, connecting included (30 s unless set).
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends this header with every request.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// `Authorization: Bearer …` with every request.
    pub fn with_bearer(self, token: &str) -> Self {
        self.with_header("authorization", format!("Bearer {token}"))
    }

    pub async fn get(&mut self, path: &str) -> Result<Response> {
        self.request("GET", path, &[], &[]).await
    }

    pub async fn delete(&mut self, path: &str) -> Result<Response> {
        self.request("DELETE", path, &[], &[]).await
    }

    pub async fn post_json(&mut self, path: &str, body: &Value) -> Result<Response> {
        let body = serde_json::to_vec(body)?;
        self.request("POST", path, &[("content-type", "application/json")], &body)
            .await
    }

    /// Sends a request and reads the whole response.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let request = self.encode(method, path, headers, body);
        let kept = self.connection.take();
        let exchange = exchange(self.addr, kept, &request, method == "HEAD");
        let (response, connection) = tokio::time::timeout(self.deadline, exchange)
            .await
            .map_err(|_| anyhow!("no response within {:?}", self.deadline))
            .and_then(|outcome| outcome)
            .with_context(|| format!("{method} http://{}{path}", self.addr))?;
        self.connection = connection;
        Ok(response)
    }

    fn encode(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.addr);
        let own = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if !body.is_empty() || !matches!(method, "GET" | "HEAD" | "DELETE") {
            let _ = write!(text, "content-length: {}\r\n", body.len());
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

impl Response {
    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::header(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!(
                "a response ({}) that is not the expected JSON: {}",
                self.status,
                self.text()
            )
        })
    }
}

/// One GET over a connection of its own.
pub async fn get(addr: SocketAddr, path: &str) -> Result<Response> {
    Client::new(addr).get(path).await
}

/// One POST of JSON over a connection of its own.
pub async fn post_json(addr: SocketAddr, path: &str, body: &Value) -> Result<Response> {
    Client::new(addr).post_json(path, body).await
}

/// Returns the connection as well, if both sides keep it.
async fn exchange(
    addr: SocketAddr,
    kept: Option<Connection>,
    request: &[u8],
    is_head: bool,
) -> Result<(Response, Option<Connection>)> {
    if kept.is_some() {
        // Lets the runtime learn that the server has closed it.
        tokio::task::yield_now().await;
    }
    let mut connection = match kept.filter(Connection::is_alive) {
        Some(connection) => connection,
        None => Connection::new(TcpStream::connect(addr).await.context("connecting")?)?,
    };
    connection.stream.write_all(request).await.context("sending")?;
    let (status, head) = loop {
        let head = connection
            .head()
            .await?
            .context("the server closed the connection without a response")?;
        let status = status_of(&head)?;
        if status >= 200 {
            break (status, head);
        }
    };
    let body = response_body(&head, status, is_head)?;
    let bytes = connection.body(body).await?;
    let keep = body != Body::UntilClose && head.keeps_alive();
    Ok((
        Response {
            status,
            headers: head.headers,
            body: bytes,
        },
        keep.then_some(connection),
    ))
}

fn status_of(head: &Head) -> Result<u16> {
    match head.first_line.split(' ').collect::<Vec<_>>()[..] {
        ["HTTP/1.1" | "HTTP/1.0", status, ..] => status.parse().with_context(|| format!("status {status:?}")),
        _ => bail!("not an HTTP response: {:?}", head.first_line),
    }
}

fn response_body(head: &Head, status: u16, is_head: bool) -> Result<Body> {
    if is_head || matches!(status, 204 | 304) {
        return Ok(Body::Length(0));
    }
    Ok(head.body()?.unwrap_or(Body::UntilClose))
}
