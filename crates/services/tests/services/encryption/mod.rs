//! Encryption at rest: no dump holds a secret, everything runs all the same, and keys can be rotated, lost and found again.

mod system;

use std::time::Duration;

use holdfast_testkit::{Receiver, RedisOptions, RedisServer, eventually};
use serde_json::{Value, json};

use self::system::{DEADLINE, Place, System, good};

/// In every secret of these tests, and in nothing else.
const MARK: &str = "S3CRET";

const K1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const K2: &str = "k2:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const K3: &str = "k3:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=";

/// As a webhook's secret and a signing key are written.
const SIGNING_SECRET: &str = "whsec_S3CRETS3CRETS3CRETS3CRETS3CRETS3";

fn pay(name: &str) -> Value {
    json!({"auth": {"token": format!("{MARK}-{name}")}, "items": [{"pin": format!("{MARK}-pin"), "n": 1}], "note": name})
}

fn job(name: &str) -> Value {
    json!({"kind": "shop.pay", "payload": pay(name)})
}

/// Everything through which a secret goes into the database or into Redis. The names of the payloads that a worker is to see.
async fn fill(system: &System, receiver: &Receiver) -> Vec<&'static str> {
    let mut admin = system.admin();
    let mut post = async |path: &str, body: Value, status: u16| {
        good(&admin.post_json(path, &body).await.unwrap(), status, path)
    };
    post(
        "/v1/jobs",
        json!({"kind": "shop.pay", "payload": pay("first"), "then": job("next")}),
        202,
    )
    .await;
    post("/v1/jobs", job("fail"), 202).await;
    post(
        "/v1/jobs",
        json!({"kind": "shop.pay", "payload": pay("later"), "delay_seconds": 86_400}),
        202,
    )
    .await;
    let batch = json!({"jobs": [job("member"), job("member")], "callback": job("callback")});
    post("/v1/batches", batch, 202).await;
    let schedule = json!({"name": "s", "every_seconds": 86_400, "kind": "shop.pay", "payload": pay("tick")});
    post("/v1/schedules", schedule, 201).await;
    post("/v1/schedules/s/run", json!({}), 202).await;
    post(
        "/v1/webhooks",
        json!({"url": "https://example.com/", "events": ["a.b"], "secret": SIGNING_SECRET}),
        201,
    )
    .await;
    post("/v1/signing-keys", json!({"secret": SIGNING_SECRET}), 201).await;
    let feed = json!({"name": "f", "kind": "ical", "url": format!("https://example.com/{MARK}-feed.ics"), "enabled": false});
    post("/v1/sources", feed, 201).await;
    let call = json!({"kind": "http.request", "payload": {"url": receiver.url("/called"), "method": "POST", "sign": true,
        "headers": {"x-api-key": format!("{MARK}-header")}}});
    post("/v1/jobs", call, 202).await;
    post("/v1/notifications", json!({"type": "a.b", "data": {}}), 202).await;
    let mail = json!({"kind": "notify.email", "delay_seconds": 86_400,
        "payload": {"to": "ada@example.com", "template": "hello", "data": {"name": MARK}}});
    post("/v1/jobs", mail, 202).await;
    put(
        &mut admin,
        "/v1/mail-templates/hello",
        &json!({"subject": "{{ name }}", "text": "Dear {{ name }}"}),
    )
    .await;
    let user = json!({"address": "ada@example.com", "email": "digest"});
    put(&mut admin, "/v1/users/app-7/preferences", &user).await;
    let mail = json!({"kind": "notify.email", "payload": {"user": "app-7", "list": "news", "template": "hello", "data": {"name": MARK}}});
    good(&admin.post_json("/v1/jobs", &mail).await.unwrap(), 202, "mail");
    vec!["callback", "fail", "first", "member", "member", "next", "tick"]
}

async fn put(client: &mut holdfast_testkit::http::Client, path: &str, body: &Value) {
    let headers = [("content-type", "application/json")];
    let answer = client
        .request("PUT", path, &headers, body.to_string().as_bytes())
        .await
        .unwrap();
    assert!(answer.status < 300, "{path}: {}", answer.text());
}

