//! `holdfast validate` against a sound system, and against systems that are broken in one way each: it names the fault
//! and no other.

use std::net::SocketAddr;

use holdfast_testkit::{
    Child, Eviction, FaultProxy, Mode, Persistence, PostgresOptions, PostgresServer, RedisOptions,
    RedisServer, eventually, free_port, http,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{Checks, DEADLINE, Place, Silent};

const KEY: &str = "a-key-that-is-long-enough-for-anyone";

/// API, worker, PostgreSQL and Redis, as in production but for the machine.
struct System {
    place: Place,
    postgres: PostgresServer,
    redis: RedisServer,
    _api: Child,
    worker: Option<Child>,
    url: String,
    port: u16,
}

impl System {
    async fn start() -> Self {
        Self::start_with(RedisOptions::default().persistence(Persistence::AofEverysec), &[]).await
    }

    async fn start_with(redis: RedisOptions, env: &[(&str, &str)]) -> Self {
        let mut system = Self::without_worker(redis, env).await;
        system.start_worker().await;
        system
    }

    async fn without_worker(redis: RedisOptions, env: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start(redis).await.unwrap();
        let redis_url = redis.url();
        Self::behind(redis, &redis_url, env).await
    }

    /// The services reach Redis at `redis_url`.
    async fn behind(redis: RedisServer, redis_url: &str, env: &[(&str, &str)]) -> Self {
        let postgres = PostgresServer::start().await.unwrap();
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
            std::time::Duration::from_millis(50),
            async || {
                let answer = http::get(address, "/health/ready").await.ok()?;
                (answer.status == 200).then_some(())
            },
        )
        .await
        .unwrap();
    }

    async fn start_worker(&mut self) {
        let port = free_port().unwrap();
        self.worker = Some(self.place.start_on("worker", &[], port));
        self.wait_ready(port).await;
    }

    async fn validate(&self) -> Checks {
        self.place.checks(&["validate", "--url", &self.url]).await
    }

    async fn post(&self, path: &str) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut client = http::Client::new(address).with_bearer(KEY);
        let answer = client.post_json(path, &json!({})).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_sound_system_passes_and_the_drill_proves_that_it_would_last() {
    let system = System::start().await;
    let checks = system
        .place
        .checks(&["validate", "--url", &system.url, "--drill"])
        .await;
    checks.assert_sound();
    let verdicts = checks.verdicts();
    for name in [
        "configuration.settings",
        "database.pools",
        "redis.queue",
        "api.key",
        "workers.queues",
        "queue.round_trip",
        "health.services",
        "errors.format",
        "security.key_demanded",
    ] {
        assert_eq!(verdicts[name], "pass", "{name}");
    }
    assert_ne!(verdicts["drill.redis_outage"], "skipped");
    assert!(
        checks.said("drill.redis_outage").contains("run once"),
        "{:#}",
        checks.document
    );
    assert!(!checks.document.to_string().contains(KEY));

    // The same without an API: queues and workers straight from the database.
    let direct = system.place.checks(&["validate"]).await;
    direct.assert_sound();
    assert_eq!(direct.verdicts()["queue.round_trip"], "pass");
    assert_eq!(direct.verdicts()["security.docs"], "skipped");

    let (code, xml) = system
        .place
        .run(&["validate", "--url", &system.url, "--junit"])
        .await;
    assert_eq!(code, 0);
    assert!(
        xml.contains("<testsuite name=\"redis\"") && xml.contains("failures=\"0\""),
        "{xml}"
    );
}

#[tokio::test]
async fn no_worker() {
    let system = System::without_worker(RedisOptions::default(), &[]).await;
    let checks = system.validate().await;
    checks.assert_only("workers.alive", "Start `worker`");
    assert_eq!(checks.code, 1);
    assert_eq!(checks.verdicts()["queue.round_trip"], "skipped");
}

#[tokio::test]
async fn a_worker_that_serves_only_some_queues() {
    let mut system = System::without_worker(RedisOptions::default(), &[]).await;
    system.place =
        std::mem::replace(&mut system.place, Place::new()).with("HOLDFAST__WORKER__QUEUES", "default,ml");
    system.start_worker().await;
    system
        .validate()
        .await
        .assert_only("workers.queues", "events, notifications");
}

#[tokio::test]
async fn a_redis_that_may_evict_jobs() {
    let evicting = RedisOptions::default()
        .persistence(Persistence::AofEverysec)
        .maxmemory(256 * 1024 * 1024, Eviction::AllKeysLru);
    let system = System::start_with(evicting, &[("HOLDFAST__QUEUES__EVENTS__DURABILITY", "redis")]).await;
    let checks = system.validate().await;
    checks.assert_only("redis.policy", "may evict waiting jobs of events");
    assert_eq!(checks.code, 1);
}

#[tokio::test]
async fn a_redis_that_persists_nothing() {
    let env = [("HOLDFAST__QUEUES__EVENTS__DURABILITY", "redis")];
    let system = System::start_with(RedisOptions::default(), &env).await;
    let checks = system.validate().await;
    checks.assert_only("redis.persistence", "a restart loses what waits in events");
    assert_eq!(checks.code, 0, "a warning");
}

#[tokio::test]
async fn a_wrong_redis_password() {
    let system = System::start().await;
    system.redis.set_password("changed").await.unwrap();
    let checks = system.validate().await;
    checks.assert_only("redis.login", "the password is refused");
}

#[tokio::test]
async fn a_redis_that_is_down() {
    let system = System::start().await;
    system.redis.kill9().await.unwrap();
    let checks = system.validate().await;
    checks.assert_only("redis.connect", "Start the server");
    assert_eq!(
        checks.verdicts()["queue.round_trip"],
        "pass",
        "the ledger goes on"
    );
}

#[tokio::test]
async fn a_redis_that_is_a_black_hole() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let proxy = FaultProxy::for_redis(&redis).await.unwrap();
    let url = proxy.url_for(&redis.url());
    let mut system = System::behind(redis, &url, &[]).await;
    system.start_worker().await;
    proxy.set_mode(Mode::BlackHole).await.unwrap();
    system
        .validate()
        .await
        .assert_only("redis.login", "does not answer within");
}

