//! Attacks on the built `api` and `worker`, with the memory limit that our own deployment files ship.
//!
//! Each test starts processes of its own on an SQLite file, sends one kind of attack, and then demands three things: the attack is
//! refused or fails with the right status, the service still answers, and the peak of its resident memory (`VmHWM`) stays below
//! [`LIMIT_KIB`], the smallest limit of `deploy/` for a service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use holdfast_testkit::http::Client;
use holdfast_testkit::{Child, SmtpServer, eventually, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(100);
const KEY: &str = "the-key-of-these-attacks-and-of-no-other";

/// `limits: {memory: 256Mi}` of deploy/kubernetes; a test below compares it with the files.
const LIMIT_KIB: u64 = 256 << 10;

const MIB: usize = 1 << 20;

/// An `api` and a `worker` on one SQLite file, and the servers that a worker talks to.
struct Stand {
    api: Child,
    worker: Child,
    address: SocketAddr,
    smtp: SmtpServer,
    _directory: TempDir,
}

impl Stand {
    async fn start() -> Self {
        let smtp = SmtpServer::start().await.unwrap();
        let directory = TempDir::new().unwrap();
        let env = [
            ("SMTP_URL", smtp.url()),
            ("HOLDFAST_API_KEY", KEY.to_owned()),
            ("HOLDFAST__SERVER__HOST", "127.0.0.1".to_owned()),
            ("HOLDFAST__SMTP__FROM", "no-reply@example.com".to_owned()),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true".to_owned()),
            ("HOLDFAST__DISCOVERY__MIN_INTERVAL_SECONDS", "1".to_owned()),
        ];
        let start = |name| {
            Child::binary(name)
                .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
                .env("PORT", free_port().unwrap().to_string())
                .current_dir(directory.path())
                .start()
                .unwrap()
        };
        let (api, worker) = (start("api"), start("worker"));
        let address = api.listening_addr(DEADLINE).await.unwrap();
        let stand = Self {
            api,
            worker,
            address,
            smtp,
            _directory: directory,
        };
        eventually("the API to be ready", DEADLINE, POLL, async || {
            let ready = stand.anonymous().get("/health/ready").await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await
        .unwrap();
        stand
    }

    fn anonymous(&self) -> Client {
        Client::new(self.address).with_deadline(DEADLINE)
    }

    fn admin(&self) -> Client {
        self.anonymous().with_bearer(KEY)
    }

    /// The service goes on, within its memory. Prints the peaks, which docs/security-model.md quotes.
    async fn assert_unharmed(&mut self, attack: &str) {
        let job = json!({"kind": "debug.echo", "payload": 1});
        let id = self.enqueue(&job).await;
        assert_eq!(self.outcome(&id).await["state"], "completed", "{attack}");
        let peaks = [("api", peak_kib(&self.api)), ("worker", peak_kib(&self.worker))];
        for (name, peak) in peaks {
            println!("{attack}: {name} VmHWM {} MiB", peak >> 10);
            assert!(peak < LIMIT_KIB, "{attack}: {name} took {} MiB", peak >> 10);
        }
    }

    async fn enqueue(&self, job: &Value) -> String {
        let response = self.admin().post_json("/v1/jobs", job).await.unwrap();
        assert_eq!(response.status, 202, "{}", response.text());
        response.json::<Value>().unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The job once it has ended.
    async fn outcome(&self, id: &str) -> Value {
        let path = format!("/v1/jobs/{id}?wait=10");
        eventually("the job to end", DEADLINE, POLL, async || {
            let job: Value = self.admin().get(&path).await.ok()?.json().ok()?;
            ["completed", "discarded", "cancelled"]
                .iter()
                .any(|state| job["state"] == *state)
                .then_some(job)
        })
        .await
        .unwrap()
    }

    async fn assert_alive(&self) {
        let response = self.anonymous().get("/health/live").await.unwrap();
        assert_eq!(response.status, 200);
    }

    /// Registers a source and reads it; the job that read it.
    async fn read_source(&self, url: &str) -> Value {
        let name = format!("source-{}", url.rsplit(':').next().unwrap().replace('/', "-"));
        let source = json!({"name": name, "kind": "ical", "url": url});
        let mut admin = self.admin();
        let made = admin.post_json("/v1/sources", &source).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json::<Value>().unwrap()["id"].as_str().unwrap().to_owned();
        let asked = admin
            .post_json(&format!("/v1/sources/{id}/discover"), &json!({}))
            .await
            .unwrap();
        assert!(asked.status < 300, "{}", asked.text());
        let job = asked.json::<Value>().unwrap();
        self.outcome(job["id"].as_str().unwrap_or_else(|| panic!("{job}")))
            .await
    }
}

/// The most memory that a process has had, in KiB.
fn peak_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// So many bytes of zeros, compressed.
fn gzip_of_zeros(bytes: usize) -> Vec<u8> {
    let packed = Command::new("sh")
        .args(["-c", &format!("head -c {bytes} /dev/zero | gzip -9")])
        .output()
        .unwrap();
    packed.stdout
}

/// A server that answers every request with these headers and this body. Ends with the test.
async fn serving(headers: &'static str, body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            if stream.read(&mut head).await.unwrap_or_default() == 0 {
                continue;
            }
            let length = body.len();
            let head =
                format!("HTTP/1.1 200 OK\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n");
            // The client may hang up as soon as it has seen enough.
            if stream.write_all(head.as_bytes()).await.is_ok() {
                stream.write_all(&body).await.ok();
            }
        }
    });
    format!("http://{address}/all.ics")
}

