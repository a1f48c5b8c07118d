//! What somebody would try: tokens of one's own making, guessing, flooding, listening for what answers give away.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use holdfast_accounts::Role;
use holdfast_services::api::API_ROUTES;
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{ADMIN, JWT_SECRET, PASSWORD, TestApp, TestSettings, by, problem};

fn now() -> u64 {
    holdfast_core::clock::unix_millis() / 1000
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn hs256(text: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

fn hs512(text: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha512>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// A token with this header and these claims, signed with HS256 and this secret whatever the header says.
fn forged(header: &Value, claims: &Value, secret: &str) -> String {
    let text = format!("{}.{}", part(header), part(claims));
    format!("{text}.{}", hs256(&text, secret))
}

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// As if the token had been made earlier, and expired so many seconds ago.
pub(crate) fn expired_twin_of(token: &str, seconds: u64) -> String {
    let mut claims = claims_of(token);
    claims["exp"] = json!(now() - seconds);
    claims["nbf"] = json!(now() - seconds - 900);
    forged(&json!({"alg": "HS256", "typ": "JWT"}), &claims, JWT_SECRET)
}

#[tokio::test]
async fn no_token_of_anybodys_own_making_lets_in() {
    let app = TestApp::start().await;
    app.user("ada", Role::Viewer).await;
    let good = app.log_in("ada").await;
    let claims = claims_of(&good);
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        forged(&header, &claims, JWT_SECRET)
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        forged(&header, &claims, JWT_SECRET)
    };
    // The forger's tools work: unchanged claims are let in.
    let control = forged(&header, &claims, JWT_SECRET);
    assert_eq!(app.me(&control).await.status, 200);

    let alg = |alg: &str| json!({"alg": alg, "typ": "JWT"});
    let unsigned = format!("{}.{}.", part(&alg("none")), part(&claims));
    let sha512 = format!("{}.{}", part(&alg("HS512")), part(&claims));
    let user = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
    let parts: Vec<&str> = good.split('.').collect();
    let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
    let attempts = [
        ("no algorithm", unsigned),
        (
            "no algorithm, in capitals",
            format!("{}.{}.", part(&alg("NONE")), part(&claims)),
        ),
        ("no algorithm, signed", forged(&alg("none"), &claims, JWT_SECRET)),
        (
            "RSA, our secret as its public key",
            forged(&alg("RS256"), &claims, JWT_SECRET),
        ),
        ("ECDSA", forged(&alg("ES256"), &claims, JWT_SECRET)),
        (
            "HS512, signed right",
            format!("{sha512}.{}", hs512(&sha512, JWT_SECRET)),
        ),
        (
            "HS512, signed with HS256",
            forged(&alg("HS512"), &claims, JWT_SECRET),
        ),
        (
            "an algorithm that is none",
            forged(&alg("HS257"), &claims, JWT_SECRET),
        ),
        (
            "somebody else's secret",
            forged(&header, &claims, "another secret, which is as long as ours"),
        ),
        ("an empty secret", forged(&header, &claims, "")),
        (
            "a bit of the signature",
            format!("{}.{}.{flipped}{}", parts[0], parts[1], &parts[2][1..]),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("half of it", good[..good.len() / 2].to_owned()),
        (
            "a key of its own in the header",
            forged(
                &json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}, "kid": "../../dev/null"}),
                &claims,
                "",
            ),
        ),
        ("expired", with("exp", json!(now() - 10))),
        ("never expires", without("exp")),
        ("expires as a text", with("exp", json!("tomorrow"))),
        ("not yet valid", with("nbf", json!(now() + 600))),
        ("valid from a text on", with("nbf", json!("now"))),
        ("no beginning", without("nbf")),
        ("another issuer", with("iss", json!("somebody"))),
        ("no issuer", without("iss")),
        ("another audience", with("aud", json!("another-api"))),
        ("no audience", without("aud")),
        ("nobody", with("sub", json!(user))),
        ("no user", without("sub")),
        ("a user that is no id", with("sub", json!("ada"))),
        ("a session that is no id", with("sid", json!("../../etc/passwd"))),
        ("a version from before", with("ver", json!(0))),
        ("a version to come", with("ver", json!(2))),
        ("a role that is none", with("role", json!("root"))),
    ];
    for (what, token) in &attempts {
        let response = app.me(token).await;
        problem(&response, 401, "unauthenticated");
        let challenge = response.header("www-authenticate").unwrap();
        assert!(challenge.contains("invalid_token"), "{what}: {challenge}");
        // Its session is live: a refresh is what it is good for yet.
        if *what == "expired" {
            continue;
        }
        let refreshed = app.post(token, "/v1/auth/refresh").await;
        // What has not even the form of a token is no session.
        assert!(
            [400, 401].contains(&refreshed.status),
            "{what}: {}",
            refreshed.text()
        );
    }
    // A role that is claimed is not the role that is had.
    let mut claims = claims.clone();
    claims["role"] = json!("admin");
    let promoted = forged(&header, &claims, JWT_SECRET);
    problem(
        &app.post(&promoted, "/v1/queues/default/pause").await,
        403,
        "missing-scope",
    );
}

