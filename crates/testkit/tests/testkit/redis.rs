//! Each fault of the Redis server really happens.
#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::time::{Duration, Instant};

use holdfast_testkit::{
    Eviction, Persistence, RedisOptions, RedisServer, RespConnection, RespValue, eventually,
};

const SOON: Duration = Duration::from_secs(20);
/// Long enough for anything on loopback to answer; only ever waited out where nothing may answer.
const SILENCE: Duration = Duration::from_millis(300);

async fn redis(options: RedisOptions) -> RedisServer {
    RedisServer::start(options).await.unwrap()
}

async fn set(redis: &RedisServer, key: &str) -> RespValue {
    redis.command(&["SET", key, "1"]).await.unwrap()
}

fn ok() -> RespValue {
    RespValue::Simple("OK".to_owned())
}

#[tokio::test]
async fn restart_after_kill_keeps_what_an_aof_holds_and_the_port() {
    let redis = redis(RedisOptions::default().persistence(Persistence::AofAlways)).await;
    let (port, first) = (redis.port(), redis.pid());
    assert_eq!(set(&redis, "kept").await, ok());
    redis.kill9().await.unwrap();
    assert!(!redis.is_running().await.unwrap());
    assert!(redis.command(&["PING"]).await.is_err());
    redis.restart().await.unwrap();
    assert_eq!(redis.keys("*").await.unwrap(), ["kept"]);
    assert_eq!(redis.port(), port);
    assert_ne!(redis.pid(), first);
}

#[tokio::test]
async fn rdb_survives_a_graceful_end_but_not_a_kill() {
    let redis = redis(RedisOptions::default().persistence(Persistence::Rdb)).await;
    set(&redis, "saved").await;
    redis.restart().await.unwrap();
    set(&redis, "lost").await;
    redis.kill9().await.unwrap();
    redis.restart().await.unwrap();
    assert_eq!(redis.keys("*").await.unwrap(), ["saved"]);
}