fn calendar(events: &str) -> Vec<u8> {
    format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{events}END:VCALENDAR\r\n").into_bytes()
}

fn event(uid: usize, rule: &str) -> String {
    format!(
        "BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:Event {uid}\r\nDTSTART:20300101T000000Z\r\n{rule}\r\nEND:VEVENT\r\n"
    )
}

fn numbers(to: usize) -> String {
    (0..to).map(|one| one.to_string()).collect::<Vec<_>>().join(",")
}

#[test]
fn the_limit_is_that_of_our_own_deployment_files() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for service in ["api", "worker", "beat"] {
        let file = root.join(format!("deploy/kubernetes/{service}.yaml"));
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains("limits: {memory: 256Mi}"), "{service}");
    }
}

#[tokio::test]
async fn logins_of_16_mib_without_a_key_are_refused_unread() {
    let mut stand = Stand::start().await;
    let head = format!(
        "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        16 * MIB
    );
    // Without a length the body is refused as soon as it is too long.
    let chunked = "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n400000\r\n";
    let mut attack = JoinSet::new();
    for number in 0..60 {
        let (address, head) = (
            stand.address,
            if number % 2 == 0 {
                head.clone()
            } else {
                chunked.to_owned()
            },
        );
        attack.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'x'; 65_536];
            for _ in 0..64 {
                if stream.write_all(&piece).await.is_err() {
                    break;
                }
            }
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.ok().map(|_| answer)
        });
    }
    let mut refused = 0;
    while let Some(answer) = attack.join_next().await {
        // A connection that is closed over unread bytes may lose its answer on the way.
        if let Some(answer) = answer.unwrap() {
            let status = String::from_utf8_lossy(&answer[9..]).into_owned();
            assert!(["413", "429", "503"].contains(&status.as_str()), "{status}");
            refused += 1;
        }
    }
    assert!(refused > 0);
    stand.assert_alive().await;
    stand.assert_unharmed("huge logins").await;
}

#[tokio::test]
async fn a_thousand_slow_connections_leave_room_for_others() {
    let mut stand = Stand::start().await;
    let mut held = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(stand.address).await.unwrap();
        let begun: String = match number % 3 {
            // A head that never ends, a body that never comes, and answers that nobody reads.
            0 => "GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned(),
            1 => "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
                .to_owned(),
            _ => "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(40),
        };
        stream.write_all(begun.as_bytes()).await.ok();
        held.push(stream);
        if number % 100 == 99 {
            stand.assert_alive().await;
        }
    }
    stand.assert_alive().await;
    stand.assert_unharmed("1,000 slow connections").await;
    drop(held);
}

