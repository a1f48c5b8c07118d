//! `holdfast redis-check`, for a URL alone.

use holdfast_testkit::{
    Authority, Eviction, Persistence, RedisCluster, RedisOptions, RedisSentinels, RedisServer, free_port,
};

use super::support::{Place, Silent};

#[tokio::test]
async fn a_sound_server_passes_every_check_and_keeps_nothing_of_them() {
    let options = RedisOptions::default()
        .persistence(Persistence::AofEverysec)
        .password("hunter2");
    let redis = RedisServer::start(options).await.unwrap();
    let place = Place::new().with("REDIS_URL", redis.url());
    let checks = place.checks(&["redis-check"]).await;
    checks.assert_sound();
    let verdicts = checks.verdicts();
    for name in [
        "connect",
        "login",
        "cache",
        "queue",
        "pubsub",
        "pipelining",
        "pool",
        "latency",
    ] {
        assert_ne!(verdicts[&format!("redis.{name}")], "skipped", "{name}");
    }
    assert!(checks.document["score"].as_u64().unwrap() >= 80);
    assert!(!checks.document.to_string().contains("hunter2"));
    assert_eq!(redis.keys("*").await.unwrap(), [""; 0]);

    let (code, text) = place.run(&["redis-check"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("pass  redis.pubsub") && text.contains("Score: "),
        "{text}"
    );
}

#[tokio::test]
async fn each_fault_is_named_and_what_builds_upon_it_is_skipped() {
    let redis = RedisServer::start(RedisOptions::default().password("hunter2"))
        .await
        .unwrap();
    let silent = Silent::start().await;
    let nobody = free_port().unwrap();
    let (address, hole) = (redis.addr(), silent.port());
    for (url, fault, words) in [
        (
            format!("redis://127.0.0.1:{nobody}"),
            "redis.connect",
            "Start the server",
        ),
        (
            format!("redis://:wrong@{address}"),
            "redis.login",
            "the password is refused",
        ),
        (
            format!("redis://{address}"),
            "redis.login",
            "the password is refused",
        ),
        (
            format!("redis://127.0.0.1:{hole}"),
            "redis.login",
            "does not answer",
        ),
        (format!("rediss://{address}"), "redis.login", ""),
        (
            "http://example.org".to_owned(),
            "redis.connect",
            "rediss:// for TLS",
        ),
    ] {
        let checks = Place::new().checks(&["redis-check", "--url", &url]).await;
        checks.assert_only(fault, words);
        assert_eq!(checks.code, 1, "{url}");
        assert_eq!(checks.verdicts()["redis.pool"], "skipped", "{url}");
    }
}

#[tokio::test]
async fn a_cluster_and_sentinels_pass_every_check_and_are_named_where_the_url_is_that_of_a_server() {
    let options = || {
        RedisOptions::default()
            .persistence(Persistence::AofEverysec)
            .password("hunter2")
    };
    let cluster = RedisCluster::start(3, options()).await.unwrap();
    let group = RedisSentinels::start(options(), Some("guard")).await.unwrap();
    for url in [cluster.url(), group.url()] {
        let checks = Place::new().checks(&["redis-check", "--url", &url]).await;
        checks.assert_sound();
        let text = checks.document.to_string();
        assert!(!text.contains("hunter2") && !text.contains("guard"), "{text}");
    }
    let sentinel = group.sentinels()[0].addr();
    for (url, words) in [
        (cluster.masters()[0].url(), "redis+cluster://"),
        (format!("redis://:guard@{sentinel}"), "redis+sentinel://"),
    ] {
        let checks = Place::new().checks(&["redis-check", "--url", &url]).await;
        checks.assert_only("redis.login", words);
    }
    let replica = group.servers()[1].url();
    let checks = Place::new().checks(&["redis-check", "--url", &replica]).await;
    checks.assert_only("redis.server", "replica");
}

#[tokio::test]
async fn a_server_that_may_evict_is_a_warning_which_strict_does_not_allow() {
    let options = RedisOptions::default().maxmemory(64 * 1024 * 1024, Eviction::AllKeysLru);
    let redis = RedisServer::start(options).await.unwrap();
    let place = Place::new().with("REDIS_URL", redis.url());
    let checks = place.checks(&["redis-check"]).await;
    checks.assert_only("redis.policy", "noeviction");
    assert_eq!(checks.code, 0);
    assert_eq!(place.checks(&["redis-check", "--strict"]).await.code, 2);
    // For a cache it is as it should be.
    place.checks(&["redis-check", "--cache"]).await.assert_sound();
}

#[tokio::test]
async fn without_a_url_it_says_what_to_set() {
    let (code, text) = Place::new().run(&["redis-check"]).await;
    assert_eq!(code, 64);
    assert!(text.contains("set REDIS_URL, or give --url"), "{text}");
}

#[tokio::test]
async fn a_server_behind_tls_is_checked_as_any_other_once_its_authority_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let options = RedisOptions::default().persistence(Persistence::AofEverysec);
    let (options, port) = authority.secure(options, "localhost", directory.path()).unwrap();
    let _server = RedisServer::start(options).await.unwrap();
    let url = format!("rediss://localhost:{}", port.port());
    let place = Place::new().with("REDIS_URL", &url);
    let checks = place.checks(&["redis-check"]).await;
    checks.assert_only("redis.login", "redis.ca_certificate");
    assert_eq!(checks.code, 1);

    let file = directory.path().join("authority.crt");
    for ca in [file.display().to_string(), authority.pem()] {
        let place = Place::new()
            .with("REDIS_URL", &url)
            .with("HOLDFAST__REDIS__CA_CERTIFICATE", ca);
        let checks = place.checks(&["redis-check"]).await;
        checks.assert_sound();
        assert!(
            checks.document.to_string().contains("over TLS"),
            "{}",
            checks.document
        );
    }
}
