//! HTTP/1.1 as bytes: heads and bodies, for the client and the receiver.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const HEAD_LIMIT: usize = 64 * 1024;
const BODY_LIMIT: usize = 256 * 1024 * 1024;
const READ_CHUNK: usize = 16 * 1024;

/// Everything before a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The request or status line.
    pub(crate) first_line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Head {
    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("not a header: {line:?}"))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Result<_>>()?;
        Ok(Self { first_line, headers })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// How the headers delimit the body, if they do.
    pub(crate) fn body(&self) -> Result<Option<Body>> {
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Some(Body::Chunked));
        }
        let Some(length) = self.header("content-length") else {
            return Ok(None);
        };
        let length = length
            .parse()
            .with_context(|| format!("content-length {length:?}"))?;
        Ok(Some(Body::Length(length)))
    }

    pub(crate) fn keeps_alive(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default();
        let says = |word: &str| {
            connection
                .split(',')
                .any(|token| token.trim().eq_ignore_ascii_case(word))
        };
        if self.first_line.contains("HTTP/1.0") {
            says("keep-alive")
        } else {
            !says("close")
        }
    }
}

/// The first header of that name, whatever its case.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A stream and what was read from it too early.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    /// Whether an idle connection may be used again: nothing has arrived on it, not even its end.
    pub(crate) fn is_alive(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0; 1]);
        self.unread.is_empty() && nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// The next head; None if the peer has closed the connection before its first byte.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>> {
        let mut searched = 0;
        loop {
            if let Some(end) = find(&self.unread[searched..], b"\r\n\r\n").map(|at| searched + at) {
                let head = Head::parse(std::str::from_utf8(&self.unread[..end]).context("a head in UTF-8")?)?;
                self.unread.drain(..end + 4);
                return Ok(Some(head));
            }
            ensure!(self.unread.len() < HEAD_LIMIT, "a head over {HEAD_LIMIT} bytes");
            searched = self.unread.len().saturating_sub(3);
            if !self.read_more().await? {
                ensure!(self.unread.is_empty(), "the connection ended within a head");
                return Ok(None);
            }
        }
    }

    pub(crate) async fn body(&mut self, body: Body) -> Result<Vec<u8>> {
        match body {
            Body::Length(length) => self.take(length).await,
            Body::Chunked => self.chunks().await,
            Body::UntilClose => {
                while self.read_more().await? {
                    ensure!(self.unread.len() <= BODY_LIMIT, "a body over {BODY_LIMIT} bytes");
                }
                Ok(std::mem::take(&mut self.unread))
            }
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {size:?}"))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(body);
            }
            ensure!(body.len() + size <= BODY_LIMIT, "a body over {BODY_LIMIT} bytes");
            body.extend(self.take(size).await?);
            ensure!(self.line().await?.is_empty(), "a chunk longer than it said");
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 2);
                return Ok(line);
            }
            ensure!(self.unread.len() < HEAD_LIMIT, "a line over {HEAD_LIMIT} bytes");
            self.need_more().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        ensure!(length <= BODY_LIMIT, "a body over {BODY_LIMIT} bytes");
        while self.unread.len() < length {
            self.need_more().await?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn need_more(&mut self) -> Result<()> {
        if !self.read_more().await? {
            bail!("the connection ended within a body");
        }
        Ok(())
    }

    /// False at the end of the stream.
    async fn read_more(&mut self) -> Result<bool> {
        self.unread.reserve(READ_CHUNK);
        Ok(self.stream.read_buf(&mut self.unread).await.context("reading")? > 0)
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_knows_its_body_and_whether_the_connection_stays() {
        let head = Head::parse("POST /x HTTP/1.1\r\nContent-Length: 7\r\nConnection: close").unwrap();
        assert_eq!(head.body().unwrap(), Some(Body::Length(7)));
        assert!(!head.keeps_alive());
        let head = Head::parse("GET / HTTP/1.1\r\nTransfer-Encoding: chunked").unwrap();
        assert_eq!(head.body().unwrap(), Some(Body::Chunked));
        assert!(head.keeps_alive());
        assert!(Head::parse("GET / HTTP/1.1\r\nnonsense").is_err());
    }
}