#[tokio::test]
async fn wide_and_deep_documents_are_refused_in_bounded_memory() {
    let mut stand = Stand::start().await;
    let wide = Arc::new(format!("[{}0]", "0,".repeat(8 * MIB - 16)));
    let mut map = "{".to_owned();
    for name in 0..1_200_000 {
        write!(map, "\"a{name}\":0,").unwrap();
    }
    map.push_str("\"events\":[]}");
    let deep = Arc::new(format!("{}{}", "[".repeat(400_000), "]".repeat(400_000)));
    let deep_map = Arc::new(format!("{}0{}", "{\"a\":".repeat(400_000), "}".repeat(400_000)));
    let nested_payload = Arc::new(format!("{{\"kind\":\"debug.echo\",\"payload\":{deep}}}"));
    let lines = Arc::new("0\n".repeat(4 * MIB));
    let json = "application/json";
    let attacks = [
        ("/v1/events", json, &wide),
        ("/v1/interactions", json, &wide),
        ("/v1/points", json, &wide),
        ("/v1/jobs/batch", json, &wide),
        ("/v1/batches", json, &wide),
        ("/v1/jobs", json, &wide),
        ("/v1/events", json, &Arc::new(map)),
        ("/v1/events", json, &deep),
        ("/v1/points", json, &deep_map),
        ("/v1/jobs", json, &deep_map),
        ("/v1/jobs", json, &nested_payload),
        ("/v1/points", "application/x-ndjson", &lines),
    ];
    // Two at a time: the budget of bytes refuses more with 503, which would hide what one of them takes.
    for pair in attacks.chunks(2) {
        let mut sent = JoinSet::new();
        for (path, content_type, body) in pair {
            let (path, content_type, body) = (*path, *content_type, Arc::clone(body));
            let mut admin = stand.admin();
            sent.spawn(async move {
                let headers = [("content-type", content_type)];
                (path, admin.request("POST", path, &headers, body.as_bytes()).await)
            });
        }
        for (path, answer) in sent.join_all().await {
            // A refusal before the body was read may be lost with the connection.
            if let Ok(answer) = answer {
                assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
            }
        }
        stand.assert_alive().await;
    }
    // Many at the same time: refused, or answered that there is no room.
    let mut burst = JoinSet::new();
    for _ in 0..12 {
        let (mut admin, wide) = (stand.admin(), Arc::clone(&wide));
        burst.spawn(async move {
            let headers = [("content-type", "application/json")];
            admin
                .request("POST", "/v1/events", &headers, wide.as_bytes())
                .await
        });
    }
    for answer in burst.join_all().await.into_iter().flatten() {
        assert!([413, 503].contains(&answer.status), "{}", answer.status);
    }
    stand.assert_unharmed("wide and deep JSON").await;
}

#[tokio::test]
async fn zipped_bodies_are_not_unpacked() {
    let mut stand = Stand::start().await;
    let bomb = gzip_of_zeros(1 << 30);
    for (path, encoding) in [
        ("/v1/jobs", "gzip"),
        ("/v1/events", "GZIP"),
        ("/v1/auth/login", "gzip"),
        ("/v1/points", "identity, gzip"),
    ] {
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", encoding),
        ];
        let answer = stand.admin().request("POST", path, &headers, &bomb).await;
        if let Ok(answer) = answer {
            assert!([413, 415].contains(&answer.status), "{path}: {}", answer.status);
        }
    }
    // The other way round: a server that answers a source with one.
    let url = serving("content-type: text/calendar\r\ncontent-encoding: gzip\r\n", bomb).await;
    let job = stand.read_source(&url).await;
    println!("a source with a gzip bomb: {} {}", job["state"], job["errors"]);
    let hook = json!({"kind": "http.request", "payload": {"url": url}, "max_attempts": 1});
    let id = stand.enqueue(&hook).await;
    stand.outcome(&id).await;
    stand.assert_unharmed("zipped bodies").await;
}

