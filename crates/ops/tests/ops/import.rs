//! What waits in the Redis of another system is moved once, whatever interrupts it.

use holdfast_testkit::place::Place;
use holdfast_testkit::{RedisOptions, RedisServer};
use serde_json::{Value, json};

async fn redis() -> RedisServer {
    RedisServer::start(RedisOptions::default()).await.unwrap()
}

async fn place() -> Place {
    let place = Place::new();
    assert_eq!(place.run(&["migrate"]).await.code, Some(0));
    place
}

async fn import(place: &Place, redis: &RedisServer, system: &str, more: &[&str]) -> (Value, Option<i32>) {
    let url = redis.url();
    let ended = place
        .run(&[&["import", system, "--redis", &url, "--json"], more].concat())
        .await;
    let report =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.text));
    (report, ended.code)
}

fn sum(report: &Value, field: &str) -> u64 {
    let places = report["places"].as_array().unwrap().iter();
    places.map(|place| place[field].as_u64().unwrap()).sum()
}

async fn jobs(place: &Place) -> Vec<Value> {
    let list = place.json(&["jobs", "list", "--limit", "100"]).await;
    list["jobs"].as_array().unwrap().clone()
}

/// As kombu 5 writes it.
fn message(id: &str, more: &Value) -> String {
    let mut message = json!({
        "body": "W1sxXSwge30sIHt9XQ==", "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"lang": "py", "task": "shop.tasks.send", "id": id, "retries": 0, "eta": null, "expires": null,
            "group": null, "ignore_result": false},
        "properties": {"correlation_id": id, "delivery_mode": 2, "delivery_tag": format!("tag-{id}"), "priority": 0,
            "body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "celery"}}
    });
    for (name, value) in more.as_object().unwrap() {
        message["headers"][name] = value.clone();
    }
    message.to_string()
}

