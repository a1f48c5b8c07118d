//! Sources of the kind `reddit`.

use super::*;

/// Reddit, as far as it matters here.
fn reddit(
    page: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply + Send + Sync {
    let tokens = Mutex::new(0_usize);
    move |request: &Request| {
        if request.target == "/api/v1/access_token" {
            // an-id:a-secret
            let right = request.headers.get("authorization").map(String::as_str)
                == Some("Basic YW4taWQ6YS1zZWNyZXQ=");
            if !right || request.body != "grant_type=client_credentials" {
                return Reply::new(401, &[], "");
            }
            let mut count = tokens.lock().unwrap();
            *count += 1;
            let body =
                json!({"access_token": format!("token-{count}"), "token_type": "bearer", "expires_in": 3600});
            return Reply::new(200, &["content-type: application/json"], body.to_string());
        }
        page(request, *tokens.lock().unwrap())
    }
}

fn listing(names: &[&str], after: Option<&str>) -> String {
    let created = clock::now().timestamp() as f64;
    let posts: Vec<_> = names
        .iter()
        .map(|name| json!({"kind": "t3", "data": {"name": name, "title": name, "created_utc": created, "permalink": "/r/x"}}))
        .collect();
    json!({"kind": "Listing", "data": {"after": after, "children": posts}}).to_string()
}

#[tokio::test]
async fn reddit_is_read_page_by_page_with_a_token_that_is_renewed() {
    let server = Server::start(reddit(|request, tokens| {
        // The first token is refused at once, as after a change of the secret.
        if request.headers["authorization"] != "Bearer token-2" || tokens < 2 {
            return Reply::new(401, &[], "");
        }
        match request.target.as_str() {
            "/r/vienna/new?limit=100&raw_json=1" => {
                Reply::new(200, &[], listing(&["t3_a", "t3_b"], Some("t3_b")))
            }
            "/r/vienna/new?limit=100&raw_json=1&after=t3_b" => Reply::new(200, &[], listing(&["t3_c"], None)),
            _ => Reply::new(404, &[], ""),
        }
    }))
    .await;
    let f = Fixture::start(None, Some(&server)).await;
    let id = f.source("vienna", SourceKind::Reddit, "").await;
    let found = f.discover(id).await;
    assert_eq!(
        (found.status, found.entries, found.inserted),
        (Status::Ok, 3, 3),
        "{found:?}"
    );
    let asked: Vec<_> = server
        .seen()
        .iter()
        .map(|request| request.method.clone())
        .collect();
    assert_eq!(asked, ["POST", "GET", "POST", "GET", "GET"]);
}

#[tokio::test]
async fn reddits_refusals_are_told_and_its_limits_obeyed() {
    for (answer, error, rest) in [
        (Reply::new(401, &[], ""), "refuses the token", 0),
        (Reply::new(403, &[], ""), "private", 0),
        (Reply::new(404, &[], ""), "no such subreddit", 0),
        (Reply::new(429, &["retry-after: 5000"], ""), "429", 4_990),
        (Reply::new(500, &[], ""), "500", 0),
        (Reply::new(200, &[], "{\"kind\":\"t5\"}"), "is not a listing", 0),
    ] {
        let Reply(bytes, _) = answer;
        let server = Server::start(reddit(move |_, _| Reply(bytes.clone(), Then::KeepAlive))).await;
        let f = Fixture::start(None, Some(&server)).await;
        let id = f.source("vienna", SourceKind::Reddit, "").await;
        let found = f.discover(id).await;
        assert_eq!(found.status, Status::Failed);
        let told = found.error.unwrap();
        assert!(told.contains(error), "{error}: {told}");
        assert!(!told.contains("a-secret") && !told.contains("token-"), "{told}");
        let next = f.shown(id).await.next_run_at.unwrap();
        assert!((next - clock::now()).num_seconds() >= rest, "{error}");
    }
}

#[tokio::test]
async fn nobody_asks_reddit_before_its_rate_limit_is_reset() {
    let server = Server::start(reddit(|_, _| {
        let headers = ["x-ratelimit-remaining: 0.0", "x-ratelimit-reset: 900"];
        Reply::new(200, &headers, listing(&["t3_a"], None))
    }))
    .await;
    let f = Fixture::start(None, Some(&server)).await;
    let id = f.source("vienna", SourceKind::Reddit, "").await;
    assert_eq!(f.discover(id).await.status, Status::Ok);
    let asked = server.seen().len();
    let found = f.discover(id).await;
    assert!(found.error.unwrap().contains("rate limit"));
    assert_eq!(server.seen().len(), asked);
    let next = f.shown(id).await.next_run_at.unwrap();
    assert!((next - clock::now()) > chrono::TimeDelta::from_std(Duration::from_secs(880)).unwrap());
}

#[tokio::test]
async fn without_an_application_reddit_is_not_asked() {
    let f = Fixture::start(None, None).await;
    let id = f.source("vienna", SourceKind::Reddit, "").await;
    assert!(f.discover(id).await.error.unwrap().contains("REDDIT_CLIENT_ID"));
}
