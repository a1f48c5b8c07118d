//! A source is registered, and what it says reaches a list of recommendations, a webhook and a mailbox: over HTTP, through
//! real `api`, `worker` and `beat` processes, while Redis is stopped and started in between. Each piece of news is one
//! webhook and one mail, however often the source is read and whatever Redis does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_testkit::http::{Client, Response};
use holdfast_testkit::{
    Child, PostgresOptions, PostgresServer, Receiver, RedisOptions, RedisServer, SmtpServer, eventually,
    free_port,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);
const KEY: &str = "the-key-of-this-test-and-of-no-other";
const USER: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

/// A server of one calendar with one event of this title, which counts how often it was read. Ends with the test.
async fn calendar(title: &Arc<Mutex<String>>, read: &Arc<Mutex<usize>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (title, read) = (Arc::clone(title), Arc::clone(read));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            // A request fits into one segment here; a client that breaks off asks again.
            if stream.read(&mut head).await.unwrap_or_default() == 0 {
                continue;
            }
            let body = format!(
                "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:a\r\nSUMMARY:{}\r\nDTSTART:20900601T180000Z\r\nEND:VEVENT\r\n\
                 END:VCALENDAR\r\n",
                title.lock().unwrap()
            );
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/calendar\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            );
            let answer = format!("{head}{body}");
            if stream.write_all(answer.as_bytes()).await.is_ok() {
                *read.lock().unwrap() += 1;
            }
        }
    });
    format!("http://{address}/all.ics")
}

/// The servers around, and the processes.
struct Stand {
    postgres: PostgresServer,
    redis: RedisServer,
    smtp: SmtpServer,
    receiver: Receiver,
    title: Arc<Mutex<String>>,
    read: Arc<Mutex<usize>>,
    api: Client,
    children: Vec<Child>,
    _directory: TempDir,
}

impl Stand {
    async fn start() -> Self {
        let postgres = PostgresServer::start_with(PostgresOptions::fast()).await.unwrap();
        let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
        let smtp = SmtpServer::start().await.unwrap();
        let directory = TempDir::new().unwrap();
        let env = [
            ("DATABASE_URL", postgres.url()),
            ("REDIS_URL", redis.url()),
            ("SMTP_URL", smtp.url()),
            ("HOLDFAST_API_KEY", KEY.to_owned()),
            ("HOLDFAST__SERVER__HOST", "127.0.0.1".to_owned()),
            ("HOLDFAST__SMTP__FROM", "no-reply@example.com".to_owned()),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true".to_owned()),
            ("HOLDFAST__DISCOVERY__MIN_INTERVAL_SECONDS", "1".to_owned()),
        ];
        let start = |name| {
            let child = Child::binary(name).envs(env.iter().map(|(name, value)| (*name, value.as_str())));
            let port = free_port().unwrap().to_string();
            child
                .env("PORT", port)
                .current_dir(directory.path())
                .start()
                .unwrap()
        };
        let children: Vec<Child> = ["api", "worker", "beat"].map(start).into();
        let address = children[0].listening_addr(DEADLINE).await.unwrap();
        let mut stand = Self {
            receiver: Receiver::start().await.unwrap(),
            api: Client::new(address).with_bearer(KEY),
            title: Arc::new(Mutex::new("Jazz".to_owned())),
            read: Arc::default(),
            children,
            postgres,
            redis,
            smtp,
            _directory: directory,
        };
        stand.until_ready().await;
        stand
    }