/// A pull worker is given the plain payload, and what it repeats of it in an error is taken out.
async fn pull(system: &System) {
    let mut admin = system.admin();
    let kind =
        json!({"queue": "media", "redact": ["auth.token", "items[].pin"], "retry": {"max_attempts": 1}});
    put(&mut admin, "/v1/kinds/app.pull", &kind).await;
    let body = json!({"kind": "app.pull", "payload": pay("pulled")});
    let id = good(&admin.post_json("/v1/jobs", &body).await.unwrap(), 202, "job")["id"].clone();
    let worker = json!({"name": "w", "queues": ["media"], "concurrency": 1, "client": {"name": "t", "version": "1", "language": "sh"}});
    let worker = good(
        &admin.post_json("/v1/workers", &worker).await.unwrap(),
        201,
        "worker",
    );
    let path = format!("/v1/workers/{}", worker["id"].as_str().unwrap());
    let asked = json!({"max": 1, "wait_seconds": 30});
    let pulled = good(
        &admin.post_json(&format!("{path}/pull"), &asked).await.unwrap(),
        200,
        "pull",
    );
    assert_eq!(pulled["jobs"][0]["payload"], pay("pulled"));
    let error = format!("refused {MARK}-pulled");
    let outcome =
        json!({"job": id, "fence": pulled["jobs"][0]["fence"], "outcome": "failed", "error": error});
    let finished = admin
        .post_json(&format!("{path}/finish"), &json!({"outcomes": [outcome]}))
        .await
        .unwrap();
    good(&finished, 200, "finish");
    let path = format!("/v1/dead-letters/{}", id.as_str().unwrap());
    let dead = good(&admin.get(&path).await.unwrap(), 200, "dead letter");
    assert_eq!(dead["errors"][0]["message"], "refused [redacted]", "{dead}");
    assert_eq!(dead["payload"], pay("pulled"));
}

/// A dead letter says what failed and not with which secret; it is redriven with another payload, once under one key.
async fn redrive(system: &System) {
    let mut admin = system.admin();
    let dead = eventually("a dead letter", DEADLINE, Duration::from_millis(50), async || {
        let found = system
            .admin()
            .get("/v1/dead-letters?kind=shop.pay")
            .await
            .unwrap();
        good(&found, 200, "dead letters")["dead_letters"].get(0).cloned()
    });
    let dead = dead.await.unwrap();
    assert_eq!(
        dead["errors"][0]["message"], "the bank refuses [redacted]",
        "{dead}"
    );
    assert_eq!(dead["payload"], pay("fail"));
    let body = json!({"id": dead["id"], "payload": pay("redriven")}).to_string();
    let headers = [("content-type", "application/json"), ("idempotency-key", "r1")];
    for _ in 0..2 {
        let answer = admin.request("POST", "/v1/dead-letters/redrive", &headers, body.as_bytes());
        assert_eq!(good(&answer.await.unwrap(), 200, "redrive")["affected"], 1);
    }
}

/// A repeat under one key is the same job if it says the same, however it is encrypted.
async fn repeat(system: &System) {
    let mut admin = system.admin();
    let mut post = async |path: &str, key: &str, body: Value| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        admin
            .request("POST", path, &headers, body.to_string().as_bytes())
            .await
            .unwrap()
    };
    let delayed = |name: &str| json!({"kind": "shop.pay", "payload": pay(name), "delay_seconds": 86_400});
    let first = good(&post("/v1/jobs", "j1", delayed("keyed")).await, 202, "first");
    let again = good(&post("/v1/jobs", "j1", delayed("keyed")).await, 200, "again");
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    assert_eq!(post("/v1/jobs", "j1", delayed("other")).await.status, 422);
    let batch = |name: &str| json!({"jobs": [delayed(name)], "callback": job(name)});
    let first = good(&post("/v1/batches", "b1", batch("keyed")).await, 202, "first");
    let again = good(&post("/v1/batches", "b1", batch("keyed")).await, 200, "again");
    assert_eq!(again["id"], first["id"]);
    assert_eq!(post("/v1/batches", "b1", batch("other")).await.status, 422);
}

