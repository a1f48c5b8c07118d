//! Signatures, held against other people's code: the official Standard Webhooks library in Python, and the documented
//! algorithm written with nothing but Python's own `hmac`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use holdfast_testkit::RecordedRequest;
use serde_json::json;

use crate::support::header;

/// Reads `{secret, headers, body}`; ends with 0 if the signature is good, with 1 if it is not.
const LIBRARY: &str = "
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
try:
    Webhook(given['secret']).verify(given['body'], given['headers'])
except WebhookVerificationError as error:
    print(error)
    sys.exit(1)
";

const BY_HAND: &str = "
import base64, hashlib, hmac, json, sys
given = json.load(sys.stdin)
headers = given['headers']
key = base64.b64decode(given['secret'].removeprefix('whsec_'))
signed = '.'.join([headers['webhook-id'], headers['webhook-timestamp'], given['body']])
expected = 'v1,' + base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
sys.exit(0 if expected in headers['webhook-signature'].split(' ') else 1)
";

/// Where `scripts/test` puts the library.
fn packages() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/python")
}

/// Whether both agree that this secret has signed the request.
#[track_caller]
pub(crate) fn is_signed(request: &RecordedRequest, secret: &str) -> bool {
    let headers: serde_json::Map<_, _> = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .into_iter()
        .map(|name| (name.to_owned(), header(request, name).into()))
        .collect();
    let body = String::from_utf8(request.body.clone()).unwrap();
    let given = json!({"secret": secret, "headers": headers, "body": body}).to_string();
    let by_hand = ask(BY_HAND, &given);
    if packages().join("standardwebhooks").is_dir() {
        assert_eq!(
            ask(LIBRARY, &given),
            by_hand,
            "the library and the algorithm disagree"
        );
    } else {
        eprintln!("SKIPPED: the official library is not there; scripts/test installs it");
    }
    by_hand
}

#[track_caller]
fn ask(program: &str, given: &str) -> bool {
    let mut python = Command::new("python3")
        .args(["-c", program])
        .env("PYTHONPATH", packages())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let ended = python.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&ended.stderr);
    assert!(complaint.is_empty(), "{complaint}");
    ended.status.success()
}