#[tokio::test]
async fn what_waits_in_the_redis_of_celery_is_moved_once() {
    let (redis, place) = (redis().await, place().await);
    let eta = json!({"eta": "2030-01-31T12:00:00+00:00"});
    let expires = json!({"expires": "2030-01-31T12:00:00+00:00", "ignore_result": true});
    let prefetched = json!([
        serde_json::from_str::<Value>(&message("e", &eta)).unwrap(),
        "",
        "celery"
    ])
    .to_string();
    for command in [
        vec![
            "LPUSH",
            "celery",
            &message("a", &json!({})),
            &message("b", &expires),
            "no message",
        ],
        vec!["LPUSH", "celery\u{6}\u{16}9", &message("c", &json!({}))],
        vec!["LPUSH", "High.Prio", &message("d", &json!({}))],
        vec!["HSET", "unacked", "tag-e", &prefetched],
        vec![
            "ZADD",
            "unacked_index",
            "1700000000.5",
            "tag-e",
            "1700000001",
            "acknowledged",
        ],
        vec!["LPUSH", "worker.celery.pidbox", &message("x", &json!({}))],
        vec![
            "SADD",
            "_kombu.binding.celery",
            "celery\u{6}\u{16}\u{6}\u{16}celery",
        ],
    ] {
        redis.command(&command).await.unwrap();
    }
    let (report, _) = import(&place, &redis, "celery", &["--dry-run"]).await;
    assert_eq!(
        (
            sum(&report, "found"),
            sum(&report, "accepted"),
            sum(&report, "left")
        ),
        (7, 5, 2),
        "{report}"
    );
    assert_eq!(jobs(&place).await.len(), 0, "a dry run changes nothing");

    // As after an import that was interrupted between the post and the removal.
    redis
        .command(&["RPOPLPUSH", "celery", "holdfast-import:celery"])
        .await
        .unwrap();
    redis.command(&["DEL", "holdfast-import:celery"]).await.unwrap();
    let taken = format!("0 {}", message("a", &json!({})));
    redis
        .command(&["LPUSH", "holdfast-import:celery", &taken])
        .await
        .unwrap();
    let (report, code) = import(&place, &redis, "celery", &[]).await;
    assert_eq!(
        (sum(&report, "accepted"), sum(&report, "left")),
        (5, 1),
        "{report}"
    );
    assert_eq!(code, Some(1), "something is left");
    let all = jobs(&place).await;
    let of = |id: &str| {
        let is = |job: &&Value| job["payload"]["headers"]["id"] == id;
        all.iter()
            .find(is)
            .unwrap_or_else(|| panic!("{id}: {all:?}"))
            .clone()
    };
    assert_eq!(all.len(), 5);
    assert_eq!(
        (&of("a")["kind"], &of("a")["queue"], &of("a")["priority"]),
        (&json!("celery"), &json!("celery"), &json!("high"))
    );
    assert_eq!(
        of("a")["payload"],
        serde_json::from_str::<Value>(&message("a", &json!({}))).unwrap()
    );
    assert!(
        of("b")["expires_at"]
            .as_str()
            .unwrap()
            .starts_with("2030-01-31T12:00:00")
    );
    assert_eq!(of("c")["queue"], "celery");
    assert!(of("d")["queue"].as_str().unwrap().starts_with("high-prio-"));
    assert!(
        of("e")["run_at"]
            .as_str()
            .unwrap()
            .starts_with("2030-01-31T12:00:00")
    );

    // The same once more, and what a lost import had posted already.
    redis
        .command(&["LPUSH", "holdfast-import:celery", &taken])
        .await
        .unwrap();
    let (report, _) = import(&place, &redis, "celery", &[]).await;
    assert_eq!(
        (
            sum(&report, "accepted"),
            sum(&report, "duplicates"),
            sum(&report, "left")
        ),
        (0, 1, 1),
        "{report}"
    );
    assert_eq!(jobs(&place).await.len(), 5);
    let mut keys = redis.keys("*").await.unwrap();
    keys.sort_unstable();
    assert_eq!(keys, ["_kombu.binding.celery", "celery", "worker.celery.pidbox"]);
    assert_eq!(
        redis
            .command(&["LRANGE", "celery", "0", "-1"])
            .await
            .unwrap()
            .array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn what_waits_in_the_redis_of_sidekiq_and_of_bullmq_is_moved() {
    let (redis, place) = (redis().await, place().await);
    let job = |jid: &str, more: Value| {
        let mut job =
            json!({"class": "Mail::Welcome", "args": [7], "jid": jid, "queue": "mailers", "retry": true});
        job.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        job.to_string()
    };
    let repeated = json!({"name": "tick", "data": "{}", "opts": "{}"});
    for command in [
        vec![
            "LPUSH",
            "queue:mailers",
            &job("s1", json!({"tags": ["vip", "vip", "", 7, "eu west"]})),
        ],
        vec![
            "ZADD",
            "schedule",
            "1896091200.25",
            &job("s2", json!({"retry": false})),
        ],
        vec![
            "ZADD",
            "retry",
            "1896091200",
            &job("s3", json!({"retry": 5, "retry_count": 1})),
        ],
        vec![
            "HSET",
            "bull:thumbs:1",
            "name",
            "make",
            "data",
            "{\"url\":\"u\"}",
            "opts",
            "{\"attempts\":3}",
            "atm",
            "1",
        ],
        vec![
            "HSET",
            "bull:thumbs:2",
            "name",
            "make",
            "data",
            "{}",
            "opts",
            "{\"delay\":5,\"priority\":7}",
        ],
        vec![
            "HSET",
            "bull:thumbs:repeat:x:1",
            "name",
            "tick",
            "data",
            repeated["data"].as_str().unwrap(),
        ],
        vec!["LPUSH", "bull:thumbs:wait", "1", "repeat:x:1", "gone"],
        // 2030-01-31T12:00:00Z in milliseconds, times 4096.
        vec!["ZADD", "bull:thumbs:delayed", "7766389555200000", "2"],
    ] {
        redis.command(&command).await.unwrap();
    }
    let (report, code) = import(&place, &redis, "sidekiq", &["--queues", "mailers"]).await;
    assert_eq!(
        (sum(&report, "accepted"), sum(&report, "left"), code),
        (3, 0, Some(0)),
        "{report}"
    );
    let all = jobs(&place).await;
    let of = |jid: &str| all.iter().find(|job| job["payload"]["jid"] == jid).unwrap();
    assert_eq!(
        (&of("s1")["kind"], &of("s1")["queue"], &of("s1")["max_attempts"]),
        (&json!("Mail::Welcome"), &json!("mailers"), &json!(26))
    );
    assert_eq!(of("s1")["tags"], json!(["vip", "eu west"]));
    assert!(
        of("s2")["run_at"]
            .as_str()
            .unwrap()
            .starts_with("2030-01-31T12:00:00.25"),
        "{}",
        of("s2")
    );
    assert_eq!(
        (&of("s2")["max_attempts"], &of("s3")["max_attempts"]),
        (&json!(1), &json!(4))
    );

    let (report, code) = import(
        &place,
        &redis,
        "bullmq",
        &["--kind", "thumb.make", "--queue", "media"],
    )
    .await;
    assert_eq!(
        (sum(&report, "accepted"), sum(&report, "left"), code),
        (2, 2, Some(1)),
        "{report}"
    );
    let all = jobs(&place).await;
    let thumbs: Vec<_> = all.iter().filter(|job| job["kind"] == "thumb.make").collect();
    assert_eq!(thumbs.len(), 2);
    assert!(thumbs.iter().all(|job| job["queue"] == "media"));
    let delayed = thumbs.iter().find(|job| job["priority"] == "low").unwrap();
    assert!(
        delayed["run_at"]
            .as_str()
            .unwrap()
            .starts_with("2030-01-31T12:00:00"),
        "{delayed}"
    );
    let other = thumbs.iter().find(|job| job["priority"] == "normal").unwrap();
    assert_eq!(
        (&other["payload"], &other["max_attempts"]),
        (&json!({"url": "u"}), &json!(2))
    );
    let mut keys = redis.keys("*").await.unwrap();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["bull:thumbs:repeat:x:1", "bull:thumbs:wait"],
        "what is left is where it was"
    );
}

#[tokio::test]
async fn what_workers_have_prefetched_is_left_to_them_while_they_wait_for_jobs() {
    let (redis, place) = (redis().await, place().await);
    let prefetched = json!([
        serde_json::from_str::<Value>(&message("e", &json!({}))).unwrap(),
        "",
        "celery"
    ])
    .to_string();
    redis
        .command(&["HSET", "unacked", "tag-e", &prefetched])
        .await
        .unwrap();
    redis
        .command(&["ZADD", "unacked_index", "1700000000.5", "tag-e"])
        .await
        .unwrap();
    let mut worker = redis.connect().await.unwrap();
    let waits = async { worker.command(&["BRPOP", "celery", "60"]).await };
    let importing = async {
        crate::until("the worker waits", async || {
            let list = redis.command(&["CLIENT", "LIST"]).await.unwrap().text().unwrap();
            list.contains("cmd=brpop")
        })
        .await;
        import(&place, &redis, "celery", &[]).await
    };
    let (report, code) = tokio::select! {
        answer = waits => panic!("{answer:?}"),
        imported = importing => imported,
    };
    assert_eq!((sum(&report, "found"), code), (0, Some(0)));
    assert!(
        report["notes"][0].as_str().unwrap().contains("unacked"),
        "{report}"
    );
    assert!(jobs(&place).await.is_empty());
}