    /// The schema is there.
    async fn until_ready(&mut self) {
        for _ in 0..1_200 {
            if self.api.get("/health/ready").await.unwrap().status == 200 {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("the API is never ready");
    }

    async fn post(&mut self, path: &str, body: Value, status: u16) -> Value {
        let response = self.api.post_json(path, &body).await.unwrap();
        told(&response, status)
    }

    async fn prefer(&mut self, wanted: Value) {
        let json = [("content-type", "application/json")];
        let path = format!("/v1/users/{USER}/preferences");
        let body = wanted.to_string();
        let response = self
            .api
            .request("PUT", &path, &json, body.as_bytes())
            .await
            .unwrap();
        told(&response, 200);
    }

    fn retitle(&self, title: &str) {
        title.clone_into(&mut self.title.lock().unwrap());
    }

    /// Waits until so much of each has come; the newest of both.
    async fn heard(&self, webhooks: u64, mails: usize) -> (Value, String) {
        // A request counts a moment before it is kept.
        let told = async || (self.receiver.recorded().len() as u64 >= webhooks).then_some(());
        eventually("the webhook to be told", DEADLINE, POLL, told)
            .await
            .unwrap();
        let taken = async || (self.smtp.mails().len() >= mails).then_some(());
        eventually("the mail to be taken", DEADLINE, POLL, taken)
            .await
            .unwrap();
        let body = self.receiver.recorded().pop().unwrap().body;
        (
            serde_json::from_slice(&body).unwrap(),
            self.smtp.mails().pop().unwrap().data,
        )
    }

    /// The source is read three times more, from the beginning to the end; and the counts are still these.
    async fn nothing_more_than(&self, webhooks: u64, mails: usize) {
        let before = *self.read.lock().unwrap();
        let read = async || (*self.read.lock().unwrap() >= before + 3).then_some(());
        eventually("the source to be read on", DEADLINE, POLL, read)
            .await
            .unwrap();
        let idle = "select count(*) from holdfast_jobs where kind like 'notify.%' and state in ('available', 'running')";
        let done = async || {
            let waiting = self.postgres.psql(idle).await.unwrap();
            (waiting.trim() == "0").then_some(())
        };
        eventually("every delivery to be done", DEADLINE, POLL, done)
            .await
            .unwrap();
        assert_eq!(
            (self.receiver.requests(), self.smtp.mails().len()),
            (webhooks, mails)
        );
    }

    /// Waits until the user's list comes from the cache, and holds the event under this title.
    async fn listed(&mut self, title: &str) {
        let path = format!("/v1/users/{USER}/recommendations");
        for _ in 0..1_200 {
            let made = self
                .post(
                    "/v1/jobs",
                    json!({"kind": "ml.recommend", "payload": {"user": USER}}),
                    202,
                )
                .await;
            let job = format!("/v1/jobs/{}?wait=30", made["id"].as_str().unwrap());
            let job = told(&self.api.get(&job).await.unwrap(), 200);
            assert_eq!(job["state"], "completed", "{job}");
            let response = self.api.get(&path).await.unwrap();
            let list = told(&response, 200);
            let is_cached = response.header("x-cache") == Some("hit");
            if is_cached && list["recommendations"][0]["event"]["title"] == title {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("no list with {title} is ever cached");
    }
}

fn told(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{}", response.text());
    response.json().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_piece_of_news_is_one_webhook_and_one_mail_while_redis_comes_and_goes() {
    let mut stand = Stand::start().await;
    let uuid = "019347b0-64fc-45c9-4176-7f61749c1971";
    let user = format!(
        "insert into holdfast_users (id, name, password_hash, role)
         values (('{uuid}')::uuid, 'anna@example.com', 'x', 'viewer')"
    );
    stand.postgres.psql(&user).await.unwrap();
    stand.prefer(json!({"time_zone": "Europe/Vienna"})).await;
    let hook = json!({"url": stand.receiver.url("/hook"), "events": ["event.*"]});
    stand.post("/v1/webhooks", hook, 201).await;
    let wish = json!({"user": USER, "email": "anna@example.com", "text": "jazz"});
    stand.post("/v1/subscriptions", wish, 201).await;
    let url = calendar(&stand.title, &stand.read).await;
    let city = json!({"name": "city", "kind": "ical", "url": url, "interval_seconds": 1});
    let city = stand.post("/v1/sources", city, 201).await;

    let (body, mail) = stand.heard(1, 1).await;
    assert_eq!(
        (&body["type"], &body["data"]["event"]["title"]),
        (&json!("event.discovered"), &json!("Jazz"))
    );
    assert_eq!(body["data"]["subscriptions"][0]["user"], USER);
    assert!(
        mail.contains("Subject: Jazz\r\n") && mail.contains("To: anna@example.com\r\n"),
        "{mail}"
    );
    stand.listed("Jazz").await;
    stand.nothing_more_than(1, 1).await;

    stand.redis.kill9().await.unwrap();
    stand.retitle("Jazz outdoors");
    let (body, mail) = stand.heard(2, 2).await;
    assert_eq!(
        (&body["type"], &body["data"]["event"]["title"]),
        (&json!("event.changed"), &json!("Jazz outdoors"))
    );
    assert!(mail.contains("Jazz outdoors (changed)"), "{mail}");
    stand.nothing_more_than(2, 2).await;

    stand.redis.restart().await.unwrap();
    stand.retitle("Jazz indoors");
    stand.heard(3, 3).await;
    stand.listed("Jazz indoors").await;
    stand.nothing_more_than(3, 3).await;

    // Put aside, and sent by the beat once it is due.
    stand.prefer(json!({"email": "digest"})).await;
    stand.retitle("Jazz at noon");
    stand.heard(4, 3).await;
    stand.nothing_more_than(4, 3).await;
    let due = "update holdfast_digest_items set due_at = now()";
    stand.postgres.psql(due).await.unwrap();
    let (_, mail) = stand.heard(4, 4).await;
    assert!(
        mail.contains("Subject: 1 message for you\r\n") && mail.contains("* Jazz at noon"),
        "{mail}"
    );
    stand.nothing_more_than(4, 4).await;

    // Whoever goes is told no more; the endpoint hears on, and of nobody.
    let gone = stand.api.delete(&format!("/v1/users/{USER}")).await.unwrap();
    assert_eq!(told(&gone, 200)["subscriptions"], 1);
    stand.retitle("Jazz at midnight");
    let (body, _) = stand.heard(5, 4).await;
    assert_eq!(body["data"]["subscriptions"], json!([]));
    stand.nothing_more_than(5, 4).await;

    let ids: HashSet<String> = stand
        .receiver
        .recorded()
        .iter()
        .map(|request| request.header("webhook-id").unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 5, "each message is another one");
    let path = format!("/v1/sources/{}", city["id"].as_str().unwrap());
    let shown = told(&stand.api.get(&path).await.unwrap(), 200);
    assert_eq!(shown["consecutive_failures"], 0, "{shown}");
    for mut child in stand.children.drain(..) {
        child.sigterm().unwrap();
        assert_eq!(child.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
    }
}
