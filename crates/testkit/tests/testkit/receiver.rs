//! The witness counts right, answers as scripted, and is fast enough not to be what a test measures.
#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::time::{Duration, Instant};

use holdfast_testkit::http::{self, Client};
use holdfast_testkit::{Receiver, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn counts_executions_by_id_from_path_and_query() {
    let receiver = Receiver::start().await.unwrap();
    let mut client = Client::new(receiver.addr());
    for path in [
        "/hit/a",
        "/hit/b",
        "/any/where?x=1&id=a",
        "/status/500?id=c",
        "/nothing",
    ] {
        client.get(path).await.unwrap();
    }
    assert_eq!(
        (
            receiver.count("a"),
            receiver.count("b"),
            receiver.count("c"),
            receiver.count("d")
        ),
        (2, 1, 1, 0)
    );
    assert_eq!(
        (receiver.total(), receiver.distinct(), receiver.requests()),
        (4, 3, 5)
    );
    assert_eq!(receiver.duplicates(), [("a".to_owned(), 2)]);
    assert_eq!(receiver.missing(&["d", "a", "e"]), ["d", "e"]);
    assert_eq!(receiver.ids(), ["a", "b", "c"]);
    let hits = receiver.hits("a");
    assert!(hits[0].at <= hits[1].at && hits[0].peer == hits[1].peer);
    receiver.clear();
    assert_eq!(
        (receiver.total(), receiver.distinct(), receiver.ids().len()),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn waits_end_with_the_signal_or_name_what_is_missing() {
    let receiver = Receiver::start().await.unwrap();
    let addr = receiver.addr();
    let sender = tokio::spawn(async move {
        let mut client = Client::new(addr);
        for id in 0..100 {
            client.get(&format!("/hit/{}", id % 50)).await.unwrap();
        }
    });
    receiver.wait_for_distinct(50, SOON).await.unwrap();
    receiver.wait_for_total(100, SOON).await.unwrap();
    receiver.wait_for_hits("7", 2, SOON).await.unwrap();
    sender.await.unwrap();
    let error = receiver
        .wait_for_distinct(51, Duration::from_millis(20))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("51 distinct ids") && error.contains("distinct: 50"),
        "{error}"
    );
}

#[tokio::test]
async fn answers_as_the_path_says() {
    let receiver = Receiver::start().await.unwrap();
    let mut client = Client::new(receiver.addr());
    for code in [200, 204, 404, 429, 503] {
        assert_eq!(client.get(&format!("/status/{code}")).await.unwrap().status, code);
    }
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.get("/fail-then-ok/2/job").await.unwrap().status);
    }
    assert_eq!(statuses, [503, 503, 200, 200]);
    let first = client.get("/retry-after/17/job2").await.unwrap();
    assert_eq!((first.status, first.header("Retry-After")), (429, Some("17")));
    assert_eq!(client.get("/retry-after/17/job2").await.unwrap().status, 200);
    let moved = client
        .get("/redirect?to=http%3A%2F%2Fexample.test%2Fx")
        .await
        .unwrap();
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, Some("http://example.test/x"))
    );
    assert_eq!(client.get("/status/nonsense").await.unwrap().status, 400);
    client.get("/close").await.unwrap_err();
}

#[tokio::test]
async fn echo_and_the_record_show_the_request_as_it_came() {
    let receiver = Receiver::start().await.unwrap();
    let mut client = Client::new(receiver.addr()).with_bearer("token");
    let echo: Value = client
        .post_json("/echo?a=1", &json!({"x": "ü"}))
        .await
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(echo["method"], "POST");
    assert_eq!((&echo["path"], &echo["query"]), (&json!("/echo"), &json!("a=1")));
    assert_eq!(echo["headers"]["authorization"], "Bearer token");
    assert_eq!(echo["body"], r#"{"x":"ü"}"#);
    let recorded = receiver.recorded();
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0].header("Content-Type"), Some("application/json"));
    assert_eq!(recorded[0].query_value("a").as_deref(), Some("1"));
}

#[tokio::test]
async fn reads_chunked_and_pipelined_requests() {
    let receiver = Receiver::start().await.unwrap();
    let mut stream = TcpStream::connect(receiver.addr()).await.unwrap();
    let requests = "POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n\
                    GET /hit/1 HTTP/1.1\r\n\r\nGET /hit/2 HTTP/1.1\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3);
    assert!(answers.contains(r#""body":"abcde""#), "{answers}");
    assert_eq!(receiver.distinct(), 2);
}

#[tokio::test]
async fn a_hanging_request_times_out_and_ends_with_its_client() {
    let receiver = Receiver::start().await.unwrap();
    let mut client = Client::new(receiver.addr()).with_deadline(Duration::from_millis(100));
    let error = client.get("/hang?id=h").await.unwrap_err();
    assert!(format!("{error:#}").contains("no response within"), "{error:#}");
    assert_eq!(receiver.count("h"), 1);
    let counted = || async { (receiver.max_concurrent("hang") == 1).then_some(()) };
    eventually("the count", SOON, Duration::from_millis(2), counted)
        .await
        .unwrap();
}

#[tokio::test]
async fn concurrency_is_tracked_by_key() {
    let receiver = Receiver::start().await.unwrap();
    let addr = receiver.addr();
    let requests = (0..5).map(|number| {
        let key = if number < 3 { "x" } else { "y" };
        tokio::spawn(async move {
            http::get(addr, &format!("/slow/300?key={key}"))
                .await
                .unwrap()
                .status
        })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap(), 200);
    }
    let seen = (
        receiver.max_concurrent("x"),
        receiver.max_concurrent("y"),
        receiver.max_concurrent_total(),
    );
    assert_eq!(seen, (3, 2, 5));
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    let receiver = Receiver::start().await.unwrap();
    let mut client = Client::new(receiver.addr());
    assert_eq!(
        client
            .request("GET", "/hit/1", &[("connection", "close")], &[])
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(client.get("/hit/2").await.unwrap().status, 200);
    assert_eq!(receiver.distinct(), 2);
}

/// A floor far below what a release build does: it guards against a mistake of kind, such as a wait per
/// request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_a_second_are_counted_without_a_miss() {
    const CLIENTS: u32 = 16;
    const EACH: u32 = 2_000;
    let receiver = Receiver::start().await.unwrap();
    let addr = receiver.addr();
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            tokio::spawn(async move {
                let mut client = Client::new(addr);
                for id in 0..EACH {
                    assert_eq!(
                        client.get(&format!("/hit/{number}-{id}")).await.unwrap().status,
                        200
                    );
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let rate = f64::from(CLIENTS * EACH) / started.elapsed().as_secs_f64();
    println!("{rate:.0} requests/s");
    assert_eq!(receiver.distinct(), (CLIENTS * EACH) as usize);
    assert_eq!(receiver.duplicates(), []);
    assert!(rate > 2_000.0, "{rate:.0} requests/s");
}
