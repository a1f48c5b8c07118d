//! On the broker: what nobody owns any more, after whole keys were evicted or deleted (see [`crate::broker`]).

use std::time::Duration;

use holdfast_core::config::Durability;

use crate::broker::Janitor;
use crate::meters::maintained;
use crate::worker::WorkerState;

/// The rest between steps that had more to do.
const BREATH: Duration = Duration::from_millis(20);

pub(super) async fn run(shared: &WorkerState) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    let queues: Vec<String> = shared
        .lanes
        .values()
        .filter(|lane| lane.durability == Durability::Redis)
        .map(|lane| lane.name.to_string())
        .collect();
    if queues.is_empty() {
        return;
    }
    let mut janitor = Janitor::new(broker.clone(), queues);
    loop {
        let mut rest = shared.settings.worker.maintenance;
        if broker.serves() {
            let swept = janitor.step().await;
            maintained("janitor", &swept, |swept| swept.requeued);
            match swept {
                Ok(swept) => {
                    if swept.requeued > 0 {
                        tracing::warn!(
                            jobs = swept.requeued,
                            "returned jobs that were missing from the broker's lists"
                        );
                        shared.lanes.values().for_each(|lane| lane.broker_alarm.now());
                    }
                    if swept.more {
                        rest = BREATH;
                    }
                }
                Err(error) => tracing::debug!(error = %error, "cannot tidy the broker"),
            }
        }
        tokio::time::sleep(rest).await;
    }
}
