//! The web console, as a browser meets it: pages, rights, forms, and what must never be in a page.

use std::net::SocketAddr;

use holdfast_accounts::Role;
use holdfast_jobs::ledger::Outcome;
use holdfast_testkit::http::{Client, Response};
use serde_json::json;

use crate::support::{ADMIN, PASSWORD, TestApp, TestSettings, body_of, echo};

/// Every page without an id in its address.
const PAGES: &[&str] = &[
    "",
    "/jobs",
    "/jobs/new",
    "/queues",
    "/queues/default",
    "/failures",
    "/batches",
    "/schedules",
    "/schedules/new",
    "/workers",
    "/kinds",
    "/webhooks",
    "/mail",
    "/sources",
    "/redis",
    "/audit",
    "/keys",
    "/users",
];

/// Pages that only admins read.
const ADMIN_PAGES: &[&str] = &["/webhooks", "/mail", "/audit", "/keys", "/users"];

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const SAME_ORIGIN: (&str, &str) = ("sec-fetch-site", "same-origin");

/// Markup that would run, or break out of where it stands.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>";

/// A browser that has logged in.
struct Browser {
    client: Client,
    cookie: String,
}

impl Browser {
    async fn log_in(address: SocketAddr, form: &str) -> Self {
        let mut client = Client::new(address);
        let response = client
            .request("POST", "/console/login", &[FORM, SAME_ORIGIN], form.as_bytes())
            .await
            .unwrap();
        assert_eq!(response.status, 303, "{}", response.text());
        let set = response.header("set-cookie").unwrap();
        assert!(
            set.contains("HttpOnly") && set.contains("SameSite=Strict"),
            "{set}"
        );
        let cookie = set.split(';').next().unwrap().to_owned();
        Self { client, cookie }
    }

    async fn with_key(address: SocketAddr, key: &str) -> Self {
        Self::log_in(address, &format!("key={key}")).await
    }

    async fn get(&mut self, path: &str) -> Response {
        let headers = [("cookie", &*self.cookie)];
        self.client
            .request("GET", &format!("/console{path}"), &headers, &[])
            .await
            .unwrap()
    }

    async fn post(&mut self, path: &str, form: &str) -> Response {
        let headers = [("cookie", &*self.cookie), FORM, SAME_ORIGIN];
        self.client
            .request("POST", &format!("/console{path}"), &headers, form.as_bytes())
            .await
            .unwrap()
    }
}

async fn admin(app: &TestApp) -> Browser {
    Browser::with_key(app.address, ADMIN).await
}

#[tokio::test]
async fn every_page_is_served_under_its_policy_and_holds_no_secret() {
    let app = TestApp::start().await;
    app.enqueue().await;
    let mut browser = admin(&app).await;
    for path in PAGES {
        let page = browser.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        let text = page.text();
        assert!(!text.contains(ADMIN), "{path} holds the key");
        assert!(!text.contains(" style=") && !text.contains(" onclick="), "{path}");
        assert!(
            !text.contains("class=\"notice bad\" role=\"status\"><strong>"),
            "{path}: {text}"
        );
    }
    let root = app.client().get("/").await.unwrap();
    assert_eq!((root.status, root.header("location")), (302, Some("/console")));
    assert_eq!(browser.get("/nothing").await.status, 404);
    assert_eq!(browser.get("/jobs/01JD3V0S7W8Q4M2XKZC5T9R6BH").await.status, 404);
}

