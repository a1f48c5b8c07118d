//! One signal to stop, that every task of the process can wait for.
//!
//! The first SIGTERM or SIGINT asks for an orderly stop: the worker hands its jobs back, the listener drains. A
//! second one means that somebody is tired of waiting, and ends the process at once with the shell's code for
//! that signal (143 or 130). Whoever waits must bound its own clean-up by the grace period: this type only tells.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A clonable stop switch. It can be thrown once, by anyone who holds it, and stays thrown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A switch that only [`trigger`](Self::trigger) throws, until [`on_signals`](Self::on_signals) is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets SIGTERM and SIGINT throw the switch too. Call it once, inside the tokio runtime.
    ///
    /// Errors if the handlers cannot be installed: a service that cannot be stopped in order must not start.
    pub fn on_signals(&self) -> io::Result<()> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(obey_signals(self.clone(), terminate, interrupt));
        Ok(())
    }

    /// Throws the switch. Throwing it again changes nothing.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once the switch is thrown, at once if it was.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// The token itself, for `run_until_cancelled` and child tokens.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

async fn obey_signals(shutdown: Shutdown, mut terminate: Signal, mut interrupt: Signal) {
    let name = next_signal(&mut terminate, &mut interrupt).await.name;
    tracing::info!(
        signal = name,
        "stopping: finishing running work; a second signal ends the process immediately"
    );
    shutdown.trigger();
    let second = next_signal(&mut terminate, &mut interrupt).await;
    tracing::warn!(
        signal = second.name,
        "stopping immediately: received a second signal"
    );
    std::process::exit(second.exit_code);
}

/// A stop signal, and the exit code a shell gives to a process that it ended.
struct StopSignal {
    name: &'static str,
    exit_code: i32,
}

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> StopSignal {
    tokio::select! {
        _ = terminate.recv() => StopSignal { name: "SIGTERM", exit_code: 143 },
        _ = interrupt.recv() => StopSignal { name: "SIGINT", exit_code: 130 },
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, BufReader, Lines};
    use tokio::process::{Child, ChildStdout, Command};
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Not a test: the process that the tests below start and signal. It says when it listens, and never ends by
    /// itself after the first signal.
    #[tokio::test]
    #[ignore = "started by the tests of signals, as a process of its own"]
    async fn stoppable_process() {
        let shutdown = Shutdown::new();
        shutdown.on_signals().unwrap();
        println!("listening");
        shutdown.wait().await;
        println!("stopping");
        std::future::pending::<()>().await;
    }

    struct Stoppable {
        process: Child,
        lines: Lines<BufReader<ChildStdout>>,
    }

    impl Stoppable {
        async fn start() -> Self {
            let mut process = Command::new(std::env::current_exe().unwrap())
                .args([
                    "shutdown::tests::stoppable_process",
                    "--exact",
                    "--ignored",
                    "--nocapture",
                ])
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let mut started = Self { process, lines };
            started.reads("listening").await;
            started
        }

        /// The test harness may print on the same line.
        async fn reads(&mut self, wanted: &str) {
            let reading = async {
                while let Some(line) = self.lines.next_line().await.unwrap() {
                    if line.ends_with(wanted) {
                        return;
                    }
                }
                panic!("the process ended without saying {wanted:?}");
            };
            timeout(DEADLINE, reading).await.unwrap();
        }

        async fn signal(&self, signal: &str) {
            let pid = self.process.id().unwrap().to_string();
            assert!(
                Command::new("kill")
                    .args([signal, &pid])
                    .status()
                    .await
                    .unwrap()
                    .success()
            );
        }

        async fn exit_code(&mut self) -> Option<i32> {
            timeout(DEADLINE, self.process.wait())
                .await
                .unwrap()
                .unwrap()
                .code()
        }
    }

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends_with_the_code_of_its_kind() {
        for (second, code) in [("-TERM", 143), ("-INT", 130)] {
            let mut stoppable = Stoppable::start().await;
            stoppable.signal("-TERM").await;
            stoppable.reads("stopping").await;
            stoppable.signal(second).await;
            assert_eq!(stoppable.exit_code().await, Some(code));
        }
    }

    #[tokio::test]
    async fn an_interrupt_asks_as_well() {
        let mut stoppable = Stoppable::start().await;
        stoppable.signal("-INT").await;
        stoppable.reads("stopping").await;
    }

    #[tokio::test]
    async fn a_trigger_reaches_every_clone_and_stays() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        assert!(!shutdown.is_triggered());
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.wait().await;
        assert!(shutdown.is_triggered());
    }

    #[tokio::test]
    async fn a_child_token_is_cancelled_with_the_switch() {
        let shutdown = Shutdown::new();
        let child = shutdown.token().child_token();
        shutdown.trigger();
        assert!(child.is_cancelled());
    }
}
