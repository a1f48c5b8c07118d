//! `holdfast monitor --headless` through real outages: alert, recovery and the report's timeline agree with the faults.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::clock;
use holdfast_testkit::{Child, Receiver, RedisOptions, RedisServer, free_port};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::support::{DEADLINE, Place};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// At once, so that the times told are those of the samples.
const RULES: &str = "
[[rule]]
name = 'degraded'
metric = 'degraded'
above = 0

[[rule]]
name = 'down'
metric = 'up'
below = 1
severity = 'critical'
";

const HEALTHY: &str = "\"standing\":\"healthy\"";

/// A sample bears the time at which it was begun; it may end so much later.
const LOOK: TimeDelta = TimeDelta::seconds(5);

struct Target {
    place: Place,
    dev: Child,
}

impl Target {
    async fn start(place: Place) -> Self {
        let dev = Self::dev(&place).await;
        Self { place, dev }
    }

    async fn dev(place: &Place) -> Child {
        let dev = place.start("holdfast", &[]);
        dev.wait_for_line("?wait=10", DEADLINE).await.unwrap();
        dev
    }
}

/// Waits for the next notice of a kind about a rule, from this line on.
async fn notice(monitor: &Child, mut from: usize, kind: &str, rule: &str) -> Value {
    let needle = format!("\"rule\":\"{rule}\"");
    loop {
        let line = monitor
            .wait_for_line_after(from, &needle, DEADLINE)
            .await
            .unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        if value["type"] == kind {
            return value;
        }
        from = 1 + monitor.lines().iter().rposition(|seen| *seen == line).unwrap();
    }
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn alerts_recoveries_and_the_report_agree_with_the_outages() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let hooks = Receiver::start().await.unwrap();
    let mailbox = Mailbox::start().await;
    let port = free_port().unwrap();
    let place = Place::new()
        .with("REDIS_URL", redis.url())
        .with("PORT", port.to_string())
        .with("HOLDFAST_MONITOR_WEBHOOK_SECRET", SECRET)
        .with("HOLDFAST_MONITOR_SMTP_URL", format!("smtp://{}", mailbox.address));
    std::fs::write(place.path().join("rules.toml"), RULES).unwrap();
    let mut target = Target::start(place).await;
    let (url, hook) = (format!("http://127.0.0.1:{port}"), hooks.url("/hook"));
    let mut monitor = target.place.start(
        "holdfast",
        &[
            "monitor",
            "--headless",
            "--url",
            &url,
            "--interval",
            "200ms",
            "--rules",
            "rules.toml",
            "--report",
            "out.html",
            "--webhook",
            &hook,
            "--mail-from",
            "monitor@example.org",
            "--mail-to",
            "ops@example.org",
        ],
    );
    monitor.wait_for_line(HEALTHY, DEADLINE).await.unwrap();
    // Whatever it said before is of the start.
    let from = monitor.line_count();

    // Redis goes, and comes back.
    let gone = clock::now();
    redis.kill9().await.unwrap();
    let alert = notice(&monitor, from, "alert", "degraded").await;
    let back = clock::now();
    redis.restart().await.unwrap();
    let recovery = notice(&monitor, from, "recovery", "degraded").await;
    assert!(
        gone - LOOK <= time(&alert["since"]) && time(&alert["since"]) <= back,
        "{alert}"
    );
    assert!(back - LOOK <= time(&recovery["until"]), "{recovery}");
    assert_eq!(
        (&recovery["since"], &recovery["id"]),
        (&alert["since"], &alert["id"])
    );
    assert!(
        alert["reason"].as_str().unwrap().starts_with("redis: "),
        "{alert}"
    );

    // The API itself goes, and comes back.
    let killed = clock::now();
    target.dev.sigkill().await.unwrap();
    let down = notice(&monitor, from, "alert", "down").await;
    let started = clock::now();
    target.dev = Target::dev(&target.place).await;
    let up = notice(&monitor, from, "recovery", "down").await;
    assert!(
        killed - LOOK <= time(&down["since"]) && time(&down["since"]) <= started,
        "{down}"
    );
    assert!(started - LOOK <= time(&up["until"]), "{up}");
    assert_eq!(down["severity"], "critical");
    // A fresh process may be degraded for a moment (connecting); then that episode is over, too.
    monitor
        .wait_for_line_after(monitor.line_count(), HEALTHY, DEADLINE)
        .await
        .unwrap();

    monitor.sigterm().unwrap();
    assert_eq!(monitor.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
    let end = monitor.printed(DEADLINE).await.unwrap().stdout;
    assert!(end.lines().last().unwrap().contains("\"type\":\"end\""), "{end}");

    // The report's timeline has the same times, and nothing else was told to anybody.
    let report = std::fs::read_to_string(target.place.path().join("out.html")).unwrap();
    for (mode, since, until) in [
        ("degraded", &alert["since"], &recovery["until"]),
        ("down", &down["since"], &up["until"]),
    ] {
        let row = timeline_row(&report, mode, time(since));
        assert!(row.contains(&stamp(time(until))), "{mode}: {row}");
    }
    assert_told(&hooks, &mailbox);
}

/// The row of the timeline that begins then.
fn timeline_row(report: &str, mode: &str, from: DateTime<Utc>) -> String {
    let begin = format!("<tr><td><time datetime=\"{}\">", stamp(from));
    let rows = report.split("</tr>").filter(|row| row.contains(&begin));
    let row = rows
        .filter(|row| row.contains(&format!("<td class=\"{mode}\">")))
        .last();
    row.unwrap_or_else(|| panic!("no {mode} from {from} in {report}"))
        .to_owned()
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Two episodes, each told twice: begun and over; the webhook's signature is that of the secret.
fn assert_told(hooks: &Receiver, mailbox: &Mailbox) {
    let requests = hooks.recorded();
    let verifier = Webhook::new(SECRET).unwrap();
    let mut told = Vec::new();
    for request in &requests {
        let header = |name: &str| request.header(name).unwrap().to_owned();
        let timestamp = header("webhook-timestamp").parse().unwrap();
        let signature = verifier
            .sign(&header("webhook-id"), timestamp, &request.body)
            .unwrap();
        assert_eq!(header("webhook-signature"), signature);
        let notice: Value = serde_json::from_slice(&request.body).unwrap();
        told.push(format!(
            "{} {}",
            notice["type"].as_str().unwrap(),
            notice["rule"].as_str().unwrap()
        ));
    }
    for expected in [
        "alert degraded",
        "recovery degraded",
        "alert down",
        "recovery down",
    ] {
        assert!(
            told.iter().any(|line| line == expected),
            "{expected} is not in {told:?}"
        );
    }
    for rule in ["degraded", "down"] {
        let count = |kind: &str| {
            told.iter()
                .filter(|line| **line == format!("{kind} {rule}"))
                .count()
        };
        assert_eq!(count("alert"), count("recovery"), "{told:?}");
    }
    let mails = mailbox.mails.lock().unwrap();
    assert_eq!(mails.len(), told.len(), "{mails:#?}");
    assert!(
        mails
            .iter()
            .any(|mail| mail.contains("[holdfast] critical: down")),
        "{mails:#?}"
    );
}

#[tokio::test]
async fn bad_input_is_told_before_anything_is_watched() {
    let place = Place::new();
    std::fs::write(
        place.path().join("rules.toml"),
        "[[rule]]\nname = 'r'\nmetric = 'dept'\nabove = 1",
    )
    .unwrap();
    for (args, words) in [
        (&["monitor", "--headless"][..], "give --url"),
        (&["monitor", "--url", "http://127.0.0.1:1"], "give --headless"),
        (
            &[
                "monitor",
                "--headless",
                "--url",
                "http://127.0.0.1:1",
                "--rules",
                "rules.toml",
            ],
            "rule \"r\": metric \"dept\"",
        ),
        (
            &[
                "monitor",
                "--headless",
                "--url",
                "http://127.0.0.1:1",
                "--webhook",
                "http://h",
                "--webhook-secret",
                "%",
            ],
            "whsec_",
        ),
    ] {
        let (code, text) = place.run(args).await;
        assert_eq!(code, 64, "{text}");
        assert!(text.to_lowercase().contains(&words.to_lowercase()), "{text}");
    }
}

#[tokio::test]
async fn a_key_that_is_refused_is_named() {
    let place = Place::new();
    let port = free_port().unwrap();
    let place = place
        .with("PORT", port.to_string())
        .with("HOLDFAST_API_KEY", "the-key-of-the-admin-of-tests");
    let target = Target::start(place).await;
    let url = format!("http://127.0.0.1:{port}");
    let watch = [
        "monitor",
        "--headless",
        "--url",
        url.as_str(),
        "--for",
        "1s",
        "--key",
    ];
    let (code, text) = target
        .place
        .run(&[&watch[..], &["another-key-altogether"]].concat())
        .await;
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("the key is not accepted (401)"), "{text}");
    let (code, key) = target
        .place
        .run(&["keys", "create", "--name", "producer", "--scopes", "produce"])
        .await;
    assert_eq!(code, 0, "{key}");
    let key = key
        .split_whitespace()
        .find(|word| word.starts_with("hf_"))
        .unwrap();
    let (code, text) = target.place.run(&[&watch[..], &[key]].concat()).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the key may not read queues (403)"), "{text}");
    drop(target.dev);
}

/// Speaks just enough SMTP to receive.
struct Mailbox {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<String>>>,
}

impl Mailbox {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mails = Arc::<Mutex<Vec<String>>>::default();
        let received = Arc::clone(&mails);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(receive(client, Arc::clone(&received)));
            }
        });
        Self { address, mails }
    }
}

async fn receive(client: TcpStream, mails: Arc<Mutex<Vec<String>>>) {
    let (read, mut write) = client.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 test ESMTP\r\n").await.ok();
    let mut mail: Option<String> = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match (&mut mail, line.as_str()) {
            (Some(text), ".") => {
                mails.lock().unwrap().push(std::mem::take(text));
                mail = None;
                "250 kept"
            }
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
                continue;
            }
            (None, "DATA") => {
                mail = Some(String::new());
                "354 go on"
            }
            (None, "QUIT") => "221 bye",
            (None, _) => "250 ok",
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await.ok();
    }
}
