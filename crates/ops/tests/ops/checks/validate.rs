//! `holdfast validate` against a sound system, and against systems that are broken in one way each: it names the fault
//! and no other.

use holdfast_testkit::{
    Eviction, FaultProxy, Mode, Persistence, PostgresOptions, PostgresServer, RedisOptions, RedisServer,
    free_port,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::support::{DEADLINE, Place, Silent};
use super::system::{KEY, System};

#[tokio::test]
async fn a_sound_system_passes_and_the_drill_proves_that_it_would_last() {
    let mut system = System::start().await;
    system.start_beat().await;
    system.make_schedule().await;
    let checks = system.validate_with(&["--drill"]).await;
    checks.assert_sound();
    let verdicts = checks.verdicts();
    for name in [
        "configuration.settings",
        "database.pools",
        "redis.queue",
        "redis.pools",
        "api.key",
        "workers.queues",
        "beat.ticking",
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
    assert_eq!(checks.document["score"], 0);
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
    assert_eq!(checks.document["score"], 0);
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
    let few = PostgresOptions::default().max_connections(45);
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let url = redis.url();
    let mut system = System::on(few, redis, &url, &[]).await;
    system.start_worker().await;
    let checks = system.validate_with(&["--processes", "6"]).await;
    checks.assert_only(
        "database.pools",
        "6 processes × 10 connections = 60, of 42 that the server takes",
    );
    assert_eq!(checks.code, 1);
    // Counted rather than told, they are three.
    system.validate().await.assert_sound();
}

/// Queue and cache on one server: each process opens both pools there, and a connection beside each.
#[tokio::test]
async fn pools_that_exceed_what_redis_takes() {
    let few = RedisOptions::default().config("maxclients", "80");
    let system = System::start_with(few, &[]).await;
    let checks = system.validate_with(&["--processes", "5"]).await;
    checks.assert_only(
        "redis.pools",
        "5 processes × 18 connections = 90, of 80 that the server takes",
    );
    assert_eq!(checks.code, 1);
    assert!(
        checks.said("redis.pools").contains("redis.max_connections"),
        "{:#}",
        checks.document
    );
    // Four take more than 80 % of it.
    let crowded = system.validate_with(&["--processes", "4"]).await;
    crowded.assert_only("redis.pools", "= 72, of 80");
    assert_eq!(crowded.code, 0, "a warning");
    system.validate().await.assert_sound();
}

#[tokio::test]
async fn a_redis_that_is_nearly_full() {
    let limited = RedisOptions::default().maxmemory(128 * 1024 * 1024, Eviction::NoEviction);
    let system = System::start_with(limited, &[]).await;
    let report = system.redis.fill(82 * 1024 * 1024).await.unwrap();
    assert_eq!(report.refused, 0, "{report:?}");
    let checks = system.validate().await;
    checks.assert_only("redis.memory", "Raise maxmemory");
    assert_eq!(checks.code, 0, "a warning");
}

/// A system whose cache has a server of its own, set up so.
async fn with_cache(options: RedisOptions) -> (System, RedisServer) {
    let cache = RedisServer::start(options).await.unwrap();
    let url = cache.url();
    let system = System::start_with(RedisOptions::default(), &[("REDIS_CACHE_URL", &url)]).await;
    (system, cache)
}

#[tokio::test]
async fn a_cache_that_seldom_hits() {
    let evicting = RedisOptions::default().maxmemory(64 * 1024 * 1024, Eviction::AllKeysLru);
    let (system, cache) = with_cache(evicting).await;
    system.validate().await.assert_sound();

    let client = redis::Client::open(cache.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut lookups = redis::pipe();
    for _ in 0..2_000 {
        lookups.cmd("GET").arg("nothing").ignore();
    }
    lookups.exec_async(&mut connection).await.unwrap();
    let checks = system.validate().await;
    checks.assert_only("redis_cache.hit_ratio", "lookups since the server's start hit");
    assert_eq!(checks.code, 0, "a warning");
}

#[tokio::test]
async fn a_cache_that_refuses_when_it_is_full() {
    let refusing = RedisOptions::default().maxmemory(64 * 1024 * 1024, Eviction::NoEviction);
    let (system, _cache) = with_cache(refusing).await;
    let checks = system.validate().await;
    checks.assert_only(
        "redis_cache.policy",
        "a full cache refuses to cache anything more",
    );
}

#[tokio::test]
async fn a_redis_that_is_a_replica() {
    let system = System::start().await;
    system.redis.make_replica_of_nobody_reachable().await.unwrap();
    let checks = system.validate().await;
    checks.assert_only("redis.server", "it is a replica, which refuses writes");
    assert_eq!(checks.verdicts()["redis.cache"], "skipped", "told once");
}

#[tokio::test]
async fn no_beat_although_there_are_schedules() {
    let system = System::start().await;
    system.make_schedule().await;
    let checks = system.validate().await;
    checks.assert_only("beat.ticking", "no beat is alive: 1 schedules do not tick");
    assert_eq!(checks.code, 0, "a warning");
}

#[tokio::test]
async fn a_backlog() {
    let one_at_a_time = [("HOLDFAST__QUEUES__ML__CONCURRENCY", "1")];
    let system = System::start_with(RedisOptions::default(), &one_at_a_time).await;
    let slow = json!({"kind": "debug.sleep", "payload": {"seconds": 1}, "queue": "ml"});
    let jobs = vec![slow; 400];
    assert_eq!(system.send("/v1/jobs/batch", &json!({"jobs": jobs})).await, 202);
    let checks = system.validate().await;
    checks.assert_only("queue.depth", "more than 100 jobs wait: ml ");
    assert_eq!(
        checks.verdicts()["queue.round_trip"],
        "pass",
        "the probe goes first"
    );
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
    assert_eq!(checks.code, 0, "a warning");
    assert_eq!(system.validate_with(&["--strict"]).await.code, 2);
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
    checks.assert_only("security.key_demanded", "no API key is required");
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
    assert!(checks.document["score"].as_u64().unwrap() <= 50);
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

#[tokio::test]
async fn running_jobs_without_a_worker_fail_the_run() {
    let system =
        System::without_worker(RedisOptions::default().persistence(Persistence::AofEverysec), &[]).await;
    system
        .postgres
        .psql(
            "insert into holdfast_jobs (id, queue, kind, state, run_at, max_attempts, timeout_ms, worker, started_at, payload)
             select gen_random_uuid(), 'default', 'debug.echo', 'running', now(), 3, 60000, gen_random_uuid(), now(), '{}'
             from generate_series(1, 3)",
        )
        .await
        .unwrap();
    let checks = system.place.checks(&["validate"]).await;
    let verdicts = checks.verdicts();
    assert_eq!(verdicts["ledger.jobs"], "fail", "{:#}", checks.document);
    assert!(
        checks
            .said("ledger.jobs")
            .contains("3 running jobs have no worker"),
        "{}",
        checks.said("ledger.jobs")
    );
    assert_eq!(checks.code, 1);
}

#[tokio::test]
async fn a_server_that_does_not_wait_for_the_disk() {
    let redis = RedisServer::start(RedisOptions::default().persistence(Persistence::AofEverysec))
        .await
        .unwrap();
    let url = redis.url();
    let postgres = PostgresOptions::default().setting("synchronous_commit", "off");
    let mut system = System::on(postgres, redis, &url, &[]).await;
    system.start_worker().await;
    let checks = system.validate().await;
    checks.assert_only("ledger.durability", "synchronous_commit is off");
}
