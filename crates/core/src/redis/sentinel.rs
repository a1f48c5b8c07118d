//! Where the master is, by what the Sentinels say.
//!
//! All are asked at once. Once most of them agree, their answer is taken; a Sentinel that hangs or was cut off from the
//! others delays nothing and decides nothing. Where no majority answers, the newest configuration counts
//! (`config-epoch`), because a failover raises it.
//!
//! The Sentinels name the master before it knows that it is one, and a master that returns learns late that it is one no
//! more: what is connected to is probed with a write before the gate trusts it.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use redis::{Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::connect::connection_config;
use super::mistaken;

/// What one Sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Opinion {
    host: String,
    port: u16,
    epoch: u64,
}

/// Host and port of the service's master. Takes twice `patience` at most.
pub(super) async fn master(
    sentinels: &[ConnectionInfo],
    service: &str,
    patience: Duration,
) -> RedisResult<(String, u16)> {
    let majority = sentinels.len() / 2 + 1;
    let mut asked: FuturesUnordered<_> = sentinels
        .iter()
        .map(|sentinel| ask(sentinel, service, patience))
        .collect();
    let mut opinions: Vec<Opinion> = Vec::new();
    let mut last_error = None;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(opinion) => {
                let same = |other: &&Opinion| (&other.host, other.port) == (&opinion.host, opinion.port);
                if opinions.iter().filter(same).count() + 1 >= majority {
                    return Ok((opinion.host, opinion.port));
                }
                opinions.push(opinion);
            }
            // That it answered says more than that others did not.
            Err(error) if last_error.is_none() || !error.is_io_error() => last_error = Some(error),
            Err(_) => {}
        }
    }
    let newest = opinions.into_iter().max_by_key(|opinion| opinion.epoch);
    match newest {
        Some(opinion) => Ok((opinion.host, opinion.port)),
        None => {
            Err(last_error
                .unwrap_or_else(|| (ErrorKind::EmptySentinelList, "the URL names no Sentinel").into()))
        }
    }
}

async fn ask(sentinel: &ConnectionInfo, service: &str, patience: Duration) -> RedisResult<Opinion> {
    let mut connection = Client::open(sentinel.clone())?
        .get_multiplexed_async_connection_with_config(&connection_config(patience, patience))
        .await?;
    let answer: RedisResult<HashMap<String, String>> = redis::cmd("SENTINEL")
        .arg("MASTER")
        .arg(service)
        .query_async(&mut connection)
        .await;
    let fields = answer.map_err(|error| {
        if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) {
            mistaken::error(mistaken::NO_MASTER)
        } else {
            error
        }
    })?;
    opinion(&fields).ok_or_else(|| RedisError::from((ErrorKind::UnexpectedReturnType, "SENTINEL MASTER")))
}

fn opinion(fields: &HashMap<String, String>) -> Option<Opinion> {
    Some(Opinion {
        host: fields.get("ip")?.clone(),
        port: fields.get("port")?.parse().ok()?,
        epoch: fields
            .get("config-epoch")
            .and_then(|epoch| epoch.parse().ok())
            .unwrap_or(0),
    })
}
