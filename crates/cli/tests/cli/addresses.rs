//! What commands say of an address where no Holdfast answers: each a clear message and exit code 1, none a hang.

use futures::future::join_all;
use holdfast_testkit::free_port;

use holdfast_testkit::place::{CannedServer, CommandOutput, Place};

const HTML: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 28\r\nconnection: close\r\n\r\n<!doctype html><html></html>";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"jobs\": ";
const BROKEN_OFF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 90\r\nconnection: close\r\n\r\n{\"jobs\": ";
const NO_JSON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const LOGIN: &str =
    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const OTHER: &str =
    "HTTP/1.1 401 Unauthorized\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"error\":\"who\"}";
const MOVED: &str =
    "HTTP/1.1 308 Moved\r\nlocation: https://jobs.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const NO_HTTP: &str = "SSH-2.0-OpenSSH_9.2\r\n";

async fn list(url: &str) -> CommandOutput {
    Place::new()
        .run(&["jobs", "--url", url, "--key", "hunter2-hunter2", "list"])
        .await
}

async fn assert_says(url: String, words: &str) {
    let ended = list(&url).await;
    let text = &ended.text;
    assert_eq!(ended.code, Some(1), "{url}: {text}");
    assert!(text.contains(words), "{url}: no {words:?} in {text}");
    assert!(!text.contains("panicked") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn whatever_answers_there_the_message_says_what_it_is() {
    let served: Vec<(CannedServer, &str)> = [
        (HTML, "answered 200 OK with a web page"),
        (HALF, "answered 200 OK with half a JSON document"),
        (BROKEN_OFF, "cannot be reached"),
        (NO_JSON, "answered 200 OK with something that is not JSON"),
        (EMPTY, "answered 200 OK with nothing"),
        (LOGIN, "answered 401 Unauthorized with nothing"),
        (
            OTHER,
            "answered 401 Unauthorized with a JSON document of another kind",
        ),
        (
            MOVED,
            "redirects to https://jobs.example/: give --url that address",
        ),
        (NO_HTTP, "cannot be reached"),
    ]
    .map(|(answer, words)| (CannedServer::start(Some(answer)), words))
    .into();
    join_all(
        served
            .iter()
            .map(|(server, words)| assert_says(server.url(), words)),
    )
    .await;
}

#[tokio::test]
async fn an_address_that_refuses_tls_does_not_exist_or_never_answers_is_named() {
    let plain = CannedServer::start(Some(HTML));
    let silent = CannedServer::start(None);
    let cases = [
        (plain.url().replace("http:", "https:"), "cannot be reached"),
        (
            format!("http://127.0.0.1:{}", free_port().unwrap()),
            "cannot be reached",
        ),
        ("http://no-such-host.invalid".to_owned(), "cannot be reached"),
        (silent.url(), "accepts the connection and gives no answer in time"),
    ];
    join_all(cases.map(|(url, words)| assert_says(url, words))).await;

    for (url, words) in [
        ("redis://127.0.0.1:6379", "expected http://host:port"),
        ("nonsense", "relative URL without a base"),
        ("http://user:hunter2@host", "not in the address"),
    ] {
        let ended = Place::new().run(&["jobs", "--url", url, "list"]).await;
        assert_eq!(ended.code, Some(2), "{url}: {}", ended.text);
        assert!(ended.text.contains(words), "{url}: {}", ended.text);
    }
}
