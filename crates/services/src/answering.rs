//! A service's health, answered from before its work begins until after it has ended: a worker that drains is alive.

use std::time::Duration;

use holdfast_core::shutdown::Shutdown;
use holdfast_http::health::HealthServer;
use tokio::time::timeout;

use crate::progress::Progress;

/// How long health checks wait for the work to begin. They could only say "not yet", and would for a second.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Longest wait for connections in use at the end of a service.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// Works and answers. Either of the two ends the other; the error of the work comes first.
pub(crate) async fn work_and_answer<T, E, W>(
    work: impl Future<Output = Result<(), W>>,
    progress: &Progress<T>,
    server: HealthServer,
    stop: Shutdown,
) -> Result<(), E>
where
    T: Clone,
    E: From<W> + From<std::io::Error>,
{
    let ended = Shutdown::new();
    let working = async {
        let worked = work.await;
        ended.trigger();
        worked
    };
    let answering = async {
        // Until then connections wait in the backlog.
        timeout(FIRST_ANSWER, ended.token().run_until_cancelled(progress.begun()))
            .await
            .ok();
        let answered = server.run_until_stopped(ended.clone()).await;
        stop.trigger();
        answered
    };
    let (worked, answered) = tokio::join!(working, answering);
    worked?;
    Ok(answered?)
}