#[tokio::test]
async fn guessing_a_password_is_slowed_for_the_account_even_when_it_is_right() {
    let app = TestSettings::new()
        .with("HOLDFAST__AUTH__LOGIN_PER_ACCOUNT_PER_MINUTE", "3")
        .start()
        .await;
    app.user("ada", Role::Viewer).await;
    app.user("bob", Role::Viewer).await;
    for name in ["ada", "nobody"] {
        for _ in 0..3 {
            problem(
                &app.try_login(name, "a wrong password").await,
                401,
                "login-failed",
            );
        }
        for password in ["a wrong password", PASSWORD] {
            let refused = app.try_login(&name.to_uppercase(), password).await;
            problem(&refused, 429, "too-many-requests");
            let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=20).contains(&seconds), "{seconds}");
        }
    }
    app.log_in("bob").await;
}

#[tokio::test]
async fn guessing_is_slowed_for_the_address_whatever_it_says_it_is() {
    let app = TestSettings::new()
        .with("HOLDFAST__AUTH__LOGIN_PER_ADDRESS_PER_MINUTE", "4")
        .start()
        .await;
    app.user("ada", Role::Viewer).await;
    let mut statuses = Vec::new();
    for n in 0..6 {
        let body = json!({"name": format!("user{n}"), "password": PASSWORD});
        let mut client = app
            .client()
            .with_header("x-forwarded-for", format!("203.0.113.{n}"));
        let response = client.post_json("/v1/auth/login", &body).await.unwrap();
        statuses.push(response.status);
        assert!(
            response
                .header("ratelimit-policy")
                .unwrap()
                .starts_with("\"login\";q=4;w=60")
        );
    }
    assert_eq!(statuses, [401, 401, 401, 401, 429, 429]);
    // Whoever is logged in, or has a key, is not held up by it.
    assert_eq!(app.admin().get("/v1/queues").await.unwrap().status, 200);
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_is_one() {
    let app = TestSettings::new()
        .with("HOLDFAST__AUTH__LOGIN_PER_ADDRESS_PER_MINUTE", "1")
        .with("HOLDFAST__SERVER__TRUSTED_PROXIES", "1")
        .start()
        .await;
    let login = async |forwarded: &str| {
        let body = json!({"name": "nobody", "password": PASSWORD});
        let mut client = app.client().with_header("x-forwarded-for", forwarded);
        client.post_json("/v1/auth/login", &body).await.unwrap().status
    };
    assert_eq!(login("203.0.113.1").await, 401);
    assert_eq!(login("203.0.113.1").await, 429);
    assert_eq!(
        login("198.51.100.7, 203.0.113.1").await,
        429,
        "the client wrote the first"
    );
    assert_eq!(login("203.0.113.2").await, 401);
}

#[tokio::test]
async fn an_oversized_head_is_refused_and_the_server_goes_on() {
    let app = TestApp::start().await;
    for head in [
        format!(
            "GET /v1/queues HTTP/1.1\r\nhost: a\r\nx-large: {}\r\n\r\n",
            "x".repeat(1 << 20)
        ),
        format!(
            "GET /v1/queues?{} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            "q".repeat(8_000)
        ),
        format!(
            "GET /v1/queues HTTP/1.1\r\nhost: a\r\n{}\r\n",
            "x: y\r\n".repeat(10_000)
        ),
    ] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        // The server may hang up before all of it is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(std::time::Duration::from_mins(1), reading)
            .await
            .unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(app.admin().get("/v1/queues").await.unwrap().status, 200);
}

#[tokio::test]
async fn no_answer_gives_a_secret_away() {
    let app = TestApp::start().await;
    app.user("ada", Role::Admin).await;
    let token = app.log_in("ada").await;
    let key = app
        .keys
        .create("ci", "admin".parse().unwrap(), &by())
        .await
        .unwrap();
    let key = secrecy::ExposeSecret::expose_secret(&key.secret).to_owned();
    let database = secrecy::ExposeSecret::expose_secret(&app.settings.database.url).to_owned();
    let secrets = [ADMIN, JWT_SECRET, PASSWORD, &key, &token, &database, "$argon2"];
    for bearer in [
        None,
        Some(ADMIN),
        Some(key.as_str()),
        Some(token.as_str()),
        Some("hf_wrong"),
    ] {
        let mut client = match bearer {
            Some(bearer) => app.client().with_bearer(bearer),
            None => app.client(),
        };
        let others = ["/health", "/health/ready", "/docs/", "/nowhere"].map(|path| ("GET", path));
        let routes = API_ROUTES.iter().map(|route| (route.method, route.path));
        for (method, path) in routes
            .chain(others)
            // A stream does not end by itself.
            .filter(|(_, path)| !["/v1/auth/logout", "/v1/stream"].contains(path))
        {
            let path = path
                .replace("{id}", "01JD3V0S7W8Q4M2XKZC5T9R6BH")
                .replace("{name}", "default");
            let response = client.request(method, &path, &[], &[]).await.unwrap();
            let answer = format!("{:?} {}", response.headers, response.text());
            // A refresh gives a new token, and never the old one back.
            for secret in secrets {
                assert!(
                    !answer.contains(secret),
                    "{method} {path} says {secret}: {answer}"
                );
            }
        }
    }
}

#[tokio::test]
async fn pages_come_with_headers_that_keep_them_to_themselves() {
    let app = TestApp::start().await;
    let mut client = app.client();
    let page = client.get("/docs/").await.unwrap();
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let policy = page.header("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe-eval"), "{policy}");
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    for path in ["/docs/", "/openapi.json", "/health", "/v1/queues", "/nowhere"] {
        let response = client.get(path).await.unwrap();
        assert_eq!(
            response.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"), "{path}");
    }
    // Every script of the page is a file of its own: nothing inline that the policy would stop.
    assert!(!page.text().contains("<script>"), "{}", page.text());
}
