//! Who wakes the fetchers: the bell when there is one, and a lookout that peeks at the ledger.
//!
//! The lookout looks as often as [`LookPace`] says. One statement for all queues tells what is due now and what will be
//! due before the next look.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerState;
use crate::look_pace::LookPace;
use holdfast_core::config::Durability;

/// Longest wait for the bell in one go. Lanes that get room in between join the next wait, which is at once.
const BELL_WAIT: Duration = Duration::from_secs(1);

/// How often a full house asks whether a lane has room again.
const ROOM_POLL: Duration = Duration::from_millis(50);

/// Waits for the bells of every lane that has room.
pub(crate) async fn run_bell(shared: Arc<WorkerState>) {
    let mut listener = shared.jobs.bell().listener();
    while !shared.stop.is_triggered() {
        let queues: Vec<String> = shared
            .lanes
            .values()
            .filter(|lane| lane.room() > 0)
            .map(|lane| lane.name.to_string())
            .collect();
        let wait = if queues.is_empty() { ROOM_POLL } else { BELL_WAIT };
        let heard = tokio::select! {
            heard = listener.wait(&queues, wait) => heard,
            () = shared.stop.wait() => return,
        };
        for ring in heard.rings {
            if let Some(lane) = shared.lanes.get(ring.queue.as_str()) {
                lane.ledger_alarm.after(ring.due_in);
                if lane.durability == Durability::Redis {
                    lane.broker_alarm.after(ring.due_in);
                }
            }
        }
    }
}

/// Looks at the ledger for every lane.
pub(crate) async fn run_lookout(shared: Arc<WorkerState>) {
    let queues: Vec<String> = shared.lanes.keys().map(ToString::to_string).collect();
    let settings = &shared.settings.worker;
    let mut pace = LookPace::new(settings);
    loop {
        let pause = pace.pause(shared.gate.mode().is_normal());
        let mut modes = shared.gate.watch();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A bell that comes or goes is a reason to look: what was rung in between was not heard.
            changed = modes.changed() => if changed.is_err() { tokio::time::sleep(pause).await },
            () = shared.stop.wait() => return,
        }
        pace.looked(look(&shared, &queues, settings.safety_poll).await);
    }
}

/// Sets the alarms of what is due before the next safety poll; whether anything is due now. `None`: no answer.
async fn look(shared: &WorkerState, queues: &[String], horizon: Duration) -> Option<bool> {
    let peeked = shared.jobs.ledger().peek(queues).await;
    shared.vitals.looked();
    let due = match peeked {
        Ok(due) => due,
        Err(error) => {
            // The fetchers and the heartbeat say that the ledger is away.
            tracing::debug!(error = ?error, "cannot poll the ledger");
            return None;
        }
    };
    // What is due in a queue with limits may not start all the same; its claim knows, and says when to ask again.
    for lane in shared.lanes.values().filter(|lane| lane.is_limited()) {
        lane.ledger_alarm.now();
    }
    let mut found = false;
    for (queue, due_in) in due {
        let Some(lane) = shared.lanes.get(queue.as_str()) else {
            continue;
        };
        if due_in <= horizon {
            lane.ledger_alarm.after(due_in);
        }
        found |= due_in.is_zero();
    }
    Some(found)
}