#[tokio::test]
async fn a_person_who_is_not_known_is_led_to_the_login_and_back() {
    let app = TestApp::start().await;
    let live = [("x-holdfast-live", "1")];
    let background = app
        .client()
        .request("GET", "/console/queues", &live, &[])
        .await
        .unwrap();
    assert_eq!(background.status, 401, "{}", background.text());
    let page = app.client().get("/console/queues?x=1").await.unwrap();
    assert_eq!(page.status, 302);
    assert_eq!(
        page.header("location"),
        Some("/console/login?next=%2Fconsole%2Fqueues%3Fx%3D1")
    );
    app.user("ada@example.com", Role::Operator).await;
    let wrong = [FORM, SAME_ORIGIN];
    let refused = app
        .client()
        .request(
            "POST",
            "/console/login",
            &wrong,
            b"name=ada%40example.com&password=wrong",
        )
        .await
        .unwrap();
    assert_eq!(refused.status, 401);
    let form = format!("name=ada%40example.com&password={}", PASSWORD.replace(' ', "+"));
    let mut browser = Browser::log_in(app.address, &form).await;
    let page = browser.get("/jobs").await.text();
    assert!(page.contains("ada@example.com"), "{page}");
    // The token is in the cookie alone.
    assert!(!page.contains("eyJ"), "{page}");
    let out = browser.post("/logout", "").await;
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(
        browser.get("/jobs").await.status,
        302,
        "the session has ended at the API"
    );
}

#[tokio::test]
async fn text_of_jobs_never_becomes_markup() {
    let app = TestApp::start().await;
    let hostile = json!({"x": HOSTILE, HOSTILE: [HOSTILE]});
    let mut body = echo(hostile);
    body["unique_key"] = json!(HOSTILE);
    let accepted = app.admin().post_json("/v1/jobs", &body).await.unwrap();
    let id = body_of(&accepted)["id"].as_str().unwrap().to_owned();
    app.finish_all(|fence| Outcome::Discard {
        fence,
        error: holdfast_jobs::ledger::ErrorRecord {
            at: holdfast_core::clock::now(),
            attempt: 1,
            class: HOSTILE.into(),
            message: HOSTILE.to_owned(),
            worker: Some(HOSTILE.to_owned()),
            fingerprint: None,
            started_at: None,
        },
    })
    .await;
    let mut browser = admin(&app).await;
    for path in [
        format!("/jobs/{id}"),
        "/jobs".to_owned(),
        "/failures".to_owned(),
        "/jobs?q=%3Cimg%20src=x%3E".to_owned(),
    ] {
        let text = browser.get(&path).await.text();
        assert!(
            !text.contains("<img") && !text.contains("<script>"),
            "{path}: {text}"
        );
        assert!(text.contains("&lt;img"), "{path}: {text}");
    }
}

#[tokio::test]
async fn integers_of_any_size_are_shown_with_every_digit() {
    let app = TestApp::start().await;
    let big = "1234567890123456789012345678901234567890";
    let body = format!(r#"{{"kind":"debug.echo","payload":{{"big":{big},"edge":9223372036854775808}}}}"#);
    let json = [("content-type", "application/json")];
    let accepted = app
        .admin()
        .request("POST", "/v1/jobs", &json, body.as_bytes())
        .await
        .unwrap();
    let id = body_of(&accepted)["id"].as_str().unwrap().to_owned();
    let text = admin(&app).await.get(&format!("/jobs/{id}")).await.text();
    assert!(
        text.contains(big) && text.contains("9223372036854775808"),
        "{text}"
    );
}

#[tokio::test]
async fn a_viewer_is_offered_nothing_and_every_write_is_refused() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    app.user("vera", Role::Viewer).await;
    let form = format!("name=vera&password={}", PASSWORD.replace(' ', "+"));
    let mut browser = Browser::log_in(app.address, &form).await;
    for path in PAGES.iter().filter(|path| !ADMIN_PAGES.contains(path)) {
        let page = browser.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        let text = page.text();
        let offered = text.matches("method=\"post\"").count();
        let own = text.matches("action=\"/console/theme\"").count()
            + text.matches("action=\"/console/logout\"").count();
        if !path.ends_with("/new") {
            assert_eq!(offered, own, "{path}: {text}");
        }
        assert!(!text.contains("/console/audit\""), "{path}");
    }
    for path in ADMIN_PAGES {
        let page = browser.get(path).await;
        assert!(page.text().contains("admin"), "{}", page.text());
    }
    let page = browser.get(&format!("/jobs/{id}")).await.text();
    assert!(page.contains("[redacted]"), "{page}");
    let writes = [
        format!("/jobs/{id}/cancel"),
        format!("/jobs/{id}/retry"),
        "/queues/default/pause".to_owned(),
        "/queues/default/resume".to_owned(),
        "/queues/default/ring".to_owned(),
        "/queues/default/purge".to_owned(),
        "/queues/default/limits".to_owned(),
        "/queues/default/unlimit".to_owned(),
        "/jobs/selected".to_owned(),
        "/jobs".to_owned(),
        "/failures/redrive".to_owned(),
        "/failures/delete".to_owned(),
        "/schedules".to_owned(),
        "/schedules/x/run".to_owned(),
        "/schedules/x/delete".to_owned(),
        format!("/batches/{id}/cancel"),
        format!("/workers/{id}/drain"),
        "/webhooks".to_owned(),
        format!("/webhooks/{id}/delete"),
        "/mail/suppress".to_owned(),
        "/mail/release".to_owned(),
        format!("/sources/{id}/discover"),
        "/keys".to_owned(),
        format!("/keys/{id}/revoke"),
        "/users".to_owned(),
        format!("/users/{id}/disable"),
        format!("/users/{id}/role"),
    ];
    let form = format!(
        "id={id}&do=cancel&confirm=default&kind=debug.echo&payload=%7B%7D&name=x&cron=0+2+*+*+*&url=http%3A%2F%2Fx&events=*\
         &address=a%40example.com&scope=read&role=admin&step=do&max_running=1"
    );
    for path in &writes {
        let refused = browser.post(path, &form).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
    }
    let job = app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
    assert_eq!(body_of(&job)["state"], "available");
    let audit = app.admin().get("/v1/audit?actor=user/").await.unwrap();
    assert_eq!(body_of(&audit)["entries"], json!([]));
}

