//! No secret is in a log, whatever level it has: everything runs in one process with `LOG_LEVEL=trace`, does what takes secrets, right and
//! wrong, and fails where it can.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_testkit::http::Client;
use holdfast_testkit::place::DEADLINE;
use holdfast_testkit::{Receiver, RedisOptions, RedisServer, SmtpServer, binary, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

const POLL: Duration = Duration::from_millis(100);

const KEY: &str = "bootstrap-4f0c1d2e3b5a6978";
const JWT_SECRET: &str = "a signature secret 93b1c2d4e5f60718";
const PASSWORD: &str = "correct horse 5d2e7f battery";
const WRONG_PASSWORD: &str = "wrong zebra 1c9a8b stapler";
const SMTP_PASSWORD: &str = "smtp-7a6b5c4d3e2f1908";
const REDIS_PASSWORD: &str = "redis-0f1e2d3c4b5a6978";
const HEADER: &str = "header-51c2d3e4f5a6b788";
const URL_PASSWORD: &str = "urlpass-6e7f8091a2b3c4d5";
const URL_TOKEN: &str = "query-c3d4e5f60718293a";
const BODY: &str = "body-2b3c4d5e6f708192";
const WRONG_KEY: &str = "hf_wrong-9d8c7b6a5f4e3d2c";
const SECRET_FIELD: &str = "declared-e5f60718293a4b5c";

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn post(client: &mut Client, path: &str, body: &Value, status: u16) -> Value {
    let response = client.post_json(path, body).await.unwrap();
    assert_eq!(response.status, status, "{path}: {}", response.text());
    response.json().unwrap_or_default()
}

fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap().to_owned()
}

/// Asks again until there is an answer.
async fn until<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = check().await {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap()
}

/// Enqueues a job, and waits until it has ended or has failed once.
async fn run(client: &mut Client, job: &Value) -> Value {
    let id = text(&post(client, "/v1/jobs", job, 202).await, "id");
    let path = format!("/v1/jobs/{id}");
    until(async || {
        let job: Value = client.get(&path).await.ok()?.json().ok()?;
        let is_tried = job["attempt"].as_u64()? > 0 || job["state"] == "completed";
        (is_tried && job["state"] != "running").then_some(job)
    })
    .await
}

