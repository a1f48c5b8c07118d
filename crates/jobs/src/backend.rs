//! Holdfast as an apalis backend: the only file that names apalis.
//!
//! apalis is the worker runtime: it polls for jobs, limits concurrency, and stops gracefully. This backend feeds it from a
//! channel that the fetchers fill, so it never returns an error for an outage, and never ends because of one. Outcomes do
//! not pass through apalis either: the runner hands them to the finisher, which retries by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use apalis::layers::WorkerBuilderExt;
use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc;
use tower::layer::util::Identity;

use crate::worker::lane::Lane;
use crate::worker::{Delivery, WorkerState, execute};

/// apalis wants an id for each task that is unique among those in flight. One job may be delivered twice (rescued and
/// claimed again), so deliveries are numbered.
static DELIVERIES: AtomicU64 = AtomicU64::new(0);

/// The channel of one lane, as apalis sees it.
#[derive(Debug)]
struct LaneBackend {
    shared: Arc<WorkerState>,
    deliveries: mpsc::Receiver<Delivery>,
}

impl Backend for LaneBackend {
    type Task = Task<Delivery>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.deliveries.poll_recv(cx).map(|delivery| {
            delivery.map(|delivery| {
                let number = DELIVERIES.fetch_add(1, Ordering::Relaxed);
                Ok(TaskBuilder::new(delivery)
                    .task_id(TaskId::from_int(number))
                    .build())
            })
        })
    }

    /// Called when nothing runs any more: what was not started goes back.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.deliveries.close();
        while let Ok(delivery) = self.deliveries.try_recv() {
            delivery.hand_back(&self.shared);
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for LaneBackend {
    type Args = Delivery;
    type Id = u64;
    /// What comes out of the channel is decoded already; apalis has no wire format to apply.
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Runs a lane's jobs in an apalis worker until the stop signal, then until they are done.
pub(crate) async fn run_lane(
    shared: Arc<WorkerState>,
    lane: Arc<Lane>,
    deliveries: mpsc::Receiver<Delivery>,
) {
    let stop = shared.stop.clone();
    let runner = Arc::clone(&shared);
    let worker = WorkerBuilder::new(&*lane.name)
        .backend(LaneBackend { shared, deliveries })
        .concurrency(lane.concurrency())
        .build(move |delivery: Delivery| {
            let shared = Arc::clone(&runner);
            // A task each, so that jobs of one lane share the cores.
            let execution = tokio::spawn(async move { execute(&shared, delivery).await });
            async move {
                if let Err(error) = execution.await {
                    // Handlers' panics are caught further in: this one is our own. The lease tells the rescuer in the end.
                    tracing::error!(error = %error, "an execution ended without an outcome");
                }
            }
        });
    let stopped = async move {
        stop.wait().await;
        Ok::<(), std::io::Error>(())
    };
    if let Err(error) = worker.run_until(stopped).await {
        // The backend and the service cannot fail; what is left is a fault of apalis' own state.
        tracing::error!(queue = %lane.name, error = %error, "the runtime of a lane ended");
    }
}
