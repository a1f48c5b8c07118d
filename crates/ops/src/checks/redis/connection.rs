//! The way in: an address that listens, and a server that lets us in and answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use holdfast_core::failure::{classify_connect, classify_redis};
use holdfast_core::mode::DegradedReason;
use holdfast_core::redis::{self as way, Connection, Subscription};
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::RedisSubject;
use crate::checks::{CheckResult, Finding, either};

/// For opening a connection, and for each answer. Longer than a service waits: a check may tell slow from dead.
const PATIENCE: Duration = Duration::from_secs(4);

const URL_FORMS: &str = "Write redis://[user:password@]host:port[/database], rediss:// for TLS, \
     redis+cluster://host,host for a cluster, redis+sentinel://host,host/service for Sentinels, or unix:///path.";

pub(super) async fn connect(subject: &RedisSubject) -> Finding {
    either(listens(subject).await)
}

async fn listens(subject: &RedisSubject) -> CheckResult<Finding> {
    let url = subject.endpoint.parsed();
    let url = url.map_err(|problem| Finding::fail(problem, URL_FORMS))?;
    let asked = url
        .addresses()
        .into_iter()
        .map(|(host, port)| host_listens(host, port));
    let (listening, silent): (Vec<_>, Vec<_>) = join_all(asked).await.into_iter().partition(Result::is_ok);
    let listening: Vec<String> = listening.into_iter().flatten().collect();
    let first = silent.into_iter().find_map(Result::err);
    match first {
        None if listening.is_empty() => Ok(Finding::pass("a Unix socket: see the login")),
        None => Ok(Finding::pass(format!("{} listens", listening.join(", ")))),
        Some(silent) if listening.is_empty() => Err(silent),
        // Any one leads to the others.
        Some(silent) => Ok(Finding::warn(
            format!("{} listens, but {}", listening.join(", "), silent.summary()),
            "Start it again, or take it out of the URL: fewer ways in are left when the next one fails.",
        )),
    }
}

async fn host_listens(host: String, port: u16) -> CheckResult<String> {
    match timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Ok(format!("{host}:{port}")),
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
    subject.endpoint.parsed().is_ok_and(|url| url.is_encrypted())
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
    pub(super) async fn connection(&self) -> CheckResult<Connection> {
        let opened = self.connection.get_or_try_init(|| async {
            let opened = way::connect(&self.endpoint, &self.settings, PATIENCE).await;
            opened.map_err(|error| refused(&error))
        });
        opened.await.cloned()
    }

    /// One to the server that owns `key`, for a command that blocks there.
    pub(super) async fn blocking(&self, key: &str) -> Result<MultiplexedConnection, RedisError> {
        way::connect_to_owner(&self.endpoint, &self.settings, key, PATIENCE).await
    }

    pub(super) async fn listening(&self, channel: &str) -> Result<Subscription, RedisError> {
        way::subscribe(&self.endpoint, &self.settings, channel, PATIENCE).await
    }

    /// `INFO`, asked once. Of a cluster: of the master that uses the most memory.
    pub(super) async fn info(&self) -> CheckResult<&BTreeMap<String, String>> {
        let asking = self.info.get_or_try_init(|| async {
            let text = self
                .connection()
                .await?
                .info()
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
