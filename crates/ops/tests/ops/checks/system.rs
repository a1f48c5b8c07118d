//! API, worker, beat, PostgreSQL and Redis as processes, for `validate` to look at.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_testkit::{
    Child, Persistence, PostgresOptions, PostgresServer, RedisOptions, RedisServer, eventually, free_port,
    http,
};
use serde_json::{Value, json};

use super::support::{Checks, DEADLINE, Place};

pub(crate) const KEY: &str = "a-key-that-is-long-enough-for-anyone";

/// API, worker, PostgreSQL and Redis, as in production but for the machine.
pub(crate) struct System {
    pub(crate) place: Place,
    pub(crate) postgres: PostgresServer,
    pub(crate) redis: RedisServer,
    _api: Child,
    worker: Option<Child>,
    beat: Option<Child>,
    pub(crate) url: String,
    port: u16,
}

impl System {
    pub(crate) async fn start() -> Self {
        Self::start_with(RedisOptions::default().persistence(Persistence::AofEverysec), &[]).await
    }

    pub(crate) async fn start_with(redis: RedisOptions, env: &[(&str, &str)]) -> Self {
        let mut system = Self::without_worker(redis, env).await;
        system.start_worker().await;
        system
    }

    pub(crate) async fn without_worker(redis: RedisOptions, env: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start(redis).await.unwrap();
        let redis_url = redis.url();
        Self::behind(redis, &redis_url, env).await
    }

    /// The services reach Redis at `redis_url`.
    pub(crate) async fn behind(redis: RedisServer, redis_url: &str, env: &[(&str, &str)]) -> Self {
        Self::on(PostgresOptions::default(), redis, redis_url, env).await
    }

    pub(crate) async fn on(
        postgres: PostgresOptions,
        redis: RedisServer,
        redis_url: &str,
        env: &[(&str, &str)],
    ) -> Self {
        let postgres = PostgresServer::start_with(postgres).await.unwrap();
        let port = free_port().unwrap();
        let place = Place::new()
            .with("DATABASE_URL", postgres.url())
            .with("REDIS_URL", redis_url)
            .with("HOLDFAST_API_KEY", KEY);
        let place = env
            .iter()
            .fold(place, |place, (name, value)| place.with(name, *value));
        let api = place.start_on("api", &[], port);
        let system = Self {
            url: format!("http://127.0.0.1:{port}"),
            place,
            postgres,
            redis,
            _api: api,
            worker: None,
            beat: None,
            port,
        };
        system.wait_ready(port).await;
        system
    }

    async fn wait_ready(&self, port: u16) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(
            "the service to be ready",
            DEADLINE,
            Duration::from_millis(50),
            async || {
                let answer = http::get(address, "/health/ready").await.ok()?;
                (answer.status == 200).then_some(())
            },
        )
        .await
        .unwrap();
    }

    pub(crate) async fn start_worker(&mut self) {
        let port = free_port().unwrap();
        self.worker = Some(self.place.start_on("worker", &[], port));
        self.wait_ready(port).await;
    }

    pub(crate) async fn start_beat(&mut self) {
        let port = free_port().unwrap();
        self.beat = Some(self.place.start_on("beat", &[], port));
        self.wait_ready(port).await;
    }

    /// A schedule that is due in many years.
    pub(crate) async fn make_schedule(&self) {
        let schedule = json!({"name": "centenary", "cron": "0 0 1 1 *", "kind": "debug.echo", "payload": {}});
        assert_eq!(self.send("/v1/schedules", &schedule).await, 201);
    }

    pub(crate) async fn validate(&self) -> Checks {
        self.validate_with(&[]).await
    }

    pub(crate) async fn validate_with(&self, more: &[&str]) -> Checks {
        let args = ["validate", "--url", &self.url];
        self.place.checks(&[&args, more].concat()).await
    }

    pub(crate) async fn post(&self, path: &str) {
        assert_eq!(self.send(path, &json!({})).await, 200);
    }

    /// The status that it is answered with.
    pub(crate) async fn send(&self, path: &str, body: &Value) -> u16 {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut client = http::Client::new(address).with_bearer(KEY);
        client.post_json(path, body).await.unwrap().status
    }
}