/// On both databases: with keys no row of any table holds a secret, without them many do, and everything runs alike.
async fn no_row_holds_a_secret_and_everything_runs(postgres: bool) {
    for (keys, is_plain) in [(K1, false), ("", true)] {
        if is_plain && postgres {
            // One database shows that the search finds what is not encrypted.
            continue;
        }
        let place = Place::new(postgres, &[]).await;
        let receiver = Receiver::start().await.unwrap();
        let system = System::open(&place, keys).await;
        let expected = fill(&system, &receiver).await;
        assert_eq!(system.seen(expected.len()).await, expected);
        eventually("the call", DEADLINE, Duration::from_millis(20), async || {
            let calls = receiver.recorded();
            calls
                .iter()
                .any(|call| call.header("x-api-key") == Some("S3CRET-header"))
                .then_some(())
        })
        .await
        .unwrap();
        redrive(&system).await;
        assert_eq!(system.seen(1).await, ["redriven"]);
        pull(&system).await;
        repeat(&system).await;
        if postgres {
            let payload = pay("by-sql").to_string();
            let text = format!("select holdfast.enqueue('shop.pay', '{payload}'::json)::text");
            system.sql(&text).await;
            assert_eq!(system.seen(1).await, ["by-sql"]);
            assert_eq!(system.rotate().await["unreadable"], json!([]));
        }
        system.waits_for_digest().await;
        let holders = system.holders_of(MARK).await;
        if is_plain {
            for table in [
                "batches",
                "digest_items",
                "jobs",
                "schedules",
                "signing_keys",
                "sources",
                "webhooks",
            ] {
                assert!(
                    holders.contains(&format!("holdfast_{table}")),
                    "{table}: {holders:?}"
                );
            }
        } else {
            assert!(holders.is_empty(), "{holders:?}");
            // By SQL a payload comes plain, and stays so in the files until their pages are used again.
            assert!(!system.files_hold(MARK), "in what was deleted");
        }
        system.stop().await;
    }
}

#[tokio::test]
async fn no_row_of_postgres_holds_a_secret_and_everything_runs() {
    no_row_holds_a_secret_and_everything_runs(true).await;
}

#[tokio::test]
async fn no_row_of_sqlite_holds_a_secret_and_everything_runs() {
    no_row_holds_a_secret_and_everything_runs(false).await;
}

#[tokio::test]
async fn a_job_on_redis_holds_no_secret_while_it_waits_and_runs() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    server.config_set("rdbcompression", "no").await.unwrap();
    let url = server.url();
    let env = [
        ("REDIS_URL", url.as_str()),
        ("HOLDFAST__QUEUES__FAST__DURABILITY", "redis"),
    ];
    let place = Place::new(false, &env).await;
    let mut system = System::idle(&place, K1).await;
    let body = json!({"kind": "shop.pay", "queue": "fast", "payload": pay("fast")});
    let answer = good(
        &system.admin().post_json("/v1/jobs", &body).await.unwrap(),
        202,
        "job",
    );
    assert_eq!(answer["durability"], "redis");
    let path = format!("/v1/jobs/{}", answer["id"].as_str().unwrap());
    let shown = good(&system.admin().get(&path).await.unwrap(), 200, "job");
    assert_eq!(shown["payload"], pay("fast"));
    let mut dump = Vec::new();
    for key in server.keys("*").await.unwrap() {
        if let holdfast_testkit::RespValue::Bulk(bytes) = server.command(&["DUMP", &key]).await.unwrap() {
            dump.extend(bytes);
        }
    }
    let holds = |text: &str| dump.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("$sealed:1:k1:") && holds("shop.pay"), "the job is on Redis");
    assert!(!holds(MARK));
    system.work();
    assert_eq!(system.seen(1).await, ["fast"]);
    system.stop().await;
}

