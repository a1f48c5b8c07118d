//! The operator's commands, with the API of their own process and with one at a URL.

use holdfast_testkit::http::Client;
use holdfast_testkit::place::{Dev, Place};
use holdfast_testkit::{PostgresServer, http};
use serde_json::json;

const UNKNOWN: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

/// The names of the folder's files.
fn migrations() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/sqlite");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn migrate_applies_once_and_check_says_what_is_pending() {
    let postgres = PostgresServer::start().await.unwrap();
    for place in [
        Place::new(),
        Place::new().with_env("DATABASE_URL", postgres.url()),
    ] {
        let before = place.run(&["migrate", "--check"]).await;
        assert_eq!(before.code, Some(1));
        assert!(before.text.contains("pending"), "{}", before.text);
        assert!(!place.path().join(".holdfast").exists(), "a check makes nothing");
        assert_eq!(place.json(&["migrate"]).await["applied"], json!(migrations()));
        assert_eq!(place.json(&["migrate"]).await["applied"], json!([]));
        assert_eq!(place.json(&["migrate", "--check"]).await["pending"], json!([]));
    }
}

#[tokio::test]
async fn completions_are_printed_for_each_shell_and_need_no_configuration() {
    let place = Place::new().with_env("DATABASE_URL", "nonsense");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = place.run(&["completions", shell]).await;
        assert_eq!(printed.code, Some(0), "{}", printed.text);
        for word in ["holdfast", "dead-letters", "--revoke-keys"] {
            let name = word.trim_start_matches("--");
            assert!(printed.text.contains(name), "{shell}: {word}");
        }
    }
    assert_eq!(place.run(&["completions", "nushell"]).await.code, Some(2));
}

