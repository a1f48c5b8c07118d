//! A server that is not what its URL says, as errors with a code of ours, so that [`crate::failure`] reads them as it
//! reads a server's.

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, make_extension_error};

use super::topology::Topology;
use redis::aio::{ConnectionLike, MultiplexedConnection};

/// A node of a cluster, reached by the URL of a single server.
pub(crate) const CLUSTER_NODE: &str = "HOLDFAST_CLUSTER_NODE";
/// A single server, reached by the URL of a cluster.
pub(crate) const NO_CLUSTER: &str = "HOLDFAST_NO_CLUSTER";
/// A Sentinel, reached by the URL of a server.
pub(crate) const SENTINEL: &str = "HOLDFAST_SENTINEL";
/// The Sentinels do not know the service.
pub(crate) const NO_MASTER: &str = "HOLDFAST_NO_MASTER";

pub(super) fn error(code: &str) -> RedisError {
    make_extension_error(code.to_owned(), None)
}

/// What the server says when it is asked for the slots of its cluster and has none, as an error of ours.
pub(super) fn without_slots(refused: RedisError) -> RedisError {
    if refused.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) {
        error(NO_CLUSTER)
    } else {
        refused
    }
}

/// Whether a new connection that is to lead to a single server does. An account may lack the right to ask; then the
/// replies of its commands tell (`MOVED`).
///
/// # Errors
/// It leads to a Sentinel, or to one of several masters of a cluster; or it broke.
pub(super) async fn check_server(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut asking = redis::pipe();
    asking.cmd("ROLE");
    asking.cmd("CLUSTER").arg("SLOTS");
    let replies = connection.req_packed_commands(&asking, 0, 2).await?;
    let [role, slots] = &replies[..] else {
        return Ok(());
    };
    if let Value::Array(role) = role
        && let Some(Value::BulkString(name)) = role.first()
        && name == b"sentinel"
    {
        return Err(error(SENTINEL));
    }
    match Topology::read(slots, "") {
        Some(topology) if topology.masters.len() > 1 => Err(error(CLUSTER_NODE)),
        _ => Ok(()),
    }
}
