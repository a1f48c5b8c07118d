//! Values on Redis: their bytes, their TTLs, their limits, and what a read costs.

use bytes::Bytes;
use holdfast_cache::{Class, Namespace};
use holdfast_core::config::CacheSettings;
use holdfast_testkit::{RedisServer, RespValue};

use crate::conformance::support::*;

const BLOBS: Namespace<Bytes> = Namespace::raw(Class::Static, "blobs", 1);
const NUMBERS: Namespace<u32> = Namespace::json(Class::Static, "texts", 1);
const UNCOPIED: Namespace<String> = Namespace::json(Class::ApiResponse, "uncopied", 1).not_copied();

async fn number(server: &RedisServer, command: &[&str]) -> i64 {
    match server.command(command).await.unwrap() {
        RespValue::Integer(number) => number,
        other => panic!("{other:?}"),
    }
}

async fn calls_of(server: &RedisServer, command: &str) -> u64 {
    let line = server
        .info("commandstats", &format!("cmdstat_{command}"))
        .await
        .unwrap_or_default();
    line.strip_prefix("calls=")
        .and_then(|rest| rest.split(',').next())
        .and_then(|calls| calls.parse().ok())
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_has_its_time_and_every_key_expires() {
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    for (class, fresh, stale) in [
        (Class::Session, 1_800, 0),
        (Class::ApiResponse, 300, 600),
        (Class::Recommendation, 3_600, 600),
        (Class::Static, 86_400, 600),
    ] {
        let namespace: Namespace<u32> = match class {
            Class::Session => const { Namespace::json(Class::Session, "timed", 1) },
            Class::ApiResponse => const { Namespace::json(Class::ApiResponse, "timed", 1) },
            Class::Recommendation => const { Namespace::json(Class::Recommendation, "timed", 1) },
            Class::Static => const { Namespace::json(Class::Static, "timed", 1) },
        };
        let key = namespace.key(&["k"]);
        cache.set(&key, &1).await;
        let left = number(&server, &["PTTL", key.as_str()]).await;
        let kept = (fresh + stale) * 1_000;
        assert!(left <= kept && left > kept - 60_000, "{class}: {left} of {kept}");
    }
    for key in server.keys("*").await.unwrap() {
        assert!(number(&server, &["PTTL", &key]).await > 0, "{key} lives for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jitter_spreads_what_is_stored_together() {
    let server = server().await;
    let jittered = CacheSettings {
        ttl_jitter: 0.1,
        ..settings()
    };
    let cache = ready(&server.url(), &jittered).await;
    let mut left = Vec::new();
    for number_of in 0..50 {
        let key = TEXTS.key(&[number_of.to_string()]);
        cache.set(&key, &String::new()).await;
        left.push(number(&server, &["PTTL", key.as_str()]).await);
    }
    let (least, most) = (left.iter().min().unwrap(), left.iter().max().unwrap());
    assert!(*least >= (86_400 * 9 / 10 + 600 - 60) * 1_000, "{least}");
    assert!(*most <= (86_400 * 11 / 10 + 600) * 1_000, "{most}");
    assert!(most - least > 3_600_000, "{least} to {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_written_by_one_process_is_read_by_another() {
    let server = server().await;
    let (writer, reader) = (
        ready(&server.url(), &settings()).await,
        ready(&server.url(), &settings()).await,
    );
    let (text, blob) = (TEXTS.key(&["k"]), BLOBS.key(&["k"]));
    let large = "lorem ipsum ".repeat(10_000);
    let bytes = Bytes::from_static(&[0, 255, 10, 13, 0]);
    writer.set(&text, &large).await;
    writer.set(&blob, &bytes).await;
    assert_eq!(reader.get(&text).await, Some(large.clone()));
    assert_eq!(reader.get(&blob).await, Some(bytes));
    let stored = number(&server, &["STRLEN", text.as_str()]).await;
    assert!((stored as usize) < large.len() / 10, "compressed: {stored}");
    let stats = reader.stats().of(Class::Static);
    assert_eq!((stats.hit_redis, stats.hit_local, stats.miss), (2, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_decode_is_a_miss_and_is_replaced() {
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    let key = TEXTS.key(&["k"]);
    for foreign in ["", "x", "somebody else's value, longer than a head of ours is"] {
        server.command(&["SET", key.as_str(), foreign]).await.unwrap();
        let before = cache.stats().of(Class::Static);
        assert_eq!(cache.get(&key).await, None, "{foreign:?}");
        let stats = cache.stats().of(Class::Static);
        assert_eq!(stats.miss, before.miss + 1);
        assert_eq!(stats.undecodable, before.undecodable + 1, "{foreign:?}");
    }
    let loaded = cache
        .get_or_load(&key, Loader::default().brings("ours"))
        .await
        .unwrap();
    assert_eq!(loaded.value, "ours");
    until("it is stored", || async {
        number(&server, &["STRLEN", key.as_str()]).await == 34 + 6
    })
    .await;

    // The same key with values of another type, as after a change without a new version.
    let changed = NUMBERS.key(&["k"]);
    assert_eq!(changed.as_str(), key.as_str());
    let other = ready(&server.url(), &settings()).await;
    assert_eq!(other.get(&changed).await, None);
    assert_eq!(other.stats().of(Class::Static).undecodable, 1);
    server.command(&["DEL", key.as_str()]).await.unwrap();
    server.command(&["LPUSH", key.as_str(), "a list"]).await.unwrap();
    let third = ready(&server.url(), &settings()).await;
    assert_eq!(third.get(&key).await, None, "a key of another kind fails nobody");
    assert!(third.gate().mode().is_normal());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_too_large_is_not_kept_and_leaves_no_older_one() {
    let server = server().await;
    let small = CacheSettings {
        max_value_bytes: 100,
        ..settings()
    };
    let cache = ready(&server.url(), &small).await;
    let key = BLOBS.key(&["k"]);
    cache.set(&key, &Bytes::from(vec![0; 100])).await;
    assert!(cache.exists(&key).await);
    cache.set(&key, &Bytes::from(vec![0; 101])).await;
    assert_eq!(cache.get(&key).await, None);
    let large = || async { Ok::<_, SourceRefusal>(Bytes::from(vec![0; 101])) };
    for _ in 0..2 {
        let loaded = cache.get_or_load(&key, large).await.unwrap();
        assert_eq!(loaded.value.len(), 101, "it is handed on all the same");
    }
    let stats = cache.stats().of(Class::Static);
    assert_eq!((stats.too_large, stats.loads), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_in_the_process_stay_within_their_bytes() {
    let small = CacheSettings {
        local_max_bytes: 100_000,
        ..settings()
    };
    let cache = without_redis(&small);
    for number in 0..1_000 {
        cache
            .set(&BLOBS.key(&[number.to_string()]), &Bytes::from(vec![0; 1_000]))
            .await;
    }
    let stats = cache.stats();
    assert!(
        stats.local_bytes <= 100_000 && stats.local_entries < 100,
        "{stats:?}"
    );
    assert!(stats.local_entries > 10, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_from_redis_costs_one_command_and_a_local_one_none() {
    const READS: u64 = 500;
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    let (copied, uncopied) = (TEXTS.key(&["k"]), UNCOPIED.key(&["k"]));
    cache.set(&copied, &"x".to_owned()).await;
    cache.set(&uncopied, &"x".to_owned()).await;
    let processed = || async {
        let total: u64 = server
            .info("stats", "total_commands_processed")
            .await
            .unwrap()
            .parse()
            .unwrap();
        total
    };
    let (before, gets) = (processed().await, calls_of(&server, "get").await);
    let began = std::time::Instant::now();
    for _ in 0..READS {
        assert!(cache.get(&uncopied).await.is_some());
    }
    let commands = processed().await - before;
    assert_eq!(calls_of(&server, "get").await - gets, READS);
    // The gate's probes (three commands every 500 ms) and our own questions are among them.
    let others = 50 + began.elapsed().as_millis() as u64 / 50;
    assert!(
        commands <= READS + others,
        "{commands} commands for {READS} reads"
    );
    let gets = calls_of(&server, "get").await;
    for _ in 0..READS {
        assert!(cache.get(&copied).await.is_some());
    }
    assert_eq!(calls_of(&server, "get").await, gets);
    let stats = cache.stats();
    assert_eq!(stats.of(Class::ApiResponse).hit_redis, READS);
    assert_eq!(stats.of(Class::Static).hit_local, READS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_copy_of_the_namespace_number_loses_values_and_revives_none() {
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    let key = TEXTS.key(&["k"]);
    cache.set(&key, &"old".to_owned()).await;
    cache.bump(&TEXTS).await;
    server
        .command(&["DEL", "holdfast:cache-generation:static:texts.1"])
        .await
        .unwrap();
    let other = ready(&server.url(), &settings()).await;
    assert_eq!(other.get(&key).await, None);
    assert_eq!(other.stats().of(Class::Static).miss, 1);
}
