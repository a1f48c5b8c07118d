//! `holdfast dev` as its users meet it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use holdfast_testkit::place::{DEADLINE, Dev, Place};
use holdfast_testkit::{Child, PostgresServer, RedisOptions, RedisServer, eventually, http};
use serde_json::{Value, json};

#[tokio::test]
async fn every_printed_line_works_as_pasted() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let lines: Vec<String> = dev
        .child
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("  ") && line.contains("curl -s"))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let accepted = paste(&lines[0]).await;
    assert_eq!(accepted["state"], "available");
    let finished = paste(&lines[1]).await;
    assert_eq!(finished["state"], "completed");
    assert_eq!(finished["result"], json!({"hello": "world"}));
    assert!(place.path().join(".holdfast/holdfast.db").exists());
    dev.stop().await;
}

#[tokio::test]
async fn printed_lines_carry_the_key_where_one_is_needed() {
    let mut place = Place::new().with_env("HOLDFAST_API_KEY", "the-first-key");
    let dev = Dev::start(&mut place).await;
    let line = dev.child.wait_for_line("  curl -s", DEADLINE).await.unwrap();
    let script = format!("HOLDFAST_API_KEY=the-first-key; {line}");
    assert_eq!(paste(&script).await["kind"], "debug.echo");
    assert!(!dev.child.lines().join("\n").contains("the-first-key"));
    dev.stop().await;
}

#[tokio::test]
async fn jobs_survive_a_restart() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let job = place
        .json(&["jobs", "enqueue", "debug.echo", "--delay", "1h"])
        .await;
    dev.stop().await;
    let dev = Dev::start(&mut place).await;
    let found = place.json(&["jobs", "show", job["id"].as_str().unwrap()]).await;
    assert_eq!(found["state"], "scheduled");
    dev.stop().await;
}

#[tokio::test]
async fn postgres_and_redis_are_used_where_they_are_named() {
    let (postgres, redis) = tokio::try_join!(
        PostgresServer::start(),
        RedisServer::start(RedisOptions::default())
    )
    .unwrap();
    let mut place = Place::new()
        .with_env("DATABASE_URL", postgres.url())
        .with_env("REDIS_URL", redis.url());
    let dev = Dev::start(&mut place).await;
    let job = place
        .json(&["jobs", "enqueue", "debug.echo", "[1]", "--wait", "30"])
        .await;
    assert_eq!(job["state"], "completed");
    assert_eq!(
        postgres
            .psql("select count(*) from holdfast_jobs")
            .await
            .unwrap()
            .trim(),
        "1"
    );
    let health: Value = http::get(dev.address, "/health").await.unwrap().json().unwrap();
    assert_eq!(health["services"]["redis"]["details"]["mode"], "normal");
    assert!(!place.path().join(".holdfast").exists());
    dev.stop().await;
}

#[tokio::test]
async fn a_source_is_discovered_when_it_is_due_and_its_events_are_found() {
    let feed = feed_server(
        "<rss version=\"2.0\"><channel><item><title>Jazz</title><guid>1</guid>\
        <pubDate>2090-06-01T18:00:00Z</pubDate></item></channel></rss>",
    );
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let mut client = http::Client::new(dev.address);
    let source = json!({"name": "feed", "kind": "rss", "url": format!("http://{feed}/")});
    let made = client.post_json("/v1/sources", &source).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let made: Value = made.json().unwrap();
    let path = format!("/v1/sources/{}", made["id"].as_str().unwrap());
    let poll = Duration::from_millis(50);
    let shown: Value = eventually("the source's first run", DEADLINE, poll, async || {
        let shown: Value = http::get(dev.address, &path).await.unwrap().json().unwrap();
        shown["last_run"].is_object().then_some(shown)
    })
    .await
    .unwrap();
    assert_eq!(
        (&shown["last_run"]["status"], &shown["last_run"]["inserted"]),
        (&json!("ok"), &json!(1)),
        "{shown}"
    );
    let found: Value = client.get("/v1/events?q=jazz").await.unwrap().json().unwrap();
    assert_eq!(found["events"][0]["source"], shown["id"]);
    dev.stop().await;
}

/// Answers every connection with this body, and closes it. Ends with the test.
fn feed_server(body: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head);
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = Place::new()
        .with_env("PORT", port.to_string())
        .run(&["dev"])
        .await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .text
            .contains(&format!("cannot serve on port {port}: set PORT")),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn production_is_refused() {
    let place = Place::new()
        .with_env("HOLDFAST_ENV", "production")
        .with_env("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/x");
    let ended = place.run(&[]).await;
    assert_eq!(ended.code, Some(64));
    assert!(ended.text.contains("not for production"), "{}", ended.text);
    assert!(!ended.text.contains("secret"));
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_told_and_the_exit_code_is_64() {
    let place = Place::new()
        .with_env("PORT", "http")
        .with_env("HOLDFAST__WORKER__BATCH_SIZE", "0");
    for args in [&["dev"][..], &["migrate"], &["jobs", "list"]] {
        let ended = place.run(args).await;
        assert_eq!(ended.code, Some(64), "{args:?}");
        assert!(ended.text.contains("server.port (from PORT)"), "{}", ended.text);
        assert!(ended.text.contains("worker.batch_size"), "{}", ended.text);
    }
}

/// What a shell makes of a line.
async fn paste(line: &str) -> Value {
    let mut shell = Child::program("sh").args(["-c", line]).start().unwrap();
    assert!(shell.wait_exit(DEADLINE).await.unwrap().success(), "{line}");
    let printed = shell.printed(DEADLINE).await.unwrap().text;
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {line}: {printed}"))
}

#[tokio::test]
async fn a_developers_variables_are_read_from_a_file_and_the_service_says_where_they_are_wrong() {
    let file = "HOLDFAST__WORKER__BATCH_SIZE=0\nPORT=http # a comment\n";
    let place = Place::new().with_env("HOLDFAST_ENV", "development");
    std::fs::write(place.path().join(".env"), file).unwrap();
    let ended = place.run(&["migrate"]).await;
    assert_eq!(ended.code, Some(64));
    for told in [
        "worker.batch_size (from HOLDFAST__WORKER__BATCH_SIZE in .env)",
        "server.port (from PORT in .env)",
    ] {
        assert!(ended.text.contains(told), "{}", ended.text);
    }
    std::fs::write(place.path().join(".env"), "HOLDFAST__WORKER__BATCH_SIZE=10\n").unwrap();
    let ended = place.run(&["migrate"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
}
