//! The way in: an address that listens, and a server that lets us in and answers.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::failure::{classify_connect, classify_redis};
use holdfast_core::mode::DegradedReason;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisError};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::RedisSubject;
use crate::checks::{CheckResult, Finding, either};

/// For opening a connection, and for each answer. Longer than a service waits: a check may tell slow from dead.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) async fn connect(subject: &RedisSubject) -> Finding {
    either(listens(subject).await)
}

async fn listens(subject: &RedisSubject) -> CheckResult<Finding> {
    let info = subject.endpoint.url.expose_secret().into_connection_info();
    let info = info.map_err(|_| {
        Finding::fail(
            "the URL cannot be understood",
            "Write redis://[user:password@]host:port[/database], rediss:// for TLS, or unix:///path.",
        )
    })?;
    let (host, port) = match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port),
        _ => return Ok(Finding::pass("a Unix socket: see the login")),
    };
    match timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Ok(Finding::pass(format!("{host}:{port} listens"))),
        Ok(Err(error)) => Err(Finding::fail(
            format!("{host}:{port} cannot be connected to: {error}"),
            DegradedReason::Refused.hint(),
        )),
        Err(_) => Err(Finding::fail(
            format!("{host}:{port} does not answer: the packets are lost on the way"),
            "Check the host name, the port, and the firewall or network between this machine and it.",
        )),
    }
}

pub(super) async fn login(subject: &RedisSubject) -> Finding {
    either(lets_us_in(subject).await)
}

async fn lets_us_in(subject: &RedisSubject) -> CheckResult<Finding> {
    let mut connection = subject.connection().await?;
    let pong: String = redis::cmd("PING")
        .query_async(&mut connection)
        .await
        .map_err(|error| refused(&error))?;
    if pong != "PONG" {
        let hint = "Another protocol may be served at this address: check host and port.";
        return Err(Finding::fail("it answers, but not as Redis does", hint));
    }
    let info = subject.info().await?;
    let version = info
        .get("redis_version")
        .map_or("of unknown version", String::as_str);
    let secured = if connection_is_encrypted(subject) {
        "over TLS"
    } else {
        "without TLS"
    };
    Ok(Finding::pass(format!("Redis {version}, {secured}")).with("version", version))
}

fn connection_is_encrypted(subject: &RedisSubject) -> bool {
    subject.endpoint.url.expose_secret().starts_with("rediss:")
}

/// What the server or the wire said, in our words: the driver's own may name the user.
fn refused(error: &RedisError) -> Finding {
    let reason = classify_connect(error)
        .outage
        .unwrap_or(DegradedReason::Unexpected);
    let what = match reason {
        DegradedReason::Unauthorized => "the user or the password is refused".to_owned(),
        DegradedReason::TimedOut => format!(
            "it accepts the connection and does not answer within {} s",
            PATIENCE.as_secs()
        ),
        DegradedReason::ConnectionLost => {
            "it closed the connection (TLS expected, or not a Redis server)".to_owned()
        }
        DegradedReason::Unreachable => "the TLS handshake failed, or it cannot be reached".to_owned(),
        other => format!("it does not serve: {}", other.as_str()),
    };
    Finding::fail(what, reason.hint())
}

/// A command that failed although the server let us in.
pub(super) fn failed(doing: &str, error: &RedisError) -> Finding {
    match classify_redis(error).outage {
        Some(reason) => Finding::fail(format!("{doing}: {}", reason.as_str()), reason.hint()),
        None => Finding::fail(
            format!("{doing}: refused with {}", error.code().unwrap_or("an error")),
            "See the permissions of the user (ACL) and the commands that the provider allows.",
        ),
    }
}

impl RedisSubject {
    /// The shared connection, opened by the first check that needs it.
    pub(super) async fn connection(&self) -> CheckResult<MultiplexedConnection> {
        let opened = self
            .connection
            .get_or_try_init(|| async { self.open().await.map_err(|error| refused(&error)) });
        opened.await.cloned()
    }

    pub(super) async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        self.client()?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    pub(super) fn client(&self) -> Result<Client, RedisError> {
        holdfast_core::redis::client(&self.endpoint, &self.settings)
    }

    /// `INFO`, asked once.
    pub(super) async fn info(&self) -> CheckResult<&BTreeMap<String, String>> {
        let asking = self.info.get_or_try_init(|| async {
            let mut connection = self.connection().await?;
            let text: String = redis::cmd("INFO")
                .query_async(&mut connection)
                .await
                .map_err(|error| failed("INFO", &error))?;
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            Ok(lines
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect())
        });
        asking.await
    }

    /// A number of `INFO`.
    pub(super) async fn number(&self, name: &str) -> CheckResult<Option<u64>> {
        Ok(self.info().await?.get(name).and_then(|value| value.parse().ok()))
    }

    /// A configured value; `None` where the provider does not let it be read.
    pub(super) async fn configured(&self, name: &str) -> CheckResult<Option<String>> {
        let mut connection = self.connection().await?;
        let answer: Result<Vec<String>, RedisError> = redis::cmd("CONFIG")
            .arg("GET")
            .arg(name)
            .query_async(&mut connection)
            .await;
        match answer {
            Ok(pair) => Ok(pair.into_iter().nth(1)),
            Err(error) if classify_redis(&error).outage.is_none() => Ok(None),
            Err(error) => Err(failed("CONFIG GET", &error)),
        }
    }
}