#[tokio::test]
async fn a_database_that_is_not_there_or_not_migrated_is_an_error_that_says_what_to_run() {
    let place = Place::new();
    let ended = place.run(&["jobs", "list"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .text
            .contains("there is no database at .holdfast/holdfast.db"),
        "{}",
        ended.text
    );
    assert!(!place.path().join(".holdfast").exists());

    let postgres = PostgresServer::start().await.unwrap();
    let ended = Place::new()
        .with_env("DATABASE_URL", postgres.url())
        .run(&["keys", "list"])
        .await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.text.contains(&format!(
            "lacks {}: run `holdfast migrate`",
            migrations().join(", ")
        )),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn jobs_are_controlled_alike_with_and_without_a_url() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let url = dev.url();
    for target in [&[][..], &["--url", &url]] {
        steer(&place, target).await;
    }
    dev.stop().await;
}

async fn steer(place: &Place, target: &[&str]) {
    let jobs = |args: &[&str]| {
        [&["jobs"], target, args]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let run = async |args: &[&str]| {
        let args = jobs(args);
        place
            .run(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    };
    let json = async |args: &[&str]| {
        let args = jobs(args);
        place
            .json(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    };

    let accepted = json(&[
        "enqueue",
        "debug.echo",
        r#"{"a":[1]}"#,
        "--queue",
        "events",
        "--delay",
        "1h",
        "--priority",
        "high",
        "--max-attempts",
        "7",
        "--timeout",
        "90s",
        "--unique-key",
        "u",
    ])
    .await;
    assert_eq!(accepted["state"], "scheduled");
    assert_eq!(accepted["duplicate"], false);
    let id = accepted["id"].as_str().unwrap();
    let again = json(&["enqueue", "debug.echo", r#"{"a":[1]}"#, "--unique-key", "u"]).await;
    assert_eq!(
        (again["duplicate"].as_bool(), again["id"].as_str()),
        (Some(true), Some(id))
    );

    let job = json(&["show", id]).await;
    let expected = json!(["debug.echo", "events", "scheduled", "high", {"a": [1]}, 7, 90.0]);
    let fields = [
        "kind",
        "queue",
        "state",
        "priority",
        "payload",
        "max_attempts",
        "timeout_seconds",
    ];
    assert_eq!(json!(fields.map(|field| &job[field])), expected);

    assert_eq!(
        json(&["retry", id]).await,
        json!({"id": id, "state": "available"})
    );
    let done = json(&["show", id, "--wait"]).await;
    assert_eq!(
        (&done["state"], &done["result"]),
        (&json!("completed"), &json!({"a": [1]}))
    );
    let listed = json(&[
        "list",
        "--queue",
        "events",
        "--state",
        "completed",
        "--limit",
        "1",
    ])
    .await;
    assert_eq!(listed["jobs"][0]["id"], id);

    let refused = run(&["cancel", id]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.text.contains("the job is completed"), "{}", refused.text);

    let waiting = json(&["enqueue", "debug.echo", "--delay", "60"]).await;
    let waiting = waiting["id"].as_str().unwrap();
    assert_eq!(json(&["cancel", waiting]).await["state"], "cancelled");
    assert_eq!(run(&["retry", waiting]).await.code, Some(1));

    for verb in ["show", "cancel", "retry"] {
        let unknown = run(&[verb, UNKNOWN]).await;
        assert_eq!(unknown.code, Some(1));
        assert!(
            unknown.text.contains(&format!("no job {UNKNOWN} is known")),
            "{verb}: {}",
            unknown.text
        );
    }
    let bad = run(&["enqueue", "debug.nope"]).await;
    assert_eq!(bad.code, Some(1));
    assert!(
        bad.text.contains("debug.nope") && bad.text.contains("debug.echo"),
        "{}",
        bad.text
    );
}

#[tokio::test]
async fn a_payload_is_printed_byte_for_byte() {
    const PAYLOAD: &str =
        r#"{"n":12345678901234567890.10,"big":123456789012345678901234567890,"e":1e400,"z":1,"a":1}"#;
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let url = dev.url();
    for target in [&[][..], &["--url", &url]] {
        let jobs = async |args: &[&str]| place.run(&[&["jobs"], target, args].concat()).await;
        let accepted = jobs(&["enqueue", "debug.echo", PAYLOAD, "--delay", "1h", "--json"]).await;
        assert_eq!(accepted.code, Some(0), "{}", accepted.text);
        let listed = jobs(&["list", "--limit", "1", "--json"]).await.stdout;
        let dense: String = listed.split_whitespace().collect();
        assert!(dense.contains(&format!("\"payload\":{PAYLOAD}")), "{dense}");
    }
    dev.stop().await;
}

#[tokio::test]
async fn a_command_without_a_url_is_audited_under_the_login_and_leaves_no_key() {
    let place = Place::new();
    assert_eq!(place.run(&["migrate"]).await.code, Some(0));
    let made = place.run(&["keys", "create", "--name", "shop"]).await;
    assert_eq!(made.code, Some(0), "{}", made.text);
    let listed = place.json(&["keys", "list"]).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "{listed}");
    let log = place.json(&["audit"]).await;
    let actor = log["entries"][0]["actor"].as_str().unwrap();
    assert!(actor.starts_with("cli/"), "{log}");
}

#[tokio::test]
async fn waiting_for_a_job_that_fails_fails() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let failing = r#"{"mode":"permanent","message":"no such thing"}"#;
    let ended = place
        .run(&["jobs", "enqueue", "debug.fail", failing, "--wait", "30"])
        .await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.text.contains("no such thing") && ended.text.contains("was discarded"),
        "{}",
        ended.text
    );
    let ended = place
        .run(&[
            "jobs",
            "enqueue",
            "debug.echo",
            "--delay",
            "1h",
            "--wait",
            "200ms",
        ])
        .await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.text.contains("is still scheduled"), "{}", ended.text);
    dev.stop().await;
}

#[tokio::test]
async fn a_payload_comes_from_the_argument_a_file_or_stdin() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    std::fs::write(place.path().join("payload.json"), "{\"from\": \"file\"}\n").unwrap();
    let job = place
        .json(&["jobs", "enqueue", "debug.echo", "@payload.json", "--wait"])
        .await;
    assert_eq!(job["result"], json!({"from": "file"}));
    let missing = place
        .run(&["jobs", "enqueue", "debug.echo", "@nothing.json"])
        .await;
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.text.contains("nothing.json cannot be read"),
        "{}",
        missing.text
    );
    let malformed = place.run(&["jobs", "enqueue", "debug.echo", "{oops"]).await;
    assert!(
        malformed.text.contains("the payload is not JSON"),
        "{}",
        malformed.text
    );
    dev.stop().await;
}

