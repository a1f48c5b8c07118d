//! A worker's ear for the bells of its queues.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use holdfast_core::redis::GateError;
use tokio::time::{Instant, sleep_until, timeout};

use super::line::{Line, LineEvent};
use super::{Bell, KEY_PREFIX};

/// Longest wait for a pop to end that was asked to.
const UNBLOCK_WAIT: Duration = Duration::from_millis(250);
/// Pause before a pop is asked again to end.
const UNBLOCK_PAUSE: Duration = Duration::from_millis(2);

/// Hears rings of this process and, through a connection of its own, of all others.
pub struct Listener {
    bell: Bell,
    line: Line,
    /// Rings of this process that were heard, by queue.
    seen: HashMap<Box<str>, u64>,
}

/// What a wait has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Empty: nothing rang, or the bell was lost during the wait.
    pub rings: Vec<Ring>,
    /// Whether the bell on Redis is being listened to. If not, only polling finds what other processes enqueue.
    pub listening: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    pub queue: String,
    /// When there is something to do, counted from the ring.
    pub due_in: Duration,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("listening", &self.line.is_up())
            .finish_non_exhaustive()
    }
}

impl Listener {
    pub(super) fn new(bell: Bell) -> Self {
        Self {
            line: Line::new(bell.gate.clone()),
            seen: bell.local.counts(),
            bell,
        }
    }

    /// Waits until one of the queues rings, `max_wait` at most. Ends early, with no ring, when the bell on Redis is lost.
    ///
    /// The queues may be others with each call; to be heard again, a queue costs one round trip. A ring for a queue that
    /// is no longer among them is passed on to other workers. The future may be dropped at any time.
    pub async fn wait(&mut self, queues: &[String], max_wait: Duration) -> Heard {
        let end = Instant::now() + max_wait;
        let rings = self.wait_until(queues, end).await;
        Heard {
            rings,
            listening: self.line.is_up(),
        }
    }

    async fn wait_until(&mut self, queues: &[String], end: Instant) -> Vec<Ring> {
        let Self { bell, line, seen } = self;
        let mut mode = bell.gate.watch();
        // What was rung until now is seen below; what is rung from now on wakes.
        let mut news = pin!(bell.local.news());
        news.as_mut().enable();
        let rings = local_rings(bell, queues, seen);
        if !rings.is_empty() {
            return rings;
        }
        if let Some(id) = line.deaf_to(queues)
            && let Some(ring) = unblock(bell, line, queues, id).await
        {
            return vec![ring];
        }
        loop {
            let was_up = line.is_up();
            tokio::select! {
                () = &mut news => {
                    news.set(bell.local.news());
                    news.as_mut().enable();
                    let rings = local_rings(bell, queues, seen);
                    if !rings.is_empty() {
                        return rings;
                    }
                }
                said = line.listen(queues) => match said {
                    LineEvent::Rung { queue, due_in } => if let Some(ring) = keep_or_pass_on(bell, queues, queue, due_in) {
                        return vec![ring];
                    },
                    LineEvent::Up => {}
                    LineEvent::Broken => return Vec::new(),
                },
                _ = mode.wait_for(|mode| !mode.is_normal()), if was_up => {
                    line.hang_up();
                    return Vec::new();
                }
                () = sleep_until(end) => return Vec::new(),
            }
        }
    }
}

fn local_rings(bell: &Bell, queues: &[String], seen: &mut HashMap<Box<str>, u64>) -> Vec<Ring> {
    let heard = queues.iter().filter_map(|queue| {
        let due_in = bell.local.heard(queue, seen)?;
        Some(Ring {
            queue: queue.clone(),
            due_in,
        })
    });
    heard.collect()
}

/// Ends a pop that does not hear all queues. What it had popped by then is heard.
async fn unblock(bell: &Bell, line: &mut Line, queues: &[String], id: i64) -> Option<Ring> {
    match timeout(UNBLOCK_WAIT, end_pop(bell, line, id)).await {
        Ok(Ok(Some(LineEvent::Rung { queue, due_in }))) => keep_or_pass_on(bell, queues, queue, due_in),
        Ok(Ok(_nothing)) => None,
        Ok(Err(_)) | Err(_) => {
            line.renew();
            None
        }
    }
}

async fn end_pop(bell: &Bell, line: &mut Line, id: i64) -> Result<Option<LineEvent>, GateError> {
    loop {
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(id);
        let unblocked: bool = bell
            .gate
            .run("bell.unblock", |connection| async move {
                command.query_async(&mut connection.owner_of(KEY_PREFIX)?).await
            })
            .await?;
        if unblocked {
            return Ok(line.finish_pop().await);
        }
        // It has ended already, or the server has not seen it yet.
        if let Ok(said) = timeout(UNBLOCK_PAUSE, line.finish_pop()).await {
            return Ok(said);
        }
    }
}

/// The ring, if it is for one of the queues; else it is rung again for those who listen for it.
fn keep_or_pass_on(bell: &Bell, queues: &[String], queue: String, due_in: Duration) -> Option<Ring> {
    if queues.contains(&queue) {
        return Some(Ring { queue, due_in });
    }
    bell.pending.add(&queue, 1, due_in);
    None
}