#[tokio::test]
async fn without_persistence_every_restart_forgets() {
    let redis = redis(RedisOptions::default()).await;
    set(&redis, "a").await;
    redis.restart().await.unwrap();
    assert_eq!(redis.keys("*").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn restart_empty_is_empty_even_with_an_aof() {
    let redis = redis(RedisOptions::default().persistence(Persistence::AofAlways)).await;
    set(&redis, "a").await;
    redis.restart_empty().await.unwrap();
    assert_eq!(redis.command(&["DBSIZE"]).await.unwrap(), RespValue::Integer(0));
    set(&redis, "b").await;
    redis.flush_all().await.unwrap();
    assert_eq!(redis.command(&["DBSIZE"]).await.unwrap(), RespValue::Integer(0));
}

#[tokio::test]
async fn a_stopped_server_hangs_and_answers_when_it_goes_on() {
    let redis = redis(RedisOptions::default()).await;
    let mut connection = redis.connect().await.unwrap().with_deadline(SILENCE);
    redis.sigstop().await.unwrap();
    let error = connection.command(&["PING"]).await.unwrap_err();
    assert!(error.to_string().contains("in vain"), "{error}");
    // The kernel accepts for it: a new connection hangs too, rather than being refused.
    let mut other = RespConnection::connect(redis.addr())
        .await
        .unwrap()
        .with_deadline(SILENCE);
    other.command(&["PING"]).await.unwrap_err();
    redis.sigcont().await.unwrap();
    let late = connection.with_deadline(SOON).receive().await.unwrap();
    assert_eq!(late, RespValue::Simple("PONG".to_owned()));
}

#[tokio::test]
async fn a_stopped_server_can_be_terminated_and_killed() {
    let redis = redis(RedisOptions::default()).await;
    redis.sigstop().await.unwrap();
    redis.terminate().await.unwrap();
    redis.restart().await.unwrap();
    redis.sigstop().await.unwrap();
    redis.kill9().await.unwrap();
    assert!(!redis.is_running().await.unwrap());
}

#[tokio::test]
async fn a_replica_of_nobody_answers_readonly_until_promoted() {
    let redis = redis(RedisOptions::default()).await;
    set(&redis, "before").await;
    redis.make_replica_of_nobody_reachable().await.unwrap();
    assert_eq!(set(&redis, "x").await.error_kind(), Some("READONLY"));
    assert_eq!(redis.keys("*").await.unwrap(), ["before"]);
    redis.promote().await.unwrap();
    assert_eq!(set(&redis, "x").await, ok());
}

#[tokio::test]
async fn a_new_password_throws_clients_out_and_answers_noauth() {
    let redis = redis(RedisOptions::default()).await;
    let mut client = redis.connect().await.unwrap();
    redis.set_password("secret").await.unwrap();
    client.command(&["PING"]).await.unwrap_err();
    let mut stranger = RespConnection::connect(redis.addr()).await.unwrap();
    assert_eq!(
        stranger.command(&["PING"]).await.unwrap().error_kind(),
        Some("NOAUTH")
    );
    let wrong = stranger.command(&["AUTH", "old"]).await.unwrap();
    assert_eq!(wrong.error_kind(), Some("WRONGPASS"));
    assert_eq!(
        redis.url(),
        format!("redis://:secret@127.0.0.1:{}/0", redis.port())
    );
    assert_eq!(set(&redis, "by the testkit").await, ok());
    redis.clear_password().await.unwrap();
    let mut stranger = RespConnection::connect(redis.addr()).await.unwrap();
    assert_eq!(stranger.command(&["SET", "a", "b"]).await.unwrap(), ok());
}

#[tokio::test]
async fn a_password_from_the_start_is_asked_for() {
    let redis = redis(RedisOptions::default().password("first")).await;
    let mut stranger = RespConnection::connect(redis.addr()).await.unwrap();
    assert_eq!(
        stranger.command(&["PING"]).await.unwrap().error_kind(),
        Some("NOAUTH")
    );
    redis.set_password("second").await.unwrap();
    redis.restart().await.unwrap();
    assert_eq!(
        redis.url(),
        format!("redis://:first@127.0.0.1:{}/0", redis.port())
    );
    assert_eq!(set(&redis, "a").await, ok());
}

#[tokio::test]
async fn loading_is_answered_until_it_is_over_and_no_key_is_lost_or_left() {
    for persistence in [Persistence::None, Persistence::AofEverysec, Persistence::Rdb] {
        let redis = redis(RedisOptions::default().persistence(persistence)).await;
        set(&redis, "kept").await;
        redis.loading(Duration::from_mins(1)).await.unwrap();
        for _ in 0..20 {
            assert_eq!(
                set(&redis, "x").await.error_kind(),
                Some("LOADING"),
                "{persistence:?}"
            );
        }
        redis.finish_loading().await.unwrap();
        assert_eq!(redis.keys("*").await.unwrap(), ["kept"], "{persistence:?}");
        assert_eq!(redis.info("keyspace", "db15").await.ok(), None, "{persistence:?}");
    }
}

#[tokio::test]
async fn loading_ends_by_itself_after_about_the_asked_time() {
    let redis = redis(RedisOptions::default()).await;
    let started = Instant::now();
    redis.loading(Duration::from_secs(1)).await.unwrap();
    let over = || async { (set(&redis, "x").await == ok()).then(|| started.elapsed()) };
    let took = eventually("the end of the load", SOON, Duration::from_millis(10), over)
        .await
        .unwrap();
    assert!(took > Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn noeviction_answers_oom_and_evicts_nothing() {
    let redis = redis(RedisOptions::default()).await;
    set(&redis, "kept").await;
    redis.run_out_of_memory().await.unwrap();
    assert_eq!(set(&redis, "x").await.error_kind(), Some("OOM"));
    assert_eq!(redis.keys("*").await.unwrap(), ["kept"]);
    redis.set_maxmemory(0, Eviction::NoEviction).await.unwrap();
    assert_eq!(set(&redis, "x").await, ok());
}

#[tokio::test]
async fn fill_stops_at_oom_under_noeviction() {
    let redis = redis(RedisOptions::default()).await;
    let limit = redis.memory_used().await.unwrap() + 2_000_000;
    redis.set_maxmemory(limit, Eviction::NoEviction).await.unwrap();
    let report = redis.fill(6_000_000).await.unwrap();
    assert!(
        report.refused > 0 && report.written > 500 && report.written < 2_500,
        "{report:?}"
    );
}

#[tokio::test]
async fn filling_past_maxmemory_evicts_other_clients_keys_under_allkeys_lru() {
    let redis = redis(RedisOptions::default()).await;
    let limit = redis.memory_used().await.unwrap() + 2_000_000;
    redis.set_maxmemory(limit, Eviction::AllKeysLru).await.unwrap();
    // Redis samples what it evicts: which keys survive is chance, that a hundred all do is not.
    for n in 0..100 {
        set(&redis, &format!("victim-{n}")).await;
    }
    let report = redis.fill(3 * limit).await.unwrap();
    assert_eq!(report.refused, 0);
    assert_eq!(report.written, (3 * limit).div_ceil(1024));
    assert!(redis.keys("victim-*").await.unwrap().len() < 50);
    assert_ne!(redis.info("stats", "evicted_keys").await.unwrap(), "0");
}

#[tokio::test]
async fn killing_clients_ends_blocked_ones() {
    let redis = redis(RedisOptions::default()).await;
    let mut blocked = redis.connect().await.unwrap();
    blocked.send(&["BLPOP", "nothing", "0"]).await.unwrap();
    let is_blocked =
        || async { (redis.info("clients", "blocked_clients").await.unwrap() == "1").then_some(()) };
    eventually("the blocked client", SOON, Duration::from_millis(2), is_blocked)
        .await
        .unwrap();
    assert_eq!(redis.client_kill_all().await.unwrap(), 1);
    blocked.receive().await.unwrap_err();
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let options = RedisOptions::default().config("no-such-setting", "1");
    let error = RedisServer::start(options).await.unwrap_err().to_string();
    assert!(error.contains("no-such-setting"), "{error}");
}

#[tokio::test]
async fn drop_ends_even_a_stopped_server() {
    let redis = redis(RedisOptions::default()).await;
    let pid = redis.pid();
    redis.sigstop().await.unwrap();
    drop(redis);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn thirty_servers_run_side_by_side() {
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..30 {
        starting.spawn(RedisServer::start(RedisOptions::default()));
    }
    let servers = starting.join_all().await;
    for server in servers {
        assert_eq!(set(&server.unwrap(), "a").await, ok());
    }
}