#[tokio::test]
async fn a_key_is_shown_once_works_with_its_scopes_and_ends_when_revoked() {
    let mut place = Place::new().with_env("HOLDFAST_API_KEY", "bootstrap");
    let dev = Dev::start(&mut place).await;
    let url = dev.url();
    let made = place
        .json(&["keys", "create", "--name", "shop", "--scopes", "read"])
        .await;
    let key = made["key"].as_str().unwrap().to_owned();
    let listed = place.json(&["keys", "list"]).await;
    assert_eq!(listed["keys"][0]["name"], "shop");
    assert!(!listed.to_string().contains(&key));

    let with_key = ["jobs", "--url", &url, "--key", &key];
    assert_eq!(
        place.run(&[&with_key[..], &["list"]].concat()).await.code,
        Some(0)
    );
    let refused = place
        .run(&[&with_key[..], &["enqueue", "debug.echo"]].concat())
        .await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.text.contains("403"), "{}", refused.text);
    assert!(!refused.text.contains(&key));

    let taken = place.run(&["keys", "create", "--name", "shop"]).await;
    assert_eq!(taken.code, Some(1));
    assert_eq!(
        place.run(&["keys", "revoke", "shop", "--yes"]).await.code,
        Some(0)
    );
    assert_eq!(
        place.run(&["keys", "revoke", "nobody", "--yes"]).await.code,
        Some(1)
    );
    assert!(place.json(&["keys", "list"]).await["keys"][0]["revoked_at"].is_string());
    dev.stop().await;
}

#[tokio::test]
async fn kinds_queues_and_workers_are_declared_shown_and_steered() {
    let mut place = Place::new().with_env("HOLDFAST_API_KEY", "bootstrap");
    let dev = Dev::start(&mut place).await;
    let schema = r#"{"required": ["url"]}"#;
    std::fs::write(place.path().join("schema.json"), schema).unwrap();
    let declare = [
        "kinds",
        "declare",
        "thumb.make",
        "--queue",
        "media",
        "--timeout",
        "30",
        "--max-attempts",
        "2",
        "--payload-schema",
        "@schema.json",
        "--redact",
        "/token",
        "--description",
        "Makes a thumbnail.",
    ];
    let declared = place.json(&declare).await;
    assert_eq!(
        (
            &declared["queue"],
            &declared["payload_schema"],
            &declared["redact"]
        ),
        (&json!("media"), &json!({"required": ["url"]}), &json!(["/token"]))
    );
    let shown = place.json(&["kinds", "show", "thumb.make"]).await;
    assert_eq!((&shown, &shown["retry"]["max_attempts"]), (&declared, &json!(2)));
    let text = place.run(&["kinds", "show", "thumb.make"]).await.text;
    assert!(
        text.contains("Makes a thumbnail.") && text.contains(schema),
        "{text}"
    );
    let refused = place
        .run(&[
            "kinds",
            "declare",
            "x.y",
            "--queue",
            "media",
            "--payload-schema",
            "{oops",
        ])
        .await;
    assert!(
        refused.text.contains("the payload schema is not JSON"),
        "{}",
        refused.text
    );
    assert_eq!(
        place.run(&["kinds", "delete", "no.such", "--yes"]).await.code,
        Some(1)
    );

    assert_eq!(
        place.json(&["queues", "declare", "mail"]).await["served_by"],
        "pull"
    );
    assert_eq!(place.json(&["queues", "ring", "mail"]).await["rung"], true);
    assert_eq!(place.run(&["queues", "ring", "no-such"]).await.code, Some(1));
    let key = "eu/customer 17";
    let paused = place
        .json(&["queues", "pause-key", "mail", key, "--for", "1h"])
        .await;
    assert_eq!(
        (&paused["key"], &paused["overridden"]["paused"]),
        (&json!(key), &json!(true))
    );
    let limit = [
        "queues",
        "limit-key",
        "mail",
        "b",
        "--max-running",
        "5",
        "--for",
        "90",
    ];
    assert_eq!(place.json(&limit).await["overridden"]["max_running"], 5);
    let keys = place.run(&["queues", "keys", "mail"]).await.text;
    assert!(
        keys.contains("5 running") && keys.contains(key) && keys.contains("paused"),
        "{keys}"
    );
    let restored = place.json(&["queues", "restore-key", "mail", key]).await;
    assert_eq!(restored["overridden"], json!(null));
    let keys = place.json(&["queues", "keys", "mail", "--after", "a"]).await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{keys}");
    assert_eq!(
        place.json(&["queues", "delete", "mail", "--yes"]).await["deleted"],
        true
    );
    assert_eq!(
        place.run(&["queues", "delete", "media", "--yes"]).await.code,
        Some(1),
        "a kind names it"
    );

    let worker = json!({"name": "media-1", "queues": ["media"], "concurrency": 1,
        "client": {"name": "curl", "version": "8", "language": "sh"}});
    let mut client = Client::new(dev.address).with_bearer("bootstrap");
    let registered = client.post_json("/v1/workers", &worker).await.unwrap();
    let id = registered.json::<serde_json::Value>().unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let listed = place.run(&["workers", "list"]).await.text;
    assert!(
        listed.contains(&id) && listed.contains("curl 8 (sh)") && listed.contains("rust"),
        "{listed}"
    );
    assert_eq!(place.json(&["workers", "drain", &id]).await["draining"], true);
    assert_eq!(place.run(&["workers", "drain", UNKNOWN]).await.code, Some(1));

    let bound = [
        "keys",
        "create",
        "--name",
        "media",
        "--scopes",
        "work",
        "--queues",
        "media,thumbs",
        "--kinds",
        "thumb.make",
    ];
    assert_eq!(place.json(&bound).await["queues"], json!(["media", "thumbs"]));
    let listed = place.run(&["keys", "list"]).await.text;
    assert!(
        listed.contains("work on the queues media, thumbs of the kinds thumb.make"),
        "{listed}"
    );
    assert_eq!(
        place.json(&["kinds", "delete", "thumb.make", "--yes"]).await["deleted"],
        true
    );
    dev.stop().await;
}

