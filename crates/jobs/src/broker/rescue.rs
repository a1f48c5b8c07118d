//! Returning the jobs of members that are gone.

use super::keys::MEMBER_PREFIX;
use super::keys::worker;
use super::script::{self, Call};
use super::{Broker, BrokerError, MAX_BATCH, QueueKeys, seconds};

/// How long a lost name stays refused: longer than any process hangs and then goes on.
const NAME_REFUSED_SECONDS: u64 = 86_400;

/// Most portions of [`MAX_BATCH`] jobs in one call.
const MAX_PORTIONS: usize = 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerRescueReport {
    /// Jobs that went back to the head of the queue.
    pub returned: u64,
    /// Members that lost jobs, or were found lost.
    pub members: Vec<String>,
    /// There are more: call again.
    pub more: bool,
}

impl Broker {
    /// Returns the jobs of members whose last heartbeat is older than `lost_after` to the head of the queue and counts
    /// one crash for each that was running. Bounded; any number of workers may do it at once.
    ///
    /// Does nothing until the server has served for [`super::BrokerSettings::contact`] without a break, counted from the
    /// first call. What a crash count means is decided by the worker that fetches the job next.
    pub async fn rescue(&self, queue: &str) -> Result<BrokerRescueReport, BrokerError> {
        if !self.contact.unbroken_for(self.settings.contact) {
            return Ok(BrokerRescueReport::default());
        }
        let keys = QueueKeys::new(queue);
        let mut rescued = BrokerRescueReport {
            members: self.declare_lost(&keys).await?,
            ..BrokerRescueReport::default()
        };
        let mut portions = MAX_PORTIONS;
        for member in &rescued.members {
            loop {
                if portions == 0 {
                    rescued.more = true;
                    return Ok(rescued);
                }
                portions -= 1;
                let (returned, left) = self.rescue_portion(&keys, member).await?;
                rescued.returned += returned;
                if left == 0 {
                    break;
                }
            }
        }
        Ok(rescued)
    }

    /// Moves overdue members among the lost, and names those that still hold jobs.
    async fn declare_lost(&self, keys: &QueueKeys) -> Result<Vec<String>, BrokerError> {
        let call = Call::new(&script::DECLARE_LOST, 2)
            .key(keys.workers())
            .key(keys.lost())
            .arg(seconds(self.settings.lost_after))
            .arg(seconds(self.settings.stock_lost_after))
            .arg(MEMBER_PREFIX);
        Ok(call.run_freeing(&self.gate, "broker.declare_lost").await?)
    }

    /// How many jobs went back, and how many the member still holds.
    async fn rescue_portion(&self, keys: &QueueKeys, member: &str) -> Result<(u64, u64), BrokerError> {
        // A stock worker keeps its name over restarts; it cannot be refused.
        let refused = if worker(member).is_some() {
            NAME_REFUSED_SECONDS
        } else {
            0
        };
        let call = Call::new(&script::RESCUE, 7)
            .key(keys.workers())
            .key(keys.lost())
            .key(keys.inflight(member))
            .key(keys.active())
            .key(keys.data())
            .key(keys.crashes())
            .key(keys.signal())
            .arg(member)
            .arg(MAX_BATCH)
            .arg(refused);
        Ok(call.run_freeing(&self.gate, "broker.rescue").await?)
    }
}