#[tokio::test]
async fn a_database_that_is_down() {
    let system = System::start().await;
    system.postgres.kill9().await.unwrap();
    let checks = system.validate().await;
    checks.assert_only("database.connect", "Start the server");
    assert_eq!(checks.code, 1);
}

#[tokio::test]
async fn an_old_schema() {
    let postgres = PostgresServer::start().await.unwrap();
    let place = Place::new().with("DATABASE_URL", postgres.url());
    let checks = place.checks(&["validate"]).await;
    checks.assert_only("database.schema", "Run `holdfast migrate`");
}

#[tokio::test]
async fn pools_that_exceed_the_databases_limit() {
    let postgres = PostgresServer::start_with(PostgresOptions::fast().max_connections(25))
        .await
        .unwrap();
    let place = Place::new().with("DATABASE_URL", postgres.url());
    assert_eq!(place.run(&["migrate"]).await.0, 0);
    let checks = place.checks(&["validate", "--processes", "4"]).await;
    assert!(
        checks
            .said("database.pools")
            .contains("4 processes × 10 connections = 40"),
        "{:#}",
        checks.document
    );
    // Nobody works here, which is the other thing that is true.
    assert_eq!(checks.faults(), ["database.pools", "workers.alive"]);
}

#[tokio::test]
async fn a_queue_that_is_paused() {
    let system = System::start().await;
    system.post("/v1/queues/events/pause").await;
    let checks = system.validate().await;
    checks.assert_only("queue.paused", "paused: events");
    assert!(
        checks.said("queue.round_trip").contains("1 not probed"),
        "{:#}",
        checks.document
    );
}

#[tokio::test]
async fn an_api_that_demands_no_key() {
    let mut place = Place::new();
    let port = free_port().unwrap();
    place = place.with("PORT", port.to_string());
    let dev = place.start("holdfast", &[]);
    dev.wait_for_line("?wait=10", DEADLINE).await.unwrap();
    let checks = place
        .checks(&["validate", "--url", &format!("http://127.0.0.1:{port}")])
        .await;
    checks.assert_only("security.key_demanded", "no API key is demanded");
}

