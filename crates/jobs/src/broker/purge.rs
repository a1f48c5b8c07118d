//! Emptying a queue.

use super::script::{self, Call};
use super::{Broker, BrokerError, MAX_BATCH, QueueKeys, millis};

impl Broker {
    /// Takes up to [`MAX_BATCH`] waiting jobs out of the queue; their outcome, cancelled, is remembered. How many it took:
    /// zero if nothing waits, or if workers were faster.
    pub async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        let keys = QueueKeys::new(queue);
        let mut pipe = redis::pipe();
        pipe.cmd("LRANGE").arg(keys.active()).arg(0).arg(MAX_BATCH - 1);
        pipe.cmd("ZRANGE").arg(keys.scheduled()).arg(0).arg(MAX_BATCH - 1);
        let (active, mut scheduled): (Vec<String>, Vec<String>) = self
            .gate
            .run_freeing("broker.purge_look", |mut c| async move {
                pipe.query_async(&mut c).await
            })
            .await?;
        scheduled.truncate(MAX_BATCH - active.len());
        if active.is_empty() && scheduled.is_empty() {
            return Ok(0);
        }
        let ids = active.iter().chain(&scheduled);
        let mut call = Call::new(&script::PURGE, 4 + active.len() + scheduled.len())
            .key(keys.data())
            .key(keys.active())
            .key(keys.scheduled())
            .key(keys.crashes());
        for id in ids.clone() {
            call.push_key(keys.meta(id));
        }
        call = call.arg(millis(self.settings.result_ttl)).arg(active.len());
        for id in ids {
            call.push_arg(id);
        }
        Ok(call.run_freeing(&self.gate, "broker.purge").await?)
    }
}