#[tokio::test]
async fn a_health_check_tells_a_live_service_from_none_and_needs_no_configuration() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let place = place.with_env("DATABASE_URL", "not a url");
    assert_eq!(place.run(&["healthcheck"]).await.code, Some(0));
    assert_eq!(
        place.run(&["healthcheck", "--path", "/health/ready"]).await.code,
        Some(0)
    );
    assert_eq!(
        place.run(&["healthcheck", "--path", "/nowhere"]).await.code,
        Some(1)
    );
    assert_eq!(http::get(dev.address, "/health/live").await.unwrap().status, 200);
    let port = dev.port;
    dev.stop().await;
    let ended = place.run(&["healthcheck"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.text.contains(&format!("nothing alive on 127.0.0.1:{port}")),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn an_api_that_is_away_is_named() {
    let ended = Place::new()
        .run(&["jobs", "--url", "http://127.0.0.1:9", "list"])
        .await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .text
            .contains("the API at http://127.0.0.1:9 cannot be reached"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn dead_letters_and_queues_are_controlled_alike_with_and_without_a_url() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let url = dev.url();
    for target in [&[][..], &["--url", &url]] {
        operate(&place, target).await;
    }
    let log = place.json(&["audit", "--action", "dead_letters."]).await;
    let entries = log["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 4, "{log}");
    let by = |who: &str| {
        let is_by = |entry: &&serde_json::Value| entry["actor"].as_str().unwrap().starts_with(who);
        entries.iter().filter(is_by).count()
    };
    assert_eq!((by("local"), by("cli/")), (2, 2), "{log}");
    let through_the_api = place
        .json(&["audit", "--url", &url, "--action", "dead_letters."])
        .await;
    assert_eq!(through_the_api, log);
    dev.stop().await;
}

#[tokio::test]
async fn batches_and_limits_are_controlled_alike_with_and_without_a_url() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let url = dev.url();
    let mut client = Client::new(dev.address);
    for target in [&[][..], &["--url", &url]] {
        let json = async |args: &[&str]| place.json(&[&args[..1], target, &args[1..]].concat()).await;
        let run = async |args: &[&str]| place.run(&[&args[..1], target, &args[1..]].concat()).await;
        let later = json!({"kind": "debug.echo", "payload": 1, "delay_seconds": 3600});
        let body = json!({"name": "import", "jobs": [later, later], "callback": {"kind": "debug.echo", "payload": 2}});
        let accepted = client.post_json("/v1/batches", &body).await.unwrap();
        let id = accepted.json::<serde_json::Value>().unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let listed = json(&["batches", "list", "--state", "running"]).await;
        assert_eq!(listed["batches"][0]["id"], json!(id), "{listed}");
        let shown = json(&["batches", "show", &id]).await;
        assert_eq!(
            (&shown["pending"], &shown["progress"]["scheduled"]),
            (&json!(2), &json!(2))
        );
        let text = run(&["batches", "show", &id]).await.text;
        assert!(
            text.contains("0 of 2 final (0 %)") && text.contains("import"),
            "{text}"
        );
        let waited = run(&["batches", "show", &id, "--wait", "50ms"]).await;
        assert_eq!(waited.code, Some(1), "{}", waited.text);
        let members = json(&["jobs", "list", "--batch", &id]).await;
        assert_eq!(members["jobs"].as_array().unwrap().len(), 2);
        let cancelled = json(&["batches", "cancel", &id, "--yes"]).await;
        assert_eq!(
            (&cancelled["affected"], &cancelled["batch"]["state"]),
            (&json!(2), &json!("ended"))
        );
        assert_eq!(run(&["batches", "cancel", &id, "--yes"]).await.code, Some(1));
        let unknown = run(&["batches", "show", "01JD3V0S7W8Q4M2XKZC5T9R6BH"]).await;
        assert!(
            unknown
                .text
                .contains("no batch 01JD3V0S7W8Q4M2XKZC5T9R6BH is known"),
            "{}",
            unknown.text
        );

        let limited = json(&[
            "queues",
            "limit",
            "default",
            "--rate",
            "5/1s",
            "--key-max-running",
            "1",
        ])
        .await;
        assert_eq!(limited["limits"]["key_max_running"], 1);
        let queues = async || {
            // What the database was told behind the API's back, the API's cache does not know.
            let fresh = [("cache-control", "no-cache")];
            let list = Client::new(dev.address)
                .request("GET", "/v1/queues", &fresh, &[])
                .await
                .unwrap();
            let list: serde_json::Value = list.json().unwrap();
            let of_default = |queue: &&serde_json::Value| queue["name"] == "default";
            list["queues"]
                .as_array()
                .unwrap()
                .iter()
                .find(of_default)
                .unwrap()["limits"]
                .clone()
        };
        let limits = queues().await;
        assert_eq!(
            (&limits["rate"], &limits["source"]),
            (&json!("5/1s"), &json!("api"))
        );
        json(&["queues", "limit", "default", "--configured"]).await;
        assert_eq!(queues().await["source"], "configuration");
        for odd in [&["--rate", "0/1s"][..], &["--max-running", "0"], &[]] {
            let refused = run(&[&["queues", "limit", "default"], odd].concat()).await;
            assert_ne!(refused.code, Some(0), "{odd:?}: {}", refused.text);
        }
    }
    dev.stop().await;
}

async fn operate(place: &Place, target: &[&str]) {
    let json = async |args: &[&str]| place.json(&[&args[..1], target, &args[1..]].concat()).await;
    let run = async |args: &[&str]| place.run(&[&args[..1], target, &args[1..]].concat()).await;
    for _ in 0..2 {
        let payload = r#"{"mode":"permanent","message":"no such user"}"#;
        let ended = run(&["jobs", "enqueue", "debug.fail", payload, "--wait"]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.text);
    }
    let letters = json(&["dead-letters", "list", "--error", "NO SUCH"]).await;
    let id = letters["dead_letters"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 2);
    let shown = run(&["dead-letters", "show", &id]).await;
    assert!(
        shown.text.contains("no such user") && shown.text.contains("payload"),
        "{}",
        shown.text
    );
    let preview = json(&["dead-letters", "redrive", "--all", "--dry-run"]).await;
    assert_eq!(preview["matched"], 2);
    let unsaid = run(&["dead-letters", "redrive"]).await;
    assert_eq!(unsaid.code, Some(1), "{}", unsaid.text);

    assert_eq!(json(&["queues", "pause", "default"]).await["paused"], true);
    let redriven = json(&[
        "dead-letters",
        "redrive",
        "--kind",
        "debug.fail",
        "--attempts",
        "1",
    ])
    .await;
    assert_eq!(
        (&redriven["affected"], &redriven["finished"]),
        (&json!(2), &json!(true))
    );
    let queues = json(&["queues", "list"]).await;
    let queue = queues["queues"]
        .as_array()
        .unwrap()
        .iter()
        .find(|queue| queue["name"] == "default");
    assert_eq!(queue.unwrap()["depth"]["available"], 2, "{queues}");
    let mistyped = run(&["jobs", "cancel-many", "--queue", "defalt", "--yes"]).await;
    assert!(
        mistyped.code == Some(1)
            && mistyped
                .text
                .contains("unknown queue \"defalt\"; there are default, "),
        "{}",
        mistyped.text
    );
    let many = json(&["jobs", "cancel-many", "--queue", "default", "--dry-run"]).await;
    assert_eq!(many["matched"], 2);
    let cancelled = json(&[
        "jobs",
        "cancel-many",
        "--queue",
        "default",
        "--kind",
        "nothing",
        "--dry-run",
    ])
    .await;
    assert_eq!(cancelled["matched"], 0);
    assert_eq!(
        json(&["queues", "purge", "default", "--yes"]).await["cancelled"],
        2
    );
    assert_eq!(json(&["queues", "resume", "default"]).await["paused"], false);

    let ended = run(&[
        "jobs",
        "enqueue",
        "debug.fail",
        r#"{"mode":"permanent"}"#,
        "--wait",
    ])
    .await;
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert_eq!(
        json(&["dead-letters", "delete", "--all", "--yes"]).await["affected"],
        1
    );
    let none = run(&["dead-letters", "delete", "--all", "--yes"]).await;
    assert_eq!(none.code, Some(1), "{}", none.text);
}
