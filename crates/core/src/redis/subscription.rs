//! One channel of a role's server, heard on a connection of its own.
//!
//! It is best effort, as Redis' pub/sub is: what is published while nobody listens is lost. Whoever listens must
//! know a way to do without. It does not reconnect; it ends when its connection does, and then a new one is asked
//! for. A connection whose packets are lost in silence ends by its keepalive within half a minute; the gate's mode
//! changes long before that if it was the server.

use std::fmt;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use redis::Msg;
use redis::aio::PubSub;

/// A subscription to one channel; see [`RedisGate::subscribe`](super::RedisGate::subscribe).
pub struct Subscription {
    messages: Pin<Box<dyn Stream<Item = Msg> + Send>>,
}

impl Subscription {
    pub(super) fn new(channel: PubSub) -> Self {
        Self {
            messages: Box::pin(channel.into_on_message()),
        }
    }

    /// The next message, or `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.next().await?;
        Some(message.get_payload_bytes().to_vec())
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