#[tokio::test]
async fn hostile_recurrence_rules_end_in_bounded_time_and_memory() {
    let mut stand = Stand::start().await;
    let (hours, sixty) = (numbers(24), numbers(60));
    let all_days = "BYDAY=MO,TU,WE,TH,FR,SA,SU";
    let every_second =
        format!("RRULE:FREQ=YEARLY;{all_days};BYHOUR={hours};BYMINUTE={sixty};BYSECOND={sixty}");
    let dates = (0..100_000)
        .map(|day| {
            format!(
                "{:04}{:02}{:02}T000000Z",
                2030 + day / 336,
                day / 28 % 12 + 1,
                day % 28 + 1
            )
        })
        .collect::<Vec<_>>()
        .join(",");
    let calendars = [
        calendar(&(event(1, &every_second) + &event(2, &every_second))),
        calendar(
            &(0..20_000)
                .map(|uid| event(uid, &every_second))
                .collect::<String>(),
        ),
        calendar(
            &(0..20_000)
                .map(|uid| event(uid, "RRULE:FREQ=SECONDLY"))
                .collect::<String>(),
        ),
        calendar(&event(1, "RRULE:FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30")),
        calendar(&event(1, "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=31")),
        calendar(&event(1, "RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=2147483647")),
        calendar(&event(1, &format!("RDATE:{dates}"))),
        calendar(&event(1, &format!("RRULE:FREQ=DAILY\r\nEXDATE:{dates}"))),
        calendar(&"BEGIN:VEVENT\r\n".repeat(200_000)),
        calendar(&format!("X-A:{}\r\n", "x".repeat(12 * MIB))),
    ];
    for (number, calendar) in calendars.into_iter().enumerate() {
        let url = serving("content-type: text/calendar\r\n", calendar).await;
        let job = stand.read_source(&url).await;
        println!("calendar {number}: {}", job["state"]);
        stand.assert_unharmed("hostile calendars").await;
    }
}

#[tokio::test]
async fn template_bombs_fail_in_bounded_memory() {
    let mut stand = Stand::start().await;
    let name = "n".repeat(100_000);
    let items: Vec<u32> = (0..20_000).collect();
    let templates = [
        "{% for item in items %}{{ item }} for {{ name }}\n{% endfor %}",
        "{{ items | join(name) }}",
        "{{ name | replace('n', name) }}",
        "{{ 'a\nb' | indent(10000000000) }}",
        "{{ [name] * 1000000000 }}",
        "{% set all %}{% for item in items %}{{ name }}{% endfor %}{% endset %}{{ all | length }}",
        "{% macro m() %}{% for item in items %}{{ name }}{% endfor %}{% endmacro %}{{ m() | length }}",
        "{% for a in items %}{% for b in items %}{% endfor %}{% endfor %}",
    ];
    let mut jobs = Vec::new();
    for (number, text) in templates.iter().enumerate() {
        let template = json!({"subject": "x", "text": text}).to_string();
        let headers = [("content-type", "application/json")];
        let path = format!("/v1/mail-templates/bomb-{number}");
        let put = stand
            .admin()
            .request("PUT", &path, &headers, template.as_bytes())
            .await
            .unwrap();
        assert!(put.status < 300, "{text}: {}", put.text());
        let job = json!({"kind": "notify.email", "max_attempts": 1, "payload": {
            "to": "ada@example.com", "template": format!("bomb-{number}"), "data": {"items": items, "name": name}}});
        jobs.push((text, stand.enqueue(&job).await));
    }
    for (text, id) in jobs {
        assert_eq!(stand.outcome(&id).await["state"], "discarded", "{text}");
    }
    assert_eq!(stand.smtp.mails().len(), 0);
    stand.assert_unharmed("template bombs").await;
}
