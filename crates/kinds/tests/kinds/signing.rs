//! `sign`: signatures of jobs, verified by the algorithm of the specification, and the keys that make them.

use std::str::FromStr as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use holdfast_core::config::{Settings, Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter};
use holdfast_jobs::{JobContext, JobId, Jobs, Registry, Resources};
use holdfast_kinds::signing_keys::{SigningKeyError, SigningKeys};
use holdfast_kinds::{KindsProduct, ResultLimit};
use holdfast_product::Product as _;
use holdfast_testkit::PostgresServer;
use holdfast_testkit::scripted_server::{Reply, Request, Server};
use serde_json::json;
use sha2::Sha256;

use crate::{JOB, RESULT_LIMIT, check, open, run, told};

/// One database with its keys.
struct Fixture {
    settings: Settings,
    database: Database,
    jobs: Jobs,
    keys: SigningKeys,
    _directory: tempfile::TempDir,
    _postgres: Option<PostgresServer>,
}

impl Fixture {
    async fn start(postgres: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = if postgres {
            Some(PostgresServer::start().await.unwrap())
        } else {
            None
        };
        let url = match &server {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("test.db").display()),
        };
        let env = [("DATABASE_URL".to_owned(), url)].into();
        let settings = load_from(Sources { env, file: None }).unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
        let jobs = Jobs::new(&settings, KindsProduct.kinds(Registry::new()), &database, &gate);
        Self {
            keys: SigningKeys::new(&settings, &database, jobs.clone()),
            settings,
            database,
            jobs,
            _directory: directory,
            _postgres: server,
        }
    }

    /// As another process sees the keys.
    fn elsewhere(&self) -> SigningKeys {
        SigningKeys::new(&self.settings, &self.database, self.jobs.clone())
    }

    fn context(&self, attempt: u32) -> JobContext {
        JobContext::detached(
            JobId::from_str(JOB).unwrap(),
            attempt,
            4,
            Resources::default()
                .with(open())
                .with(ResultLimit(RESULT_LIMIT))
                .with(self.elsewhere()),
        )
    }
}

fn by() -> AuditContext {
    AuditContext::new(Actor::system())
}

/// Whether one of the signatures is this secret's, by the specification.
fn is_signed(request: &Request, secret: &str) -> bool {
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    let headers = &request.headers;
    let signed = format!(
        "{}.{}.{}",
        headers["webhook-id"], headers["webhook-timestamp"], request.body
    );
    mac.update(signed.as_bytes());
    let expected = format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()));
    headers["webhook-signature"].split(' ').any(|one| one == expected)
}

async fn sent(f: &Fixture, server: &Server, attempt: u32) -> Request {
    let payload = json!({"url": server.url("/"), "sign": true, "body": {"n": 1}});
    run(f.context(attempt), payload).await.unwrap();
    server.seen().pop().unwrap()
}

