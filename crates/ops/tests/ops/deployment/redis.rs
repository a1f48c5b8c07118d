//! The two Redis configurations, read by a real Redis.

use std::time::Duration;

use holdfast_testkit::{Child, RespConnection, RespValue, free_port};

use super::files::root;

const DEADLINE: Duration = Duration::from_mins(1);
const PASSWORD: &str = "letters0and9digits";

/// Started as deploy/compose.yaml does, but on a port and in a directory of its own.
async fn start(conf: &str, directory: &tempfile::TempDir) -> (Child, RespConnection) {
    let port = free_port().unwrap();
    let conf = root().join("deploy").join(conf);
    let server = Child::program("redis-server")
        .arg(conf)
        .args(["--requirepass", PASSWORD, "--port", &port.to_string()])
        .args(["--bind", "127.0.0.1", "--dir"])
        .arg(directory.path())
        .start()
        .unwrap();
    server
        .wait_for_line("Ready to accept connections", DEADLINE)
        .await
        .unwrap();
    let mut connection = connect(port).await;
    let denied = connection.command(&["PING"]).await.unwrap();
    assert!(
        matches!(denied, RespValue::Error(_)),
        "it lets in whoever comes: {denied:?}"
    );
    connection.command(&["AUTH", PASSWORD]).await.unwrap();
    (server, connection)
}

async fn connect(port: u16) -> RespConnection {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    RespConnection::connect(address).await.unwrap()
}

async fn assert_config(connection: &mut RespConnection, wanted: &[(&str, &str)]) {
    for &(name, value) in wanted {
        let answer = connection.command(&["CONFIG", "GET", name]).await.unwrap();
        let items = answer.array().unwrap();
        assert_eq!(items[1].text().as_deref(), Some(value), "{name}");
    }
}

#[tokio::test]
async fn the_queue_evicts_nothing_and_survives_a_restart() {
    let directory = tempfile::TempDir::new().unwrap();
    let (mut server, mut connection) = start("redis-queue.conf", &directory).await;
    let wanted = [
        ("maxmemory-policy", "noeviction"),
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("timeout", "0"),
    ];
    assert_config(&mut connection, &wanted).await;
    connection.command(&["LPUSH", "jobs", "one"]).await.unwrap();
    server.sigterm().unwrap();
    assert!(server.wait_exit(DEADLINE).await.unwrap().success());

    let (_server, mut connection) = start("redis-queue.conf", &directory).await;
    let length = connection.command(&["LLEN", "jobs"]).await.unwrap();
    assert_eq!(length, RespValue::Integer(1));
}

#[tokio::test]
async fn the_cache_evicts_and_begins_empty() {
    let directory = tempfile::TempDir::new().unwrap();
    let (mut server, mut connection) = start("redis-cache.conf", &directory).await;
    let wanted = [
        ("maxmemory-policy", "allkeys-lru"),
        ("appendonly", "no"),
        ("maxmemory", "268435456"),
    ];
    assert_config(&mut connection, &wanted).await;
    connection.command(&["SET", "page", "one"]).await.unwrap();
    server.sigterm().unwrap();
    assert!(server.wait_exit(DEADLINE).await.unwrap().success());

    let (_server, mut connection) = start("redis-cache.conf", &directory).await;
    let size = connection.command(&["DBSIZE"]).await.unwrap();
    assert_eq!(size, RespValue::Integer(0));
}
