//! `examples/receivers`: each is sent real signed jobs, by a system whose key is rotated, and what somebody else might send.

use std::path::Path;
use std::process::{Command, Stdio};

use holdfast_testkit::{Child, free_port};
use serde_json::{Value, json};

use crate::readme::{DEADLINE, root};
use crate::snippets::Dev;

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

/// Sends what a forger, a replayer and an honest sender would; prints the status and the body of each answer.
const SENDER: &str = "
import base64, hashlib, hmac, json, sys, time, urllib.error, urllib.request
url, secret = sys.argv[1:]
key, other = base64.b64decode(secret.removeprefix('whsec_')), b'another key of the same length..'
def send(id, age=0, keys=(key,), body=b'{}', signed=None, headers=None):
    at = str(int(time.time()) - age)
    text = f'{id}.{at}.'.encode() + (body if signed is None else signed)
    sign = lambda key: 'v1,' + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    given = {'webhook-id': id, 'webhook-timestamp': at, 'webhook-signature': ' '.join(map(sign, keys))}
    given.update(headers or {})
    request = urllib.request.Request(url, data=body, headers=given, method='POST')
    try:
        with urllib.request.urlopen(request) as answer:
            print(answer.status, json.loads(answer.read()))
    except urllib.error.HTTPError as error:
        print(error.status if hasattr(error, 'status') else error.code, None)
send('m1')
send('m1')
send('m2', keys=(other, key))
send('m3', keys=(other,))
send('m3', body=b'{\"a\":1}', signed=b'{}')
send('m3', age=3600)
send('m3', age=-3600)
send('m3', headers={'webhook-timestamp': 'now'})
send('m3', headers={'webhook-signature': ''})
send('m3', headers={'webhook-signature': 'v1,'})
send('m3')
";

const ANSWERS: &str = "200 {'handled': 'm1', 'bytes': 2}
200 {'repeated': 'm1'}
200 {'handled': 'm2', 'bytes': 2}
401 None
401 None
401 None
401 None
401 None
401 None
401 None
200 {'handled': 'm3', 'bytes': 2}
";

struct Receiver {
    port: u16,
    child: Child,
}

impl Receiver {
    async fn start(program: impl AsRef<Path>, arguments: &[&str], secret: &str) -> Self {
        let port = free_port().unwrap();
        let child = Child::program(program.as_ref())
            .args(arguments)
            .env("SECRET", secret)
            .env("PORT", port.to_string())
            .start()
            .unwrap();
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, listens).await.unwrap();
        Self { port, child }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

async fn post(dev: &Dev, path: &str, body: &Value) -> Value {
    dev.ask(path, &[JSON[0], JSON[1], "-d", &body.to_string()]).await
}

/// A job that is signed, and its result; its second link is told what the first one answered.
async fn delivered(dev: &Dev, url: &str) -> (String, Value) {
    let payload = json!({"url": url, "sign": true, "result": "json", "body": {"n": 1}});
    let job = json!({"kind": "http.request", "payload": payload, "max_attempts": 1});
    let accepted = post(dev, "/v1/jobs", &job).await;
    let id = accepted["id"].as_str().unwrap().to_owned();
    let job = dev.ask(&format!("/v1/jobs/{id}?wait=60"), &[]).await;
    assert_eq!(job["state"], "completed", "{job}");
    (id, job["result"].clone())
}

async fn receives(program: impl AsRef<Path>, arguments: &[&str]) {
    let dev = Dev::start().await;
    let made = post(&dev, "/v1/signing-keys", &json!({})).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    let mut receiver = Receiver::start(program, arguments, &secret).await;
    let (id, result) = delivered(&dev, &receiver.url()).await;
    assert_eq!(result, json!({"handled": id, "bytes": 7}));
    // The receiver has the old key, and the system signs with both for a day.
    post(&dev, "/v1/signing-keys/rotate", &json!({})).await;
    let (id, result) = delivered(&dev, &receiver.url()).await;
    assert_eq!(result, json!({"handled": id, "bytes": 7}));
    let sent = Command::new("python3")
        .args(["-c", SENDER, &receiver.url(), &secret])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&sent.stderr);
    assert_eq!(String::from_utf8_lossy(&sent.stdout), ANSWERS, "{complaint}");
    receiver.child.sigkill().await.unwrap();
    let printed = receiver.child.printed(DEADLINE).await.unwrap().text;
    let handled = printed.lines().filter(|line| line.contains("handled ")).count();
    assert_eq!(handled, 5, "{printed}");
    dev.stop().await;
}

fn example(file: &str) -> String {
    root().join("examples/receivers").join(file).display().to_string()
}

#[tokio::test]
async fn the_python_receiver_takes_what_is_signed_once() {
    receives("python3", &[&example("receiver.py")]).await;
}

#[tokio::test]
async fn the_node_receiver_takes_what_is_signed_once() {
    receives("node", &[&example("receiver.mjs")]).await;
}

#[tokio::test]
async fn the_go_receiver_takes_what_is_signed_once() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("receiver");
    // Built here, because `go run` leaves the program behind when it is killed.
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(example("receiver.go"))
        .env("GOFLAGS", "-mod=mod")
        .env("GOCACHE", directory.path().join("cache"))
        .output();
    let built = built.expect("Go, which scripts/test installs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    receives(program, &[]).await;
}

#[test]
fn each_receiver_is_short_enough_to_be_read() {
    for file in ["receiver.py", "receiver.mjs", "receiver.go"] {
        let lines = std::fs::read_to_string(example(file)).unwrap().lines().count();
        assert!(lines <= 60, "{file} has {lines} lines");
    }
}
