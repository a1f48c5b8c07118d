//! `holdfast users`, with passwords on stdin, and `holdfast keys rotate`.

use std::process::Stdio;

use holdfast_testkit::http::Client;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use holdfast_testkit::place::{DEADLINE, Dev, Place};

const PASSWORD: &str = "correct horse battery staple";

/// Runs a command that reads a password; its exit code and what it printed.
async fn with_password(place: &Place, args: &[&str], password: &str) -> (Option<i32>, String) {
    let mut child = Command::new(holdfast_testkit::binary("holdfast").unwrap())
        .args(args)
        .env_clear()
        .current_dir(place.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{password}\n").as_bytes()).await.unwrap();
    drop(stdin);
    let ended = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
    (ended.status.code(), text)
}

async fn log_in(dev: &Dev, password: &str) -> (u16, Value) {
    let body = json!({"name": "ada", "password": password});
    let response = Client::new(dev.address)
        .post_json("/v1/auth/login", &body)
        .await
        .unwrap();
    (response.status, response.json().unwrap())
}

#[tokio::test]
async fn a_user_is_added_logs_in_and_is_locked_out() {
    let mut place = Place::new().with_env("HOLDFAST__NOTIFICATIONS__PUBLIC_URL", "https://jobs.example.com");
    let dev = Dev::start(&mut place).await;
    let (code, made) = with_password(
        &place,
        &["users", "add", "Ada", "--role", "operator", "--json"],
        PASSWORD,
    )
    .await;
    assert_eq!(code, Some(0), "{made}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        (&made["name"], &made["role"]),
        (&json!("ada"), &json!("operator"))
    );

    let (status, session) = log_in(&dev, PASSWORD).await;
    assert_eq!(status, 200, "{session}");
    let token = session["access_token"].as_str().unwrap();
    let me = Client::new(dev.address)
        .with_bearer(token)
        .get("/v1/auth/me")
        .await
        .unwrap();
    assert_eq!(me.json::<Value>().unwrap()["name"], "ada");

    let (code, said) = with_password(&place, &["users", "passwd", "ada"], "short").await;
    assert!(code == Some(1) && said.contains("12 to 1024 bytes"), "{said}");
    let (code, said) = with_password(&place, &["users", "passwd", "ada"], "another long password").await;
    assert!(code == Some(0) && !said.contains("another"), "{said}");
    assert_eq!(log_in(&dev, PASSWORD).await.0, 401);
    assert_eq!(log_in(&dev, "another long password").await.0, 200);

    assert_eq!(place.run(&["users", "disable", "ada"]).await.code, Some(0));
    assert_eq!(log_in(&dev, "another long password").await.0, 401);
    let listed = place.json(&["users", "list"]).await;
    assert!(listed["users"][0]["disabled_at"].is_string(), "{listed}");
    assert!(!listed.to_string().contains("argon2"), "{listed}");
    assert_eq!(place.run(&["users", "enable", "ada"]).await.code, Some(0));
    let shown = place.json(&["users", "show", made["id"].as_str().unwrap()]).await;
    assert_eq!(
        (&shown["name"], &shown["disabled_at"]),
        (&json!("ada"), &Value::Null)
    );
    assert_eq!(place.run(&["users", "show", "nobody"]).await.code, Some(1));
    let changed = place.json(&["users", "role", "ada", "viewer"]).await;
    assert_eq!(
        (&changed["role"], &changed["disabled_at"]),
        (&json!("viewer"), &Value::Null)
    );
    assert_eq!(place.run(&["users", "disable", "nobody"]).await.code, Some(1));
    for invite in [
        ["users", "add", "grace@example.com", "--invite"].as_slice(),
        &["users", "invite", "grace@example.com"],
    ] {
        let invited = place.json(invite).await;
        assert_eq!(invited["to"], "grace@example.com", "{invited}");
    }
    assert_eq!(place.run(&["users", "invite", "ada"]).await.code, Some(1));
    let (code, said) = with_password(&place, &["users", "add", "ADA"], PASSWORD).await;
    assert!(code == Some(1) && said.contains("exists already"), "{said}");
    dev.stop().await;
}

#[tokio::test]
async fn a_user_is_exported_and_deleted_once_that_is_agreed_to() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let add = ["users", "add", "ada@example.com", "--json"];
    let (code, made) = with_password(&place, &add, PASSWORD).await;
    assert_eq!(code, Some(0), "{made}");
    let made: Value = serde_json::from_str(&made).unwrap();
    let id = made["id"].as_str().unwrap();
    for whom in ["Ada@Example.com", id] {
        let exported = place.run(&["users", "export", whom]).await;
        assert_eq!(exported.code, Some(0), "{}", exported.text);
        let told: Value = serde_json::from_str(&exported.text).unwrap();
        assert_eq!(told["account"]["name"], "ada@example.com");
        assert!(told["interactions"].as_array().unwrap().is_empty());
        assert!(!exported.text.contains("argon2"), "{}", exported.text);
    }
    let asked = with_password(&place, &["users", "delete", "ada@example.com"], "").await;
    assert!(asked.0 == Some(64) && asked.1.contains("--yes"), "{}", asked.1);
    let deleted = place.json(&["users", "delete", "ada@example.com", "--yes"]).await;
    assert_eq!((&deleted["id"], &deleted["account"]), (&json!(id), &json!(true)));
    assert!(
        place.json(&["users", "list"]).await["users"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    for args in [
        ["users", "export", id].as_slice(),
        &["users", "delete", id, "--yes"],
    ] {
        let unknown = place.run(args).await;
        assert!(
            unknown.code == Some(1) && unknown.text.contains("no user"),
            "{}",
            unknown.text
        );
    }
    let audit = place.json(&["audit"]).await.to_string();
    assert!(
        audit.contains("user.delete") && !audit.contains("ada@example.com"),
        "{audit}"
    );
    dev.stop().await;
}

#[tokio::test]
async fn users_and_keys_are_managed_alike_with_and_without_a_url() {
    const KEY: &str = "a-bootstrap-key-of-a-test";
    let mut place = Place::new().with_env("HOLDFAST_API_KEY", KEY);
    let dev = Dev::start(&mut place).await;
    let url = dev.url();
    for (name, target) in [
        ("team/a+b", &[][..]),
        ("team/50%", &["--url", &url, "--key", KEY]),
    ] {
        let json = async |args: &[&str]| place.json(&[args, target].concat()).await;
        let add = [&["users", "add", name, "--json"], target].concat();
        let (code, made) = with_password(&place, &add, PASSWORD).await;
        assert_eq!(code, Some(0), "{made}");
        let disabled = json(&["users", "disable", name]).await;
        assert!(disabled["disabled_at"].is_string(), "{disabled}");
        let deleted = json(&["users", "delete", name, "--yes"]).await;
        assert_eq!(deleted["account"], true, "{deleted}");
        assert_eq!(json(&["users", "list"]).await, json!({"users": []}));
        let key = json(&["keys", "create", "--name", name]).await;
        let revoked = json(&["keys", "revoke", name, "--yes"]).await;
        assert_eq!((&revoked["id"], &revoked["name"]), (&key["id"], &json!(name)));
    }
    dev.stop().await;
}

#[tokio::test]
async fn a_rotated_key_has_a_new_text_and_keeps_the_old_one_for_its_grace() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let old = place
        .json(&["keys", "create", "--name", "shop", "--scopes", "read"])
        .await;
    let new = place.json(&["keys", "rotate", "shop", "--grace", "3600"]).await;
    assert_eq!(new["id"], old["id"]);
    assert_ne!(new["key"], old["key"]);
    for key in [&old, &new] {
        let mut client = Client::new(dev.address).with_bearer(key["key"].as_str().unwrap());
        assert_eq!(client.get("/v1/queues").await.unwrap().status, 200);
    }
    let listed = place.json(&["keys", "list"]).await;
    assert!(listed["keys"][0]["previous_until"].is_string(), "{listed}");
    assert_eq!(place.run(&["keys", "rotate", "nobody"]).await.code, Some(1));
    let long = place.run(&["keys", "rotate", "shop", "--grace", "2592001"]).await;
    assert!(
        long.code == Some(1) && long.text.contains("30 days"),
        "{}",
        long.text
    );
    dev.stop().await;
}
