//! A listener's connection to Redis: down, connecting, free, or in a blocking pop.
//!
//! Its futures live here and not in the wait that polls them, so a wait that is dropped loses nothing: the next one goes
//! on where it stopped.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_core::mode::Mode;
use holdfast_core::redis::{GateError, MultiplexedConnection, RedisGate};
use redis::RedisError;
use tokio::time::Instant;

use super::{KEY_PREFIX, key};

/// How long one blocking pop blocks. Short, so that a connection that died unnoticed is found out.
const BLOCK: Duration = Duration::from_secs(2);
/// How much later than the pop's end its answer may come.
const GRACE: Duration = Duration::from_secs(1);
/// Rest after a connection could not be made or broke.
const REST: Duration = Duration::from_millis(250);

type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type PopResult = Result<(Ear, Option<(String, u64)>), RedisError>;

/// A connection and the id by which another one can unblock it.
struct Ear {
    connection: MultiplexedConnection,
    id: i64,
}

enum State {
    Down {
        until: Instant,
    },
    Connecting(BoxedFuture<Result<Ear, GateError>>),
    Free(Ear),
    Popping {
        queues: Vec<String>,
        id: i64,
        pop: BoxedFuture<PopResult>,
    },
}

pub(super) struct Line {
    gate: RedisGate,
    state: State,
    /// Where the next pop begins in the list of queues, so that a busy one does not drown the others.
    turn: usize,
}

/// What a line has to say.
pub(super) enum LineEvent {
    Rung {
        queue: String,
        due_in: Duration,
    },
    /// It hears from now on.
    Up,
    /// It broke: rings may have been missed.
    Broken,
}

impl Line {
    pub(super) fn new(gate: RedisGate) -> Self {
        Self {
            gate,
            state: State::Down {
                until: Instant::now(),
            },
            turn: 0,
        }
    }

    /// Whether it hears now.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Free(_) | State::Popping { .. })
    }

    /// The id to unblock if it is in a pop that does not hear all of `queues`.
    pub(super) fn deaf_to(&self, queues: &[String]) -> Option<i64> {
        match &self.state {
            State::Popping {
                queues: popping, id, ..
            } if queues.iter().any(|queue| !popping.contains(queue)) => Some(*id),
            _ => None,
        }
    }

    /// Drops the connection; there will be another after a rest.
    pub(super) fn hang_up(&mut self) {
        self.state = State::Down {
            until: Instant::now() + REST,
        };
    }

    /// Drops the connection; there will be another at once.
    pub(super) fn renew(&mut self) {
        self.state = State::Down {
            until: Instant::now(),
        };
    }

    /// Waits for the end of the pop under way. Dropping the future loses nothing.
    pub(super) async fn finish_pop(&mut self) -> Option<LineEvent> {
        poll_fn(|context| match &mut self.state {
            State::Popping { pop, .. } => {
                let popped = std::task::ready!(pop.as_mut().poll(context));
                Poll::Ready(self.end_pop(popped))
            }
            State::Down { .. } | State::Connecting(_) | State::Free(_) => Poll::Ready(None),
        })
        .await
    }

    /// Listens for `queues` until there is something to say. Dropping the future loses nothing.
    pub(super) async fn listen(&mut self, queues: &[String]) -> LineEvent {
        loop {
            if let State::Down { until } = self.state {
                tokio::time::sleep_until(until).await;
                let mut mode = self.gate.watch();
                if mode.wait_for(Mode::is_normal).await.is_err() {
                    // No gate, no Redis. It cannot be while `self` holds one.
                    std::future::pending::<()>().await;
                }
                self.state = State::Connecting(Box::pin(connect(self.gate.clone())));
            }
            if let Some(said) = poll_fn(|context| self.poll(context, queues)).await {
                return said;
            }
        }
    }

    /// One step from one state to the next; `None` if there is nothing to say of it.
    fn poll(&mut self, context: &mut Context<'_>, queues: &[String]) -> Poll<Option<LineEvent>> {
        match &mut self.state {
            State::Down { .. } => Poll::Ready(None),
            State::Connecting(connecting) => {
                let made = std::task::ready!(connecting.as_mut().poll(context));
                match made {
                    Ok(ear) => {
                        self.state = State::Free(ear);
                        Poll::Ready(Some(LineEvent::Up))
                    }
                    Err(error) => {
                        if !error.is_unavailable() {
                            tracing::debug!(error = %error, "cannot wait for wake-ups on Redis; polling");
                        }
                        self.hang_up();
                        Poll::Ready(None)
                    }
                }
            }
            State::Free(_) if queues.is_empty() => Poll::Pending,
            State::Free(_) => {
                self.begin_pop(queues);
                Poll::Ready(None)
            }
            State::Popping { pop, .. } => {
                let popped = std::task::ready!(pop.as_mut().poll(context));
                Poll::Ready(self.end_pop(popped))
            }
        }
    }

    fn begin_pop(&mut self, queues: &[String]) {
        let mut queues = queues.to_vec();
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn % queues.len();
        queues.rotate_left(turn);
        let down = State::Down {
            until: Instant::now(),
        };
        if let State::Free(ear) = std::mem::replace(&mut self.state, down) {
            let id = ear.id;
            let pop = Box::pin(pop(ear, queues.iter().map(|queue| key(queue)).collect()));
            self.state = State::Popping { queues, id, pop };
        }
    }

    fn end_pop(&mut self, popped: PopResult) -> Option<LineEvent> {
        match popped {
            Ok((ear, rung)) => {
                self.state = State::Free(ear);
                let (key, millis) = rung?;
                let queue = key.strip_prefix(KEY_PREFIX)?.to_owned();
                Some(LineEvent::Rung {
                    queue,
                    due_in: Duration::from_millis(millis),
                })
            }
            Err(error) => {
                tracing::debug!(error = %error, "the connection for wake-ups broke; polling until there is another");
                self.hang_up();
                Some(LineEvent::Broken)
            }
        }
    }
}

async fn connect(gate: RedisGate) -> Result<Ear, GateError> {
    let mut connection = gate.dedicated(KEY_PREFIX, BLOCK + GRACE).await?;
    // Without its id (an account may lack the command) it cannot be unblocked, and is dropped instead.
    let id = redis::cmd("CLIENT")
        .arg("ID")
        .query_async(&mut connection)
        .await
        .unwrap_or(0);
    Ok(Ear { connection, id })
}

async fn pop(mut ear: Ear, keys: Vec<String>) -> PopResult {
    let mut command = redis::cmd("BLPOP");
    command.arg(keys).arg(BLOCK.as_secs());
    let rung: Option<(String, String)> = command.query_async(&mut ear.connection).await?;
    // Nobody else writes here; whatever cannot be read means: look at once.
    Ok((ear, rung.map(|(key, millis)| (key, millis.parse().unwrap_or(0)))))
}