#[tokio::test]
async fn a_key_that_is_not_accepted() {
    let system = System::start().await;
    let checks = system
        .place
        .checks(&[
            "validate",
            "--url",
            &system.url,
            "--key",
            "another-key-altogether",
        ])
        .await;
    checks.assert_only("api.key", "the key is not accepted");
    // Without any it is no fault; less can be checked.
    let stranger = Place::new().checks(&["validate", "--url", &system.url]).await;
    stranger.assert_sound();
    assert_eq!(stranger.verdicts()["api.key"], "skipped");
}

/// Something else at the address: what is served, and what is said of it.
#[tokio::test]
async fn what_is_no_holdfast_is_told_as_what_it_is() {
    const HTML: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<html>Hi</html>";
    const HALF: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"status\": \"al";
    const OTHER: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";
    const LOGIN: &str = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\n\r\n";
    const MOVED: &str = "HTTP/1.1 308 Moved\r\nlocation: https://jobs.example/\r\ncontent-length: 0\r\n\r\n";
    const BROKEN: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 400\r\n\r\n{\"status\"";
    for (answer, words) in [
        (HTML, "HTML instead of JSON"),
        (HALF, "half a JSON document"),
        (OTHER, "not as Holdfast does"),
        (LOGIN, "wants a login"),
        (MOVED, "redirected to https://jobs.example/"),
        (BROKEN, "broke the connection off"),
    ] {
        let port = serve(answer).await;
        let checks = Place::new()
            .checks(&["validate", "--url", &format!("http://127.0.0.1:{port}")])
            .await;
        checks.assert_only("api.reach", words);
        assert_eq!(checks.code, 1, "{words}");
    }
}

#[tokio::test]
async fn an_address_where_nobody_answers() {
    let silent = Silent::start().await;
    let (hole, nobody, plain) = (
        silent.port(),
        free_port().unwrap(),
        serve("HTTP/1.1 200 OK\r\n\r\n").await,
    );
    for (url, words) in [
        (format!("http://127.0.0.1:{hole}"), "does not answer within 5 s"),
        (format!("http://127.0.0.1:{nobody}"), "cannot be connected to"),
        (format!("https://127.0.0.1:{plain}"), "refuses TLS"),
        ("http://no-such-host.invalid".to_owned(), "cannot be resolved"),
    ] {
        let checks = Place::new().checks(&["validate", "--url", &url]).await;
        checks.assert_only("api.reach", words);
        assert_eq!(checks.code, 1, "{url}");
    }
}

#[tokio::test]
async fn a_platform_that_kills_before_jobs_can_finish() {
    let place = Place::new();
    let railway = place.path().join("railway.json");
    std::fs::create_dir(place.path().join(".railway")).unwrap();
    std::fs::write(
        &railway,
        r#"{"deploy": {"overlapSeconds": 15, "drainingSeconds": 40}}"#,
    )
    .unwrap();
    let ts = "deploy: { overlapSeconds: 15, drainingSeconds: 40 }";
    std::fs::write(place.path().join(".railway/railway.ts"), ts).unwrap();
    place.checks(&["validate"]).await.assert_sound();
    place.checks(&["validate", "--files"]).await.assert_sound();

    std::fs::write(&railway, r#"{"deploy": {"overlapSeconds": 15}}"#).unwrap();
    place
        .checks(&["validate"])
        .await
        .assert_only("configuration.platform", "has no drainingSeconds");
    let directory = place.path().to_str().unwrap();
    let files = Place::new().checks(&["validate", "--files", directory]).await;
    files.assert_only("files.railway", "has no drainingSeconds");
}

#[tokio::test]
async fn settings_with_faults() {
    let place = Place::new()
        .with("HOLDFAST__WORKER__BATCH_SIZE", "many")
        .with("HOLDFAST__REDIS__URI", "redis://127.0.0.1");
    let checks = place.checks(&["validate"]).await;
    checks.assert_only("configuration.settings", "worker.batch_size");
    assert!(
        checks
            .said("configuration.settings")
            .contains("HOLDFAST__REDIS__URI")
    );
}

/// Gives every request this answer and closes.
async fn serve(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _read = client.read(&mut request).await;
            client.write_all(answer.as_bytes()).await.ok();
            client.shutdown().await.ok();
        }
    });
    port
}