#[tokio::test]
async fn a_signed_request_says_which_job_it_is_and_two_keys_sign_during_a_rotation() {
    for postgres in [false, true] {
        let f = Fixture::start(postgres).await;
        let server = Server::start(|_| Reply::new(200, &[], "")).await;
        let payload = json!({"url": server.url("/"), "sign": true});
        let (class, text) = told(run(f.context(1), payload).await);
        assert_eq!(class, "transient", "{text}");
        assert!(text.contains("holdfast signing-keys create"), "{text}");
        assert_eq!(server.connections(), 0, "nothing is sent unsigned");

        let (first, first_secret) = f.keys.create(&by(), None).await.unwrap();
        let one = sent(&f, &server, 1).await;
        assert_eq!(one.headers["webhook-id"], JOB);
        assert_eq!(one.headers["webhook-signature"].split(' ').count(), 1);
        assert!(is_signed(&one, first_secret.expose()));
        assert_eq!(sent(&f, &server, 2).await.headers["webhook-id"], JOB);

        let grace = Duration::from_hours(1);
        let (second, second_secret) = f.keys.rotate(&by(), None, grace).await.unwrap();
        let both = sent(&f, &server, 3).await;
        assert_eq!(both.headers["webhook-signature"].split(' ').count(), 2);
        assert!(is_signed(&both, first_secret.expose()) && is_signed(&both, second_secret.expose()));
        let listed = f.keys.list().await.unwrap();
        assert_eq!(
            listed.iter().map(|key| key.id).collect::<Vec<_>>(),
            [second.id, first.id]
        );
        assert!(listed[0].signs_until.is_none() && listed[1].signs_until.is_some());

        // Without grace the current key ends, and so does the one before it.
        let (third, third_secret) = f.keys.rotate(&by(), None, Duration::ZERO).await.unwrap();
        let alone = sent(&f, &server, 4).await;
        assert_eq!(alone.headers["webhook-signature"].split(' ').count(), 1);
        assert!(is_signed(&alone, third_secret.expose()) && !is_signed(&alone, second_secret.expose()));

        f.keys.delete(&by(), third.id).await.unwrap();
        assert!(matches!(
            f.keys.delete(&by(), third.id).await,
            Err(SigningKeyError::Unknown(_))
        ));
        assert!(f.keys.list().await.unwrap().is_empty());
        let audited = f
            .jobs
            .audit()
            .list(&AuditFilter {
                limit: 10,
                ..AuditFilter::default()
            })
            .await
            .unwrap();
        let actions: Vec<_> = audited.iter().rev().map(|entry| entry.action.as_str()).collect();
        assert_eq!(
            actions,
            [
                "signing_key.create",
                "signing_key.rotate",
                "signing_key.rotate",
                "signing_key.delete"
            ]
        );
        let log = format!("{audited:?} {listed:?} {:?}", f.keys);
        for secret in [first_secret, second_secret, third_secret] {
            assert!(!log.contains(&secret.expose()["whsec_".len()..]));
        }
    }
}

#[tokio::test]
async fn of_concurrent_rotations_one_key_is_current_and_the_first_key_is_made_once() {
    for postgres in [false, true] {
        let f = Fixture::start(postgres).await;
        let creating = (0..8).map(|_| async { f.elsewhere().create(&by(), None).await.is_ok() });
        let made = futures::future::join_all(creating).await;
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        let rotating =
            (0..4).map(|_| async { f.elsewhere().rotate(&by(), None, Duration::from_mins(1)).await });
        let rotated: Vec<_> = futures::future::join_all(rotating).await;
        let ids: Vec<_> = rotated.into_iter().map(|rotated| rotated.unwrap().0.id).collect();
        let listed = f.keys.list().await.unwrap();
        assert_eq!(listed.len(), 2);
        assert!(
            ids.contains(&listed[0].id) && listed[0].signs_until.is_none(),
            "{listed:?}"
        );
        assert!(
            ids.contains(&listed[1].id) && listed[1].signs_until.is_some(),
            "{listed:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_to_another_origin_does_not_carry_the_signature() {
    let f = Fixture::start(false).await;
    f.keys.create(&by(), None).await.unwrap();
    let other = Server::start(|_| Reply::new(200, &[], "")).await;
    let location = format!("location: {}", other.url("/"));
    let first = Server::start(move |_| Reply::new(307, &[&location], "")).await;
    run(
        f.context(1),
        json!({"url": first.url("/"), "sign": true, "body": 1}),
    )
    .await
    .unwrap();
    assert!(first.seen()[0].headers.contains_key("webhook-signature"));
    let seen = &other.seen()[0].headers;
    assert!(
        !seen.contains_key("webhook-signature") && !seen.contains_key("webhook-id"),
        "{seen:?}"
    );
}

#[test]
fn a_signed_payload_cannot_bring_headers_of_a_signature() {
    let payload =
        |sign: bool, name: &str| json!({"url": "http://a.example/", "sign": sign, "headers": {name: "x"}});
    for name in ["webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE"] {
        assert_eq!(check("http.request", &payload(false, name)), Ok(()));
        let fault = check("http.request", &payload(true, name)).unwrap_err();
        assert_eq!(fault.field, format!("headers.{name}"));
    }
}
