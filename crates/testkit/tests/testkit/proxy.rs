//! The proxy does to connections what its modes say, and nothing else.
#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_testkit::{
    FaultProxy, Mode, PostgresOptions, PostgresServer, Protocol, Receiver, RedisOptions, RedisServer,
    RespConnection, RespValue, bytes_contain, eventually, http,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);
/// Only ever waited out where nothing may arrive.
const SILENCE: Duration = Duration::from_millis(300);

async fn redis_behind_proxy() -> (RedisServer, FaultProxy) {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let proxy = FaultProxy::for_redis(&redis).await.unwrap();
    (redis, proxy)
}

async fn connect(proxy: &FaultProxy) -> RespConnection {
    RespConnection::connect(proxy.addr()).await.unwrap()
}

async fn ping(connection: &mut RespConnection) {
    assert_eq!(connection.command(&["PING"]).await.unwrap(), pong());
}

fn pong() -> RespValue {
    RespValue::Simple("PONG".to_owned())
}

/// The kind of I/O error that ended a command.
fn io_kind(error: &anyhow::Error) -> Option<std::io::ErrorKind> {
    error.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

/// How a new connection ends; the RST may come before the connect has returned.
async fn end_of_new_connection(proxy: &FaultProxy) -> std::io::ErrorKind {
    match TcpStream::connect(proxy.addr()).await {
        Ok(mut stream) => stream.read_u8().await.unwrap_err().kind(),
        Err(error) => error.kind(),
    }
}

#[tokio::test]
async fn forwards_and_counts() {
    let (redis, proxy) = redis_behind_proxy().await;
    let mut connection = connect(&proxy).await;
    ping(&mut connection).await;
    assert_eq!(
        proxy.url_for(&redis.url()),
        format!("redis://127.0.0.1:{}/0", proxy.port())
    );
    let counted = || async { (proxy.stats().bytes_to_client == 7).then(|| proxy.stats()) };
    let stats = eventually("the reply to be counted", SOON, Duration::from_millis(1), counted)
        .await
        .unwrap();
    assert_eq!(
        (
            stats.accepted,
            stats.open,
            stats.bytes_to_server,
            stats.cut_replies
        ),
        (1, 1, 14, 0)
    );
    drop(connection);
    proxy.wait_for_open(0, SOON).await.unwrap();
}

#[tokio::test]
async fn megabytes_pass_unchanged_both_ways() {
    let (_redis, proxy) = redis_behind_proxy().await;
    let value: Vec<u8> = (0..8_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut connection = connect(&proxy).await;
    connection
        .command(&[b"SET".as_slice(), b"big", &value])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(
        connection.command(&["GET", "big"]).await.unwrap(),
        RespValue::Bulk(value)
    );
}

#[tokio::test]
async fn refuse_resets_the_old_and_refuses_the_new_on_a_port_that_stays() {
    let (_redis, proxy) = redis_behind_proxy().await;
    let mut connection = connect(&proxy).await;
    ping(&mut connection).await;
    proxy.set_mode(Mode::Refuse).await.unwrap();
    assert_eq!(proxy.stats().open, 0);
    let error = connection.receive().await.unwrap_err();
    assert_eq!(
        io_kind(&error),
        Some(std::io::ErrorKind::ConnectionReset),
        "{error:?}"
    );
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.set_mode(Mode::Forward).await.unwrap();
    ping(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn reset_resets_the_old_and_the_new() {
    let (_redis, proxy) = redis_behind_proxy().await;
    let mut old = connect(&proxy).await;
    ping(&mut old).await;
    proxy.set_mode(Mode::Reset).await.unwrap();
    let error = old.receive().await.unwrap_err();
    assert_eq!(
        io_kind(&error),
        Some(std::io::ErrorKind::ConnectionReset),
        "{error:?}"
    );
    assert_eq!(
        end_of_new_connection(&proxy).await,
        std::io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_black_hole_neither_answers_nor_ends_and_forwards_what_it_held_afterwards() {
    let (redis, proxy) = redis_behind_proxy().await;
    let mut old = connect(&proxy).await.with_deadline(SILENCE);
    ping(&mut old).await;
    proxy.set_mode(Mode::BlackHole).await.unwrap();
    let mut new = connect(&proxy).await.with_deadline(SILENCE);
    for (connection, key) in [(&mut old, "old"), (&mut new, "new")] {
        let error = connection.command(&["SET", key, "1"]).await.unwrap_err();
        assert!(error.to_string().contains("in vain"), "{error:?}");
    }
    assert_eq!(redis.keys("*").await.unwrap(), Vec::<String>::new());
    assert_eq!(proxy.stats().open, 2);
    proxy.set_mode(Mode::Forward).await.unwrap();
    for connection in [old, new] {
        connection
            .with_deadline(SOON)
            .receive()
            .await
            .unwrap()
            .ok()
            .unwrap();
    }
    assert_eq!(redis.keys("*").await.unwrap(), ["new", "old"]);
}

#[tokio::test]
async fn a_black_hole_hides_that_the_server_has_gone() {
    let (redis, proxy) = redis_behind_proxy().await;
    let mut connection = connect(&proxy).await.with_deadline(SILENCE);
    ping(&mut connection).await;
    proxy.set_mode(Mode::BlackHole).await.unwrap();
    redis.kill9().await.unwrap();
    let error = connection.receive().await.unwrap_err();
    assert!(error.to_string().contains("in vain"), "{error:?}");
    proxy.set_mode(Mode::Forward).await.unwrap();
    let error = connection.with_deadline(SOON).receive().await.unwrap_err();
    assert!(!error.to_string().contains("in vain"), "{error:?}");
}

#[tokio::test]
async fn half_open_applies_requests_and_withholds_every_reply() {
    let (redis, proxy) = redis_behind_proxy().await;
    let mut connection = connect(&proxy).await.with_deadline(SILENCE);
    ping(&mut connection).await;
    proxy.set_mode(Mode::HalfOpen).await.unwrap();
    connection.command(&["SET", "applied", "1"]).await.unwrap_err();
    assert_eq!(redis.keys("*").await.unwrap(), ["applied"]);
    proxy.set_mode(Mode::Forward).await.unwrap();
    assert_eq!(
        connection.with_deadline(SOON).receive().await.unwrap(),
        RespValue::Simple("OK".to_owned())
    );
}

#[tokio::test]
async fn latency_is_added_to_a_round_trip_once_not_to_each_request_of_a_pipeline() {
    let (_redis, proxy) = redis_behind_proxy().await;
    let mut connection = connect(&proxy).await;
    ping(&mut connection).await;
    proxy
        .set_mode(Mode::Latency(Duration::from_millis(100)))
        .await
        .unwrap();
    let started = Instant::now();
    ping(&mut connection).await;
    let alone = started.elapsed();
    let started = Instant::now();
    for _ in 0..50 {
        connection.send(&["PING"]).await.unwrap();
    }
    for _ in 0..50 {
        assert_eq!(connection.receive().await.unwrap(), pong());
    }
    let pipelined = started.elapsed();
    assert!(
        alone >= Duration::from_millis(100) && pipelined >= Duration::from_millis(100),
        "{alone:?}"
    );
    assert!(pipelined < Duration::from_secs(1), "{pipelined:?}");
}

#[tokio::test]
async fn bandwidth_limits_how_fast_bytes_pass() {
    let (_redis, proxy) = redis_behind_proxy().await;
    let mut connection = connect(&proxy).await;
    ping(&mut connection).await;
    proxy.set_mode(Mode::Bandwidth(100_000)).await.unwrap();
    let started = Instant::now();
    connection
        .command(&[b"SET".as_slice(), b"k", &vec![b'x'; 50_000]])
        .await
        .unwrap()
        .ok()
        .unwrap();
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(490) && took < Duration::from_secs(5),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_down_resets_through_the_proxy() {
    let (redis, proxy) = redis_behind_proxy().await;
    redis.kill9().await.unwrap();
    assert_eq!(
        end_of_new_connection(&proxy).await,
        std::io::ErrorKind::ConnectionReset
    );
    redis.restart().await.unwrap();
    ping(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn a_cut_reply_was_applied_exactly_once_and_never_delivered() {
    let (redis, proxy) = redis_behind_proxy().await;
    proxy.cut_reply_when(|request| bytes_contain(request, b"INCR"), 2);
    for expected in ["1", "2"] {
        let mut connection = connect(&proxy).await;
        ping(&mut connection).await;
        let error = connection.command(&["INCR", "counter"]).await.unwrap_err();
        assert!(error.to_string().contains("closed the connection"), "{error:?}");
        assert_eq!(
            redis
                .command(&["GET", "counter"])
                .await
                .unwrap()
                .text()
                .as_deref(),
            Some(expected)
        );
    }
    proxy.wait_for_cuts(2, SOON).await.unwrap();
    let mut connection = connect(&proxy).await;
    assert_eq!(
        connection.command(&["INCR", "counter"]).await.unwrap(),
        RespValue::Integer(3)
    );
    assert_eq!(proxy.stats().cut_replies, 2);
}

#[tokio::test]
async fn in_a_pipeline_replies_before_the_cut_one_arrive() {
    let (redis, proxy) = redis_behind_proxy().await;
    proxy.cut_reply_when(|request| bytes_contain(request, b"cut me"), 1);
    let mut connection = connect(&proxy).await;
    let blob = "x".repeat(300_000);
    connection.send(&["SET", "a", &blob]).await.unwrap();
    connection.send(&["APPEND", "a", "cut me"]).await.unwrap();
    connection.receive().await.unwrap().ok().unwrap();
    connection.receive().await.unwrap_err();
    assert_eq!(
        redis.command(&["STRLEN", "a"]).await.unwrap(),
        RespValue::Integer(300_006)
    );
}

#[tokio::test]
async fn a_rule_that_is_withdrawn_cuts_nothing() {
    let (_redis, proxy) = redis_behind_proxy().await;
    proxy.cut_reply_when(|_| true, 10);
    proxy.cut_no_more();
    ping(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn a_commit_is_applied_although_its_reply_is_cut() {
    let postgres = PostgresServer::start_with(PostgresOptions::fast()).await.unwrap();
    let proxy = FaultProxy::for_postgres(&postgres).await.unwrap();
    let url = proxy.url_for(&postgres.url());
    postgres.psql_at(&url, "CREATE TABLE t (x int)").await.unwrap();
    proxy.cut_reply_when(|request| bytes_contain(request, b"INSERT"), 1);
    let error = postgres
        .psql_at(&url, "INSERT INTO t VALUES (1)")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("server closed the connection unexpectedly"),
        "{error}"
    );
    assert_eq!(postgres.psql("SELECT count(*) FROM t").await.unwrap(), "1");
    assert_eq!(
        postgres.psql_at(&url, "SELECT count(*) FROM t").await.unwrap(),
        "1"
    );
    assert_eq!(proxy.stats().cut_replies, 1);
}

#[tokio::test]
async fn an_http_reply_is_cut_after_the_request_has_arrived() {
    let receiver = Receiver::start().await.unwrap();
    let proxy = FaultProxy::start(receiver.addr()).await.unwrap();
    proxy.cut_reply_when(|request| bytes_contain(request, b"/hit/7"), 1);
    http::get(proxy.addr(), "/hit/7").await.unwrap_err();
    assert_eq!(receiver.count("7"), 1);
    assert_eq!(http::get(proxy.addr(), "/hit/7").await.unwrap().status, 200);
    assert_eq!(receiver.count("7"), 2);
}

#[tokio::test]
async fn one_side_may_finish_before_the_other() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::start_with(listener.local_addr().unwrap(), Protocol::Raw)
        .await
        .unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.write_all(format!("got {text}").as_bytes()).await.unwrap();
    });
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got question");
    server.await.unwrap();
}

#[tokio::test]
async fn the_mode_can_flap_under_load_without_harm() {
    let (_redis, proxy) = redis_behind_proxy().await;
    let addr = proxy.addr();
    let load: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    let Ok(connection) = RespConnection::connect(addr).await else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    let mut connection = connection.with_deadline(Duration::from_millis(50));
                    while connection.command(&["PING"]).await.is_ok() {}
                }
            })
        })
        .collect();
    let proxy = Arc::new(proxy);
    let faults = Arc::clone(&proxy);
    let flapping = tokio::spawn(async move {
        for _ in 0..20 {
            for mode in [
                Mode::Refuse,
                Mode::Forward,
                Mode::Reset,
                Mode::BlackHole,
                Mode::HalfOpen,
                Mode::Forward,
            ] {
                faults.set_mode(mode).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    });
    flapping.await.unwrap();
    ping(&mut connect(&proxy).await).await;
    for task in load {
        task.abort();
    }
    let idle = || async { (proxy.stats().open == 0).then_some(()) };
    eventually("all connections to end", SOON, Duration::from_millis(5), idle)
        .await
        .unwrap();
}
