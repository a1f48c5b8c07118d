//! `holdfast dev` as its users meet it.

use std::net::TcpListener;

use crate::support::{DEADLINE, Dev, Place, printed};
use holdfast_testkit::{Child, PostgresServer, RedisOptions, RedisServer, http};
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
    let printed = printed(&shell).await;
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {line}: {printed}"))
}