#[tokio::test]
async fn no_log_has_a_secret_at_any_level() {
    let (redis, receiver, smtp) = (
        RedisServer::start(RedisOptions::default().password(REDIS_PASSWORD))
            .await
            .unwrap(),
        Receiver::start().await.unwrap(),
        SmtpServer::start().await.unwrap(),
    );
    let directory = TempDir::new().unwrap();
    let log_path = directory.path().join("log");
    let port = free_port().unwrap();
    let smtp_url = smtp
        .url()
        .replace("smtp://", &format!("smtp://mailer:{SMTP_PASSWORD}@"));
    let encryption_key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let server = Command::new(binary("holdfast").unwrap())
        .env_clear()
        .env("LOG_LEVEL", "trace")
        .env("HOLDFAST__LOG__FORMAT", "json")
        .env("PORT", port.to_string())
        .env("HOLDFAST_API_KEY", KEY)
        .env("JWT_SECRET_KEY", JWT_SECRET)
        .env("REDIS_URL", format!("redis://:{REDIS_PASSWORD}@{}", redis.addr()))
        .env("SMTP_URL", smtp_url)
        .env("HOLDFAST__SMTP__FROM", "no-reply@example.com")
        .env("HOLDFAST_ENCRYPTION_KEYS", format!("first:{encryption_key}"))
        .env("HOLDFAST__NOTIFICATIONS__PUBLIC_URL", "https://jobs.example.com")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(File::create(&log_path).unwrap())
        .stderr(File::create(directory.path().join("errors")).unwrap())
        .spawn()
        .unwrap();
    let server = Server(server);
    let address = ([127, 0, 0, 1], port).into();
    let mut anyone = Client::new(address);
    until(async || (anyone.get("/health/ready").await.ok()?.status == 200).then_some(())).await;
    let mut admin = Client::new(address).with_bearer(KEY);

    // People: right and wrong passwords, one in broken JSON, sessions, an invitation.
    let user = json!({"name": "ada@example.com", "role": "operator", "password": PASSWORD});
    post(&mut admin, "/v1/users", &user, 201).await;
    let login = |password: &str| json!({"name": "ada@example.com", "password": password});
    let session = text(
        &post(&mut anyone, "/v1/auth/login", &login(PASSWORD), 200).await,
        "access_token",
    );
    post(&mut anyone, "/v1/auth/login", &login(WRONG_PASSWORD), 401).await;
    let broken = format!(r#"{{"name": "ada", "password": "{WRONG_PASSWORD}" oops"#);
    let headers = [("content-type", "application/json")];
    let refused = anyone
        .request("POST", "/v1/auth/login", &headers, broken.as_bytes())
        .await
        .unwrap();
    assert_eq!(refused.status, 400, "{}", refused.text());
    let mut ada = Client::new(address).with_bearer(&session);
    let refreshed = post(&mut ada, "/v1/auth/refresh", &json!({}), 200).await;
    let refreshed = text(&refreshed, "access_token");
    let mut ada = Client::new(address).with_bearer(&refreshed);
    assert_eq!(
        ada.request("POST", "/v1/auth/logout", &[], &[])
            .await
            .unwrap()
            .status,
        204
    );
    let stranger = Client::new(address)
        .with_bearer(WRONG_KEY)
        .get("/v1/jobs")
        .await
        .unwrap();
    assert_eq!(stranger.status, 401);
    let guest = json!({"name": "guest@example.com", "role": "viewer"});
    post(&mut admin, "/v1/users", &guest, 201).await;
    admin
        .request("POST", "/v1/users/guest@example.com/invite", &[], &[])
        .await
        .unwrap();

    // Keys, webhooks, signing keys.
    let key = json!({"name": "shop", "scopes": ["produce", "read"]});
    let key = text(&post(&mut admin, "/v1/keys", &key, 201).await, "key");
    let mut shop = Client::new(address).with_bearer(&key);
    assert_eq!(shop.get("/v1/jobs").await.unwrap().status, 200);
    let hook = json!({"url": receiver.hit_url("hook"), "events": ["job.completed", "job.discarded"]});
    let hook = text(&post(&mut admin, "/v1/webhooks", &hook, 201).await, "secret");
    let signing = text(
        &post(&mut admin, "/v1/signing-keys", &json!({}), 201).await,
        "secret",
    );

    // Jobs: a request that is answered, one to a closed port, mail, secret fields of a declared kind.
    let request = |url: String| {
        json!({"kind": "http.request", "max_attempts": 1, "payload": {
            "url": url, "method": "POST", "headers": {"x-api-key": HEADER}, "body": {"card": BODY}}})
    };
    let sent = receiver
        .hit_url("job")
        .replace("http://", &format!("http://user:{URL_PASSWORD}@"));
    let done = run(&mut admin, &request(format!("{sent}?token={URL_TOKEN}"))).await;
    assert_eq!(done["state"], "completed", "{done}");
    let nowhere = format!(
        "http://user:{URL_PASSWORD}@127.0.0.1:{}/?token={URL_TOKEN}",
        free_port().unwrap()
    );
    let failed = run(&mut admin, &request(nowhere)).await;
    assert_ne!(failed["state"], "completed", "{failed}");
    let template = json!({"subject": "s", "text": "{{ text }}"}).to_string();
    let stored = admin
        .request("PUT", "/v1/mail-templates/note", &headers, template.as_bytes())
        .await
        .unwrap();
    assert!(stored.status < 300, "{}", stored.text());
    let mail = json!({"kind": "notify.email", "payload": {
        "to": "ada@example.com", "template": "note", "data": {"text": BODY}}});
    let mailed = run(&mut admin, &mail).await;
    assert_eq!(mailed["state"], "completed", "{mailed}");
    let kind = json!({"queue": "media", "redact": ["token"]}).to_string();
    let declared = admin
        .request("PUT", "/v1/kinds/thumb.make", &headers, kind.as_bytes())
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
    let secret = json!({"kind": "thumb.make", "payload": {"token": SECRET_FIELD}});
    post(&mut admin, "/v1/jobs", &secret, 202).await;
    until(async || (receiver.count("hook") >= 1).then_some(())).await;
    drop(server);

    let log = std::fs::read_to_string(&log_path).unwrap()
        + &std::fs::read_to_string(directory.path().join("errors")).unwrap();
    // A line at trace is one at debug to platforms.
    assert!(log.contains(r#""level":"debug""#), "it logs at trace");
    let auth = smtp.mails().iter().find_map(|mail| mail.auth.clone()).unwrap();
    let secrets = [
        ("the bootstrap key", KEY),
        ("the secret of tokens", JWT_SECRET),
        ("a password", PASSWORD),
        ("a wrong password", WRONG_PASSWORD),
        ("the password of the mail server", SMTP_PASSWORD),
        ("the login at the mail server", &auth),
        ("the password of Redis", REDIS_PASSWORD),
        ("a header", HEADER),
        ("a password in a URL", URL_PASSWORD),
        ("a token in a URL", URL_TOKEN),
        ("a body", BODY),
        ("a wrong key", WRONG_KEY),
        ("a secret field", SECRET_FIELD),
        ("a token", &session),
        ("the next token", &refreshed),
        ("a key", &key),
        ("the secret of a webhook", &hook),
        ("the secret of a signing key", &signing),
        ("a key of encryption", encryption_key),
    ];
    let found: Vec<String> = secrets
        .iter()
        .filter_map(|(what, secret)| {
            let line = log.lines().find(|line| line.contains(secret))?;
            Some(format!("{what}: {}", line.chars().take(600).collect::<String>()))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
