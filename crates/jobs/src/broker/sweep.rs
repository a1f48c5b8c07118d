//! The janitor's broom: keys and fields that no job needs any more.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::janitor::{Swept, Ward};
use super::keys::{EVERY_QUEUE, QueueKey};
use super::script::{self, Call};
use super::{Broker, BrokerError, MAX_BATCH, seconds};

/// Keys of the server looked at in one slice.
const SLICE: usize = 1_000;
const SLICES_PER_STEP: usize = 4;
/// Inflight sets of unknown members that are remembered.
const MAX_ORPHANS: usize = 1_000;

/// A round over all keys of the server, of one master of a cluster after the other, a few slices in each step.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Which master of a cluster is looked through now, and how far.
    master: usize,
    cursor: u64,
    /// Inflight sets of members that nobody knew, and since when. Such a member may be alive, and registers again
    /// within `lost_after`.
    orphans: HashMap<String, Instant>,
}

impl Sweep {
    pub(super) async fn step(
        &mut self,
        broker: &Broker,
        wards: &[Ward],
        swept: &mut Swept,
    ) -> Result<(), BrokerError> {
        for _ in 0..SLICES_PER_STEP {
            let mut scan = redis::cmd("SCAN");
            scan.arg(self.cursor)
                .arg("MATCH")
                .arg(EVERY_QUEUE)
                .arg("COUNT")
                .arg(SLICE);
            let at = self.master;
            let (masters, (next, found)): (usize, (u64, Vec<String>)) = broker
                .gate
                .run_freeing("broker.sweep", |connection| async move {
                    let mut masters = connection.masters();
                    let count = masters.len().max(1);
                    match masters.get_mut(at % count) {
                        Some(master) => Ok((count, scan.query_async(&mut master.connection).await?)),
                        None => Ok((count, Default::default())),
                    }
                })
                .await?;
            self.cursor = next;
            for ward in wards {
                swept.metas += sweep_metas(broker, ward, &found).await?;
                self.sight_orphans(broker, ward, &found).await?;
            }
            if next == 0 {
                self.master = (at + 1) % masters;
                break;
            }
        }
        swept.orphans += self.drop_orphans(broker, wards).await?;
        Ok(())
    }

    /// Remembers the inflight sets among `found` whose member is unknown.
    async fn sight_orphans(
        &mut self,
        broker: &Broker,
        ward: &Ward,
        found: &[String],
    ) -> Result<(), BrokerError> {
        let sets = found.iter().filter_map(|key| match QueueKey::parse(key) {
            Some(QueueKey::Inflight { queue, member }) if queue == ward.queue => Some((key, member)),
            _ => None,
        });
        let sets: Vec<_> = sets.collect();
        if sets.is_empty() {
            return Ok(());
        }
        let members = broker.members(&ward.keys).await?;
        for (key, member) in sets {
            if members.iter().any(|known| known == member) {
                self.orphans.remove(key);
            } else if self.orphans.len() < MAX_ORPHANS {
                self.orphans.entry(key.clone()).or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Drops the orphans that have stayed unknown for long enough.
    async fn drop_orphans(&mut self, broker: &Broker, wards: &[Ward]) -> Result<u64, BrokerError> {
        if !broker.contact.unbroken_for(broker.settings.contact) {
            return Ok(0);
        }
        let patience = Duration::from_secs(seconds(broker.settings.lost_after));
        let ripe: Vec<String> = self
            .orphans
            .iter()
            .filter(|(_, since)| since.elapsed() >= patience)
            .map(|(key, _)| key.clone())
            .take(MAX_BATCH)
            .collect();
        let mut dropped = 0;
        for key in ripe {
            if let Some(QueueKey::Inflight { queue, member }) = QueueKey::parse(&key)
                && let Some(ward) = wards.iter().find(|ward| ward.queue == queue)
            {
                let call = Call::new(&script::DROP_ORPHAN, 3)
                    .key(ward.keys.workers())
                    .key(ward.keys.lost())
                    .key(&key)
                    .arg(member);
                dropped += call
                    .run_freeing::<u64>(&broker.gate, "broker.drop_orphan")
                    .await?;
            }
            self.orphans.remove(&key);
        }
        Ok(dropped)
    }
}

/// Deletes the metas among `found` that belong to no job and have no end of their own.
async fn sweep_metas(broker: &Broker, ward: &Ward, found: &[String]) -> Result<u64, BrokerError> {
    let metas = found.iter().filter_map(|key| match QueueKey::parse(key) {
        Some(QueueKey::Meta { queue, id }) if queue == ward.queue => Some((key, id)),
        _ => None,
    });
    let metas: Vec<_> = metas.collect();
    let mut deleted = 0;
    for metas in metas.chunks(MAX_BATCH) {
        let mut call = Call::new(&script::SWEEP_META, 1 + metas.len()).key(ward.keys.data());
        for (key, _) in metas {
            call.push_key(key);
        }
        for (_, id) in metas {
            call.push_arg(id);
        }
        deleted += call.run_freeing::<u64>(&broker.gate, "broker.sweep_meta").await?;
    }
    Ok(deleted)
}

/// Goes on with the round over the crash counts: those of jobs that are gone are forgotten.
pub(super) async fn forget_crashes(broker: &Broker, ward: &mut Ward) -> Result<u64, BrokerError> {
    let call = Call::new(&script::SWEEP_CRASHES, 2)
        .key(ward.keys.crashes())
        .key(ward.keys.data())
        .arg(ward.crashes_cursor);
    let (next, gone): (u64, u64) = call.run_freeing(&broker.gate, "broker.sweep_crashes").await?;
    ward.crashes_cursor = next;
    Ok(gone)
}
