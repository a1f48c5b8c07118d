//! Which master of a cluster owns which slots, as its nodes say.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value, make_extension_error};

use super::connect::connection_config;
use super::mistaken;
use super::slot::{SLOTS, slot_of_key};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Address {
    /// The `host:port` of a redirection. A node that knows no name of the other leaves it out, which means its own host.
    pub(super) fn of_redirection(text: &str, own: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            host: if host.is_empty() || host == "?" {
                own.host.clone()
            } else {
                host.to_owned()
            },
            port: port.parse().ok()?,
        })
    }
}

/// The masters that own slots, and their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topology {
    /// Sorted, each once.
    pub(super) masters: Vec<Address>,
    /// First and last slot, and whose they are, as an index into `masters`.
    pub(super) ranges: Vec<(u16, u16, usize)>,
}

impl Topology {
    /// Reads the reply to `CLUSTER SLOTS`; `None` if it is none. `asked`: the host that was asked, which nodes without
    /// a name of their own are reached by.
    pub(super) fn read(reply: &Value, asked: &str) -> Option<Self> {
        let Value::Array(rows) = reply else {
            return None;
        };
        let rows: Vec<(u16, u16, Address)> = rows
            .iter()
            .map(|row| read_row(row, asked))
            .collect::<Option<_>>()?;
        let masters: BTreeSet<&Address> = rows.iter().map(|(_, _, master)| master).collect();
        let masters: Vec<Address> = masters.into_iter().cloned().collect();
        let ranges = rows
            .iter()
            .map(|(first, last, master)| Some((*first, *last, masters.binary_search(master).ok()?)))
            .collect::<Option<_>>()?;
        Some(Self { masters, ranges })
    }

    /// The master that owns the slot of `key`.
    pub(super) fn owner_of(&self, key: &str) -> Option<&Address> {
        let slot = slot_of_key(key.as_bytes());
        let range = self
            .ranges
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot));
        self.masters.get(range?.2)
    }

    /// Asks the nodes at once; the first that is in touch with the majority of the cluster tells.
    ///
    /// # Errors
    /// None can be reached, or none is in touch with the majority.
    pub(super) async fn ask_seeds(seeds: &[ConnectionInfo], patience: Duration) -> RedisResult<Self> {
        let asked = seeds.iter().map(|seed| async move {
            let mut connection = Client::open(seed.clone())?
                .get_multiplexed_async_connection_with_config(&connection_config(patience, patience))
                .await?;
            let host = match seed.addr() {
                redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => {
                    host.as_str()
                }
                _ => "",
            };
            Self::ask(&mut connection, host).await
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut refused: Option<RedisError> = None;
        while let Some(told) = asked.next().await {
            match told {
                Ok(topology) => return Ok(topology),
                Err(error) if refused.is_none() || !error.is_io_error() => refused = Some(error),
                Err(_) => {}
            }
        }
        Err(refused.unwrap_or_else(|| (ErrorKind::InvalidClientConfig, "the URL names no host").into()))
    }

    /// Asks one node, which was reached at `host`.
    pub(super) async fn ask(connection: &mut MultiplexedConnection, host: &str) -> RedisResult<Self> {
        let mut asking = redis::pipe();
        asking.cmd("CLUSTER").arg("INFO");
        asking.cmd("CLUSTER").arg("SLOTS");
        let replies = connection.req_packed_commands(&asking, 0, 2).await?;
        let [state, slots] = <[Value; 2]>::try_from(replies)
            .map_err(|_| RedisError::from((ErrorKind::UnexpectedReturnType, "CLUSTER")))?;
        let slots = slots.extract_error().map_err(mistaken::without_slots)?;
        // An account may lack the right to ask for the state; then the writes tell.
        if redis::from_redis_value::<String>(state).is_ok_and(|state| state.contains("cluster_state:fail")) {
            return Err(down());
        }
        match Self::read(&slots, host) {
            Some(topology) if topology.masters.is_empty() => Err(down()),
            Some(topology) => Ok(topology),
            None => Err((ErrorKind::UnexpectedReturnType, "CLUSTER SLOTS").into()),
        }
    }
}

/// The cluster does not serve, in the words of its nodes.
pub(super) fn down() -> RedisError {
    make_extension_error("CLUSTERDOWN".to_owned(), None)
}

/// First slot, last slot, the master, and its replicas: `[first, last, [host, port, …], …]`.
fn read_row(row: &Value, asked: &str) -> Option<(u16, u16, Address)> {
    let Value::Array(parts) = row else {
        return None;
    };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &parts[..] else {
        return None;
    };
    let host = match master.first()? {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host.as_str(),
        Value::Nil => "",
        _ => return None,
    };
    let Value::Int(port) = master.get(1)? else {
        return None;
    };
    let slot = |number: i64| {
        let slot = u16::try_from(number).ok()?;
        (usize::from(slot) < SLOTS).then_some(slot)
    };
    let address = Address {
        host: if host.is_empty() || host == "?" {
            asked.to_owned()
        } else {
            host.to_owned()
        },
        port: u16::try_from(*port).ok()?,
    };
    Some((slot(*first)?, slot(*last)?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn a_topology_names_each_master_once_and_the_asked_host_where_there_is_no_name() {
        let host = || Value::BulkString(b"b".to_vec());
        let reply = Value::Array(vec![
            row(0, 5_000, host(), 7_001),
            row(5_001, 10_000, Value::Nil, 7_002),
            row(10_001, 16_383, host(), 7_001),
        ]);
        let topology = Topology::read(&reply, "a").unwrap();
        let named: Vec<String> = topology.masters.iter().map(Address::to_string).collect();
        assert_eq!(named, ["a:7002", "b:7001"]);
        assert_eq!(
            topology.ranges,
            [(0, 5_000, 1), (5_001, 10_000, 0), (10_001, 16_383, 1)]
        );
        for other in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![row(0, 16_384, host(), 1)]),
        ] {
            assert_eq!(Topology::read(&other, "a"), None, "{other:?}");
        }
    }

    #[test]
    fn a_redirection_may_leave_out_the_host() {
        let own = Address {
            host: "own".to_owned(),
            port: 1,
        };
        let told = |text| Address::of_redirection(text, &own).map(|address| address.to_string());
        assert_eq!(told("10.0.0.1:7000").as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(told("[::1]:7000").as_deref(), Some("::1:7000"));
        assert_eq!(told(":7000").as_deref(), Some("own:7000"));
        assert_eq!(told("nonsense"), None);
    }
}