#[tokio::test]
async fn a_write_of_another_site_changes_nothing() {
    let app = TestApp::start().await;
    let browser = admin(&app).await;
    let host = app.address.to_string();
    let sent: &[&[(&str, &str)]] = &[
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example.com")],
        &[("origin", "null")],
        &[],
    ];
    for headers in sent {
        let mut headers: Vec<(&str, &str)> = headers.to_vec();
        headers.extend([("cookie", &*browser.cookie), FORM]);
        let refused = app
            .client()
            .request("POST", "/console/queues/default/pause", &headers, b"")
            .await
            .unwrap();
        assert_eq!(refused.status, 403, "{headers:?}");
    }
    // An older browser, which names its origin.
    let origin = format!("http://{host}");
    let headers = [("cookie", &*browser.cookie), FORM, ("origin", &*origin)];
    let taken = app
        .client()
        .request("POST", "/console/queues/default/pause", &headers, b"")
        .await
        .unwrap();
    assert_eq!(taken.status, 303, "{}", taken.text());
}

#[tokio::test]
async fn a_queue_is_paused_resumed_and_purged_by_forms() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    let mut browser = admin(&app).await;
    let back = "back=%2Fconsole%2Fqueues%2Fdefault";
    let paused = browser.post("/queues/default/pause", back).await;
    assert_eq!(
        (paused.status, paused.header("location")),
        (303, Some("/console/queues/default"))
    );
    let flash = paused
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let cookie = format!("{}; {flash}", browser.cookie);
    let mut next = Browser {
        client: app.client(),
        cookie,
    };
    let page = next.get("/queues/default").await;
    assert!(page.text().contains("Queue default is paused"), "{}", page.text());
    assert_eq!(
        browser
            .post("/queues/default/resume", "back=https%3A%2F%2Fevil.example.com")
            .await
            .header("location"),
        Some("/console")
    );
    let refused = browser.post("/queues/default/purge", "confirm=other").await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let purged = browser
        .post("/queues/default/purge", "confirm=default&op=console-1")
        .await;
    assert_eq!(purged.status, 303, "{}", purged.text());
    let job = app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
    assert_eq!(body_of(&job)["state"], "cancelled");
}