/// From plain rows over two keys, beside producers and a worker; then the key is lost, and comes back.
async fn keys_are_rotated_under_load_lost_and_found(postgres: bool) {
    let place = Place::new(postgres, &[]).await;
    let receiver = Receiver::start().await.unwrap();
    let system = System::open(&place, "").await;
    let mut expected = fill(&system, &receiver).await.len();
    system.seen(expected).await;
    system.waits_for_digest().await;
    system.stop().await;

    for (keys, first) in [(K1.to_owned(), "k1"), (format!("{K2},{K1}"), "k2")] {
        let system = System::open(&place, &keys).await;
        let produced = async {
            let mut admin = system.admin();
            for _ in 0..40 {
                let body = json!({"jobs": vec![job("load"); 5]});
                good(
                    &admin.post_json("/v1/jobs/batch", &body).await.unwrap(),
                    202,
                    "batch",
                );
            }
        };
        let rotated = async {
            loop {
                let rotated = system.rotate().await;
                assert_eq!(rotated["unreadable"], json!([]), "{rotated}");
                if rotated["skipped"] == 0 {
                    return;
                }
            }
        };
        tokio::join!(produced, rotated);
        expected = 200;
        assert_eq!(system.seen(expected).await.len(), expected, "each ran once");
        assert_eq!(system.rotate().await["skipped"], 0);
        let holders = system.holders_of(MARK).await;
        assert!(holders.is_empty(), "{holders:?}");
        for other in ["k1", "k2"].into_iter().filter(|key| *key != first) {
            let holders = system.holders_of(&format!("$sealed:1:{other}:")).await;
            assert!(holders.is_empty(), "{other}: {holders:?}");
        }
        assert_eq!(
            system.rotate().await["rewritten"],
            0,
            "nothing is rewritten twice"
        );
        system.stop().await;
    }

    // The key is lost: what needs it waits, and nothing is lost.
    let mut system = System::idle(&place, K3).await;
    let id = system.make_due("later").await;
    system.work();
    eventually(
        "the job is put off",
        DEADLINE,
        Duration::from_millis(50),
        async || {
            let job = system.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
            let job = good(&job, 200, "job");
            (job["state"] == "scheduled" && job["attempt"] == 0 && job["errors"] == json!([])).then_some(())
        },
    )
    .await
    .unwrap();
    let health = good(&system.admin().get("/health").await.unwrap(), 200, "health");
    assert_eq!(health["services"]["encryption"]["status"], "degraded", "{health}");
    assert_eq!(
        health["services"]["encryption"]["details"]["missing_keys"],
        json!(["k2"])
    );
    let rotated = system.rotate().await;
    assert!(
        rotated["unreadable"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("\"k2\""),
        "{rotated}"
    );
    assert_eq!(system.admin().get("/v1/sources").await.unwrap().status, 503);
    system.stop().await;

    let mut system = System::idle(&place, &format!("{K3},{K2}")).await;
    system.make_due("later").await;
    system.work();
    assert_eq!(system.seen(1).await, ["later"]);
    let shown = good(
        &system.admin().get("/v1/schedules/s").await.unwrap(),
        200,
        "schedule",
    );
    assert_eq!(shown["payload"], pay("tick"));
    let sources = good(&system.admin().get("/v1/sources").await.unwrap(), 200, "sources");
    assert!(sources.to_string().contains("S3CRET-feed"));
    tampered(&system).await;
    system.stop().await;
}

/// A sealed field of one job in another one of its kind discards that job, with the name of the field.
async fn tampered(system: &System) {
    let mut admin = system.admin();
    let body = json!({"kind": "shop.pay", "payload": pay("victim"), "delay_seconds": 86_400});
    let victim = good(&admin.post_json("/v1/jobs", &body).await.unwrap(), 202, "job")["id"].clone();
    let victim = victim.as_str().unwrap();
    system
        .give_secrets_of_to(&system.id_of("first").await, victim)
        .await;
    let retried = admin
        .request("POST", &format!("/v1/jobs/{victim}/retry"), &[], &[])
        .await
        .unwrap();
    assert_eq!(retried.status, 200, "{}", retried.text());
    let path = format!("/v1/jobs/{victim}?wait=60");
    let job = good(&admin.get(&path).await.unwrap(), 200, "job");
    assert_eq!(job["state"], "discarded", "{job}");
    let message = job["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("payload.auth.token: ") && message.contains("not authentic"),
        "{message}"
    );
    let unopened = good(&admin.get("/v1/encryption").await.unwrap(), 200, "keys");
    assert_eq!(unopened["keys"][0], json!({"id": "k3", "encrypts": true}));
}

#[tokio::test]
async fn keys_are_rotated_under_load_lost_and_found_on_postgres() {
    keys_are_rotated_under_load_lost_and_found(true).await;
}

#[tokio::test]
async fn keys_are_rotated_under_load_lost_and_found_on_sqlite() {
    keys_are_rotated_under_load_lost_and_found(false).await;
}

/// Whatever a caller without `admin` asks for shows no secret: every route that answers GET, with every id there is.
async fn no_view_shows_a_marked_field(keys: &str) {
    let place = Place::new(false, &[]).await;
    let receiver = Receiver::start().await.unwrap();
    let system = System::open(&place, keys).await;
    let runs = fill(&system, &receiver).await.len();
    system.seen(runs).await;
    pull(&system).await;
    let mut admin = system.admin();
    // A payload of another form than its kind expects.
    let odd = json!({"kind": "app.pull", "payload": {"auth": format!("{MARK}-odd"), "items": {"pin": MARK}}});
    let odd = good(&admin.post_json("/v1/jobs", &odd).await.unwrap(), 202, "odd")["id"].clone();
    let key = json!({"name": "reader", "scopes": ["read:payload", "produce"]});
    let key = good(&admin.post_json("/v1/keys", &key).await.unwrap(), 201, "key");
    let mut reader = system.with_key(key["key"].as_str().or(key["secret"].as_str()).unwrap());
    let mut ids = vec![
        "s".to_owned(),
        "shop.pay".to_owned(),
        "app.pull".to_owned(),
        "app-7".to_owned(),
    ];
    for list in [
        "/v1/jobs?limit=100",
        "/v1/batches",
        "/v1/sources",
        "/v1/webhooks",
        "/v1/dead-letters",
    ] {
        let document: Value = admin.get(list).await.unwrap().json().unwrap();
        let items = document
            .as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_array)
            .flatten();
        ids.extend(items.filter_map(|item| item["id"].as_str()).map(str::to_owned));
    }
    assert!(ids.len() > 15, "{ids:?}");
    let mut shown = 0;
    let routes = holdfast_services::api::API_ROUTES.iter();
    // A stream does not end by itself, and shows no payloads.
    let routes = routes.filter(|route| route.path != "/v1/stream");
    for route in routes.filter(|route| route.method == "GET" && route.path.starts_with('/')) {
        let (is_for_one, no_id) = (route.path.contains('{'), [String::new()]);
        for id in if is_for_one { &ids[..] } else { &no_id[..] } {
            let path = route
                .path
                .replace("{id}", id)
                .replace("{name}", id)
                .replace("{token}", id);
            let answer = reader.get(&path).await.unwrap();
            shown += usize::from(answer.status == 200);
            assert!(!answer.text().contains(MARK), "{path}: {}", answer.text());
        }
    }
    assert!(shown > 25, "{shown}");
    // What is not marked is shown, also around what is.
    let path = format!("/v1/jobs/{}", system.id_of("first").await);
    let job = good(&reader.get(&path).await.unwrap(), 200, "job");
    let hidden =
        json!({"auth": {"token": "[redacted]"}, "items": [{"pin": "[redacted]", "n": 1}], "note": "first"});
    assert_eq!(job["payload"], hidden);
    assert_eq!(job["then"]["payload"]["note"], "next");
    let job = good(
        &reader
            .get(&format!("/v1/jobs/{}", odd.as_str().unwrap()))
            .await
            .unwrap(),
        200,
        "job",
    );
    assert_eq!(
        job["payload"],
        json!({"auth": "[redacted]", "items": "[redacted]"})
    );
    system.stop().await;
}

#[tokio::test]
async fn no_view_shows_a_marked_field_whether_it_is_encrypted_or_not() {
    no_view_shows_a_marked_field("").await;
    no_view_shows_a_marked_field(K1).await;
}
