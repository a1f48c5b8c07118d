//! A minimal Redis client of our own, so that a test looks at Redis independently of the library under test.
//!
//! One connection, RESP2, no pool, no retry, no reconnect: what the server says is what the test sees. An
//! error *reply* is a value ([`RespValue::Error`]); `Err` means that no reply came.

mod scanner;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use scanner::{Frame, Scanner};

const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
const READ_CHUNK: usize = 64 * 1024;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RespValue {
    Simple(String),
    /// The whole text, its first word being the kind: `READONLY You can't write against a read only replica.`
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<RespValue>),
}

impl RespValue {
    /// The text of a simple or bulk string (lossy where it is not UTF-8).
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) => Some(text.clone()),
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The kind of an error reply: `READONLY`, `LOADING`, `NOAUTH`, `OOM`, `ERR`, ….
    pub fn error_kind(&self) -> Option<&str> {
        match self {
            Self::Error(text) => text.split(' ').next(),
            _ => None,
        }
    }

    pub fn array(&self) -> Option<&[RespValue]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The value, unless it is an error reply.
    pub fn ok(self) -> Result<Self> {
        match self {
            Self::Error(text) => bail!("Redis answered: {text}"),
            value => Ok(value),
        }
    }
}

/// One connection to a Redis server.
#[derive(Debug)]
pub struct RespConnection {
    stream: TcpStream,
    unread: Vec<u8>,
    deadline: Duration,
}

impl RespConnection {
    /// Connects, without a greeting.
    pub async fn connect(addr: SocketAddr) -> Result<Self> {
        let connecting = TcpStream::connect(addr);
        let stream = within(DEFAULT_DEADLINE, "connecting to Redis", connecting)
            .await?
            .with_context(|| format!("connecting to Redis at {addr}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            deadline: DEFAULT_DEADLINE,
        })
    }

    /// How long [`Self::command`] and [`Self::receive`] wait at most (10 s unless set).
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends one command and waits for its reply.
    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<RespValue> {
        self.send(args).await?;
        self.receive().await
    }

    /// Sends all commands, then reads all replies.
    pub async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<Vec<RespValue>> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        self.write(&bytes).await?;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            replies.push(self.receive().await?);
        }
        Ok(replies)
    }

    /// Sends one command without waiting.
    pub async fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<()> {
        self.write(&encode(args)).await
    }

    /// The next reply. An error if the connection ends, is reset, or stays silent until the deadline.
    pub async fn receive(&mut self) -> Result<RespValue> {
        within(
            self.deadline,
            "a reply from Redis",
            Self::read_frame(&mut self.stream, &mut self.unread),
        )
        .await?
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let writing = self.stream.write_all(bytes);
        within(self.deadline, "Redis to take a command", writing)
            .await?
            .context("writing to Redis")
    }

    async fn read_frame(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<RespValue> {
        let mut scanner = Scanner::replies();
        let mut scanned = 0;
        loop {
            if let Some((length, _)) = scanner.scan(&unread[scanned..]) {
                let frame: Vec<u8> = unread.drain(..scanned + length).collect();
                return parse(&frame).map(|(value, _)| value);
            }
            scanned = unread.len();
            unread.reserve(READ_CHUNK);
            if stream.read_buf(unread).await.context("reading from Redis")? == 0 {
                bail!("Redis closed the connection");
            }
        }
    }
}

async fn within<F: Future>(deadline: Duration, what: &str, future: F) -> Result<F::Output> {
    tokio::time::timeout(deadline, future)
        .await
        .map_err(|_| anyhow!("waited {deadline:?} in vain for: {what}"))
}

fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Parses one complete RESP2 frame and returns what follows it.
fn parse(bytes: &[u8]) -> Result<(RespValue, &[u8])> {
    let end = bytes
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .context("a RESP line without an end")?;
    let (line, rest) = (std::str::from_utf8(&bytes[..end])?, &bytes[end + 2..]);
    let (kind, text) = line.split_at_checked(1).context("an empty RESP line")?;
    let number = || {
        text.parse::<i64>()
            .with_context(|| format!("a number in RESP line {line:?}"))
    };
    Ok(match kind {
        "+" => (RespValue::Simple(text.to_owned()), rest),
        "-" => (RespValue::Error(text.to_owned()), rest),
        ":" => (RespValue::Integer(number()?), rest),
        "$" | "*" if number()? < 0 => (RespValue::Nil, rest),
        "$" => {
            let length = usize::try_from(number()?)?;
            let bulk = rest.get(..length).context("a RESP bulk string cut short")?;
            (
                RespValue::Bulk(bulk.to_vec()),
                rest.get(length + 2..)
                    .context("a RESP bulk string without an end")?,
            )
        }
        "*" => {
            let (mut items, mut rest) = (Vec::new(), rest);
            for _ in 0..number()? {
                let (item, after) = parse(rest)?;
                items.push(item);
                rest = after;
            }
            (RespValue::Array(items), rest)
        }
        _ => bail!("not a RESP2 reply: {line:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_nested_replies_and_leaves_the_rest() {
        let bytes = b"*4\r\n:7\r\n$3\r\na\r\n\r\n*1\r\n$-1\r\n-ERR no\r\n+NEXT\r\n";
        let (value, rest) = parse(bytes).unwrap();
        let expected = RespValue::Array(vec![
            RespValue::Integer(7),
            RespValue::Bulk(b"a\r\n".to_vec()),
            RespValue::Array(vec![RespValue::Nil]),
            RespValue::Error("ERR no".to_owned()),
        ]);
        assert_eq!(value, expected);
        assert_eq!(rest, b"+NEXT\r\n");
    }

    #[test]
    fn a_frame_cut_short_is_an_error_not_a_value() {
        assert!(parse(b"$5\r\nabc").is_err());
        assert!(parse(b"*2\r\n:1\r\n").is_err());
    }
}
