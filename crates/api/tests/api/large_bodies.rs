//! A large body is parsed beside other requests, and not before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{ADMIN, TestSettings};

/// Beyond it nothing answers any more.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn others_are_answered_while_a_large_body_is_parsed() {
    // With one HTTP thread, a body that is parsed on it would block all other requests.
    let app = TestSettings::new()
        .with("HOLDFAST__SERVER__HTTP_WORKERS", "1")
        .start()
        .await;
    // Many small values, as many as fit: it is parsed to the end, where it turns out to be no JSON. So nothing is stored.
    let payload = format!("[{}0]", "1.5e3,".repeat(200));
    let job = format!(r#"{{"kind":"debug.echo","payload":{payload}}}"#);
    let jobs = vec![job; 10_000].join(",");
    let body = format!(r#"{{"jobs":[{jobs}],oops}}"#);
    assert!(body.len() < app.settings.server.max_body_bytes);
    let head = format!(
        "POST /v1/jobs/batch HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );

    let (is_sent, is_answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let meanwhile = Arc::new(AtomicU32::new(0));
    let asking = tokio::spawn({
        let (is_sent, is_answered, meanwhile) = (is_sent.clone(), is_answered.clone(), meanwhile.clone());
        let mut client = app.client();
        async move {
            while !is_answered.load(Ordering::SeqCst) {
                let asked_after = is_sent.load(Ordering::SeqCst);
                let live = client.get("/health/live").await.unwrap();
                assert_eq!(live.status, 200);
                if asked_after && !is_answered.load(Ordering::SeqCst) {
                    meanwhile.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    is_sent.store(true, Ordering::SeqCst);
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    is_answered.store(true, Ordering::SeqCst);
    asking.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("malformed-json"),
        "{answer}"
    );
    let meanwhile = meanwhile.load(Ordering::SeqCst);
    assert!(
        meanwhile >= 10,
        "{meanwhile} requests were answered while the body was parsed"
    );
}