#[tokio::test]
async fn dead_letters_are_redriven_after_a_preview() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    app.finish_all(|fence| Outcome::Discard {
        fence,
        error: holdfast_jobs::ledger::ErrorRecord {
            at: holdfast_core::clock::now(),
            attempt: 1,
            class: "permanent".into(),
            message: "it broke".to_owned(),
            worker: None,
            fingerprint: None,
            started_at: None,
        },
    })
    .await;
    let mut browser = admin(&app).await;
    let preview = browser.post("/failures/redrive", "queue=default").await;
    assert_eq!(preview.status, 200, "{}", preview.text());
    assert!(
        preview.text().contains("1 dead letter matches"),
        "{}",
        preview.text()
    );
    let job = app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
    assert_eq!(body_of(&job)["state"], "discarded", "a preview changes nothing");
    let redriven = browser
        .post("/failures/redrive", "queue=default&step=do&op=console-2&rate=50")
        .await;
    assert_eq!(redriven.status, 303, "{}", redriven.text());
    let job = app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
    assert_ne!(body_of(&job)["state"], "discarded");
}

#[tokio::test]
async fn a_read_only_console_refuses_what_its_user_may_do() {
    let app = TestSettings::new()
        .with("HOLDFAST__CONSOLE__READ_ONLY", "true")
        .start()
        .await;
    let mut browser = admin(&app).await;
    let page = browser.get("/queues").await.text();
    assert!(page.contains("read-only") && !page.contains("/pause"), "{page}");
    assert_eq!(browser.post("/queues/default/pause", "").await.status, 403);
}

#[tokio::test]
async fn the_console_is_where_the_settings_say_or_nowhere() {
    let app = TestSettings::new()
        .with("HOLDFAST__CONSOLE__PATH", "/ops/jobs")
        .with("HOLDFAST__CONSOLE__LABEL", "staging")
        .start()
        .await;
    assert_eq!(
        app.client().get("/").await.unwrap().header("location"),
        Some("/ops/jobs")
    );
    let login = app.client().get("/ops/jobs/login").await.unwrap().text();
    assert!(
        login.contains("/ops/jobs/assets/") && login.contains("staging"),
        "{login}"
    );
    assert_eq!(app.client().get("/console").await.unwrap().status, 404);
    let off = TestSettings::new()
        .with("HOLDFAST__CONSOLE__ENABLED", "false")
        .start()
        .await;
    assert_eq!(off.client().get("/").await.unwrap().status, 404);
    assert_eq!(off.client().get("/console").await.unwrap().status, 404);
}

#[tokio::test]
async fn a_machine_without_keys_needs_no_login_and_other_sites_reach_nothing() {
    let app = TestSettings::new().without("HOLDFAST_API_KEY").start().await;
    let host = app.address.to_string();
    let page = app.client().get("/console/queues").await.unwrap();
    assert_eq!(page.status, 200, "{}", page.text());
    let foreign = app
        .client()
        .request(
            "GET",
            "/console/queues",
            &[("origin", "https://evil.example.com")],
            &[],
        )
        .await
        .unwrap();
    assert_eq!(foreign.status, 403, "{}", foreign.text());
    let proxied = app
        .client()
        .request(
            "GET",
            "/console/queues",
            &[("x-forwarded-for", "203.0.113.9")],
            &[],
        )
        .await
        .unwrap();
    assert_eq!(proxied.status, 403);
    let origin = format!("http://{host}");
    let headers = [FORM, SAME_ORIGIN, ("origin", &*origin)];
    let paused = app
        .client()
        .request("POST", "/console/queues/default/pause", &headers, b"")
        .await
        .unwrap();
    assert_eq!(paused.status, 303, "{}", paused.text());
}

#[tokio::test]
async fn jobs_are_exported_as_lines_and_as_a_table() {
    let app = TestApp::start().await;
    for n in 0..3 {
        let body = echo(json!({"n": n, "text": "=1+1, \"quoted\""}));
        app.admin().post_json("/v1/jobs", &body).await.unwrap();
    }
    let mut browser = admin(&app).await;
    let lines = browser.get("/jobs/export?q=state%3Aavailable&as=ndjson").await;
    assert_eq!(lines.text().lines().count(), 3, "{}", lines.text());
    assert!(
        lines
            .header("content-disposition")
            .unwrap()
            .contains("jobs.ndjson")
    );
    let table = browser.get("/jobs/export?as=csv").await.text();
    assert!(table.starts_with("id,kind,queue,state"), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
}
