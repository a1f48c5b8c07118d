//! Redirects, over the wire. The table of methods and headers is tested where it is written, in `outbound/hop.rs`.

use serde_json::json;

use crate::{request, told};
use holdfast_testkit::scripted_server::{Reply, Server};

#[tokio::test]
async fn a_redirected_post_becomes_a_get_or_stays_a_post_as_the_status_says() {
    let server = Server::start(|request| match request.target.as_str() {
        "/done" => Reply::new(200, &[], "done"),
        status => Reply::new(status[1..].parse().unwrap(), &["location: /done"], ""),
    })
    .await;
    for (status, method, body) in [
        (301, "GET", ""),
        (302, "GET", ""),
        (303, "GET", ""),
        (307, "POST", "[1]"),
        (308, "POST", "[1]"),
    ] {
        let url = server.url(&format!("/{status}"));
        let result = request(json!({"url": url, "body": [1]})).await.unwrap();
        assert_eq!(result.redirected_to, Some(server.url("/done")));
        let seen = server.seen().pop().unwrap();
        assert_eq!(
            (seen.method.as_str(), seen.body.as_str()),
            (method, body),
            "{status}"
        );
        assert_eq!(seen.headers["holdfast-attempt"], "2");
    }
}

#[tokio::test]
async fn secrets_do_not_follow_to_another_origin() {
    let target = Server::start(|_| Reply::new(200, &[], "")).await;
    let location = format!("location: {}", target.url("/"));
    let server = Server::start(move |_| Reply::new(307, &[&location], "")).await;
    let headers =
        json!({"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "y", "Accept": "text/plain"});
    request(json!({"url": server.url("/"), "headers": headers, "body": "text"}))
        .await
        .unwrap();
    let first = server.seen().remove(0).headers;
    assert_eq!(
        (first["authorization"].as_str(), first["cookie"].as_str()),
        ("Bearer x", "a=b")
    );
    let second = target.seen().remove(0);
    assert_eq!(second.body, "text");
    let names: Vec<&str> = second.headers.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "accept",
            "content-length",
            "content-type",
            "holdfast-attempt",
            "host",
            "idempotency-key",
            "user-agent"
        ]
    );
}

#[tokio::test]
async fn a_loop_ends_after_the_permitted_redirects() {
    let server = Server::start(|_| Reply::new(302, &["location: /again"], "")).await;
    let (class, text) = told(request(json!({"url": server.url("/start")})).await);
    assert_eq!(
        (class, text),
        (
            "permanent",
            format!("{} redirects more than 3 times", server.url("/start"))
        )
    );
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_redirect_to_nowhere_discards_the_job() {
    for (headers, says) in [
        (vec![], "answered 302 Found"),
        (
            vec!["location: ftp://example.org/"],
            "answered 302 Found and redirects to a scheme other than http and https",
        ),
        (
            vec!["location: http://[::1"],
            "answered 302 Found and redirects to an invalid URL",
        ),
    ] {
        let server = Server::start(move |_| Reply::new(302, &headers, "")).await;
        let (class, text) = told(request(json!({"url": server.url("/")})).await);
        assert_eq!(
            (class, text),
            ("permanent", format!("{} {says}", server.url("/")))
        );
    }
}

#[tokio::test]
async fn the_timeout_covers_all_redirects_together() {
    let slow = Server::start(|_| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        Reply::new(302, &["location: /"], "")
    })
    .await;
    let (class, text) = told(request(json!({"url": slow.url("/"), "timeout_seconds": 0.3})).await);
    assert_eq!(
        (class, text),
        (
            "transient",
            format!("{} did not answer within 0.3 s", slow.url("/"))
        )
    );
}
