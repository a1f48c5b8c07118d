//! How the watchdog finds out whether a dependency answers: over a new connection, on a runtime of its own.
//!
//! Nothing here shares a pool, a gate or a thread with the worker, because those are what may be stuck. A runtime is
//! made for each question and gone with it: questions are asked only when the worker has been silent for long.

use std::time::Duration;

use holdfast_core::config::{DatabaseSettings, RedisEndpoint, RedisSettings};
use holdfast_core::sql::Database;
use holdfast_jobs::worker::DependencyProbe;
use redis::RedisResult;
use tokio::time::timeout;

/// Longest wait for an answer, connecting included.
const DEADLINE: Duration = Duration::from_secs(3);

/// Asks the database for a statement.
#[derive(Debug)]
pub(crate) struct SqlProbe {
    settings: DatabaseSettings,
}

impl SqlProbe {
    pub(crate) fn new(settings: &DatabaseSettings) -> Self {
        let settings = DatabaseSettings {
            max_connections: 1,
            min_connections: 0,
            ..settings.clone()
        };
        Self { settings }
    }

    async fn ask(&self) -> bool {
        let Ok(database) = Database::open(&self.settings) else {
            return false;
        };
        let answered = database.ping(DEADLINE).await.is_ok();
        database.close(DEADLINE).await;
        answered
    }
}

impl DependencyProbe for SqlProbe {
    fn name(&self) -> &'static str {
        "the database"
    }

    fn answers(&mut self) -> bool {
        answer_of(self.ask())
    }
}

/// Asks Redis for a PONG.
#[derive(Debug)]
pub(crate) struct RedisProbe {
    endpoint: RedisEndpoint,
    settings: RedisSettings,
}

impl RedisProbe {
    /// Of the queue's server; `None` if there is none.
    pub(crate) fn new(settings: &RedisSettings) -> Option<Self> {
        settings.queue.clone().map(|endpoint| Self {
            endpoint,
            settings: settings.clone(),
        })
    }

    async fn ask(&self) -> RedisResult<()> {
        let mut connection = holdfast_core::redis::connect(&self.endpoint, &self.settings, DEADLINE).await?;
        redis::cmd("PING").query_async(&mut connection).await
    }
}

impl DependencyProbe for RedisProbe {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn answers(&mut self) -> bool {
        answer_of(async {
            timeout(DEADLINE, self.ask())
                .await
                .is_ok_and(|answer| answer.is_ok())
        })
    }
}

/// A process that cannot even make a runtime cannot tell, and is not to be ended for it.
fn answer_of(question: impl Future<Output = bool>) -> bool {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(question),
        Err(error) => {
            tracing::warn!(%error, "the watchdog cannot ask whether a dependency answers");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::config::{Sources, load_from};
    use holdfast_testkit::{PostgresServer, RedisServer};
    use secrecy::SecretString;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Runtime::new().unwrap()
    }

    #[test]
    fn a_database_answers_while_it_is_there_and_not_while_it_hangs() {
        let runtime = runtime();
        let postgres = runtime.block_on(PostgresServer::start()).unwrap();
        let mut settings = load_from(Sources::default()).unwrap().database;
        settings.url = SecretString::from(postgres.url());
        let mut probe = SqlProbe::new(&settings);
        assert!(probe.answers());
        runtime.block_on(postgres.sigstop()).unwrap();
        assert!(!probe.answers());
        runtime.block_on(postgres.sigcont()).unwrap();
        assert!(probe.answers());
    }

    #[test]
    fn redis_answers_while_it_is_there_and_not_while_it_hangs_or_is_gone() {
        let runtime = runtime();
        let redis = runtime
            .block_on(RedisServer::start(holdfast_testkit::RedisOptions::default()))
            .unwrap();
        let mut settings = load_from(Sources::default()).unwrap().redis;
        assert!(RedisProbe::new(&settings).is_none());
        settings.queue = Some(RedisEndpoint {
            url: SecretString::from(redis.url()),
        });
        let mut probe = RedisProbe::new(&settings).unwrap();
        assert!(probe.answers());
        runtime.block_on(redis.sigstop()).unwrap();
        assert!(!probe.answers());
        runtime.block_on(redis.sigcont()).unwrap();
        assert!(probe.answers());
        runtime.block_on(redis.kill9()).unwrap();
        assert!(!probe.answers());
    }
}
