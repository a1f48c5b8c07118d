//! One application in the test's own process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_accounts::{ApiKeys, Role as UserRole, Scopes, User, Users};
use holdfast_cache::Cache;
use holdfast_core::config::{Settings, Sources};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{self, Database};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::ledger::{Fence, Outcome, WorkerReport};
use holdfast_jobs::{JobId, Jobs, WorkerId};
use holdfast_services::api::{Application, Services, StartError};
use holdfast_testkit::http::{Client, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Whoever makes and ends the keys and users of the tests.
pub(crate) fn by() -> AuditContext {
    AuditContext::new(Actor::cli())
}

/// The bootstrap key of the tests.
pub(crate) const ADMIN: &str = "bootstrap-key-of-the-tests";

/// What signs the session tokens of the tests.
pub(crate) const JWT_SECRET: &str = "a secret of the tests, and long enough";

/// The password of every user of the tests.
pub(crate) const PASSWORD: &str = "nobody would guess this one";

/// How a test wants its application.
pub(crate) struct TestSettings {
    env: BTreeMap<String, String>,
    directory: TempDir,
    migrate: bool,
    adjust: fn(&mut Settings),
}

impl TestSettings {
    /// On SQLite in a directory of its own, with the bootstrap key.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("api.db");
        let env = [
            ("DATABASE_URL", format!("sqlite://{}", file.display())),
            ("PORT", "0".to_owned()),
            ("HOLDFAST_API_KEY", ADMIN.to_owned()),
            ("JWT_SECRET_KEY", JWT_SECRET.to_owned()),
            ("HOLDFAST__SERVER__HOST", "127.0.0.1".to_owned()),
            ("HOLDFAST__SERVER__GRACE_SECONDS", "5".to_owned()),
            // Tests ask for what they have just done; those of the cache turn it on.
            ("HOLDFAST__CACHE__LISTS_TTL_SECONDS", "0".to_owned()),
        ];
        let env = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Self {
            env,
            directory,
            migrate: true,
            adjust: |_| {},
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Over this Redis, which is never given up as slow: for tests that count what goes over it on a busy machine.
    pub(crate) fn over(self, redis_url: &str) -> Self {
        self.with("REDIS_URL", redis_url)
            .with("HOLDFAST__REDIS__COMMAND_TIMEOUT_MS", "5000")
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// The database is not up yet.
    pub(crate) fn unmigrated(self) -> Self {
        Self {
            migrate: false,
            ..self
        }
    }

    /// With values that no configuration may have: times that a test can wait for.
    pub(crate) fn adjusted(self, adjust: fn(&mut Settings)) -> Self {
        Self { adjust, ..self }
    }

    pub(crate) fn load(&self) -> Settings {
        let sources = Sources {
            env: self.env.clone(),
            file: None,
        };
        let mut settings = holdfast_services::load_from(sources).unwrap();
        (self.adjust)(&mut settings);
        settings
    }

    pub(crate) async fn start(self) -> TestApp {
        self.try_start().await.unwrap()
    }

    pub(crate) async fn try_start(self) -> Result<TestApp, StartError> {
        let settings = self.load();
        if self.migrate {
            sql::migrate(&settings.database).await.unwrap();
        }
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        let cache_gate =
            RedisGate::open(Role::Cache, settings.redis.cache.as_ref(), &settings.redis).unwrap();
        cache_gate.wait_ready(Duration::from_secs(10)).await;
        let cache = Cache::open(cache_gate, &settings.cache);
        let jobs = Jobs::new(
            &settings,
            holdfast_services::registry_for(&settings),
            &database,
            &gate,
        );
        let services = Services {
            jobs: jobs.clone(),
            database: database.clone(),
            gate: gate.clone(),
            cache: cache.clone(),
        };
        let application = Application::build(&settings, services).await?;
        let address = application.address();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(application.run_until_stopped(shutdown.clone()));
        let keys = ApiKeys::new(database.clone(), None);
        let users = Users::new(database.clone(), 2);
        Ok(TestApp {
            address,
            jobs,
            database,
            gate,
            keys,
            users,
            settings,
            shutdown,
            running,
            _directory: Arc::new(self.directory),
        })
    }
}

pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    pub(crate) jobs: Jobs,
    pub(crate) database: Database,
    pub(crate) gate: RedisGate,
    /// Over the same table, as `holdfast keys` holds it.
    pub(crate) keys: ApiKeys,
    /// Over the same table, as `holdfast users` holds it.
    pub(crate) users: Users,
    pub(crate) settings: Settings,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: JoinHandle<std::io::Result<()>>,
    _directory: Arc<TempDir>,
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        TestSettings::new().start().await
    }

    /// With the bootstrap key.
    pub(crate) fn admin(&self) -> Client {
        self.client().with_bearer(ADMIN)
    }

    /// Without any key.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// With a fresh key of these scopes.
    pub(crate) async fn with_scopes(&self, name: &str, scopes: &str) -> Client {
        let scopes: Scopes = scopes.parse().unwrap();
        let key = self.keys.create(name, scopes, &by()).await.unwrap();
        self.client().with_bearer(key.secret.expose_secret())
    }

    /// A user with this role and the password of them all.
    pub(crate) async fn user(&self, name: &str, role: UserRole) -> User {
        let password = SecretString::from(PASSWORD);
        self.users.create(name, role, &password, &by()).await.unwrap()
    }

    pub(crate) async fn try_login(&self, name: &str, password: &str) -> Response {
        let body = json!({"name": name, "password": password});
        self.client().post_json("/v1/auth/login", &body).await.unwrap()
    }

    /// The token of a new session.
    pub(crate) async fn log_in(&self, name: &str) -> String {
        let response = self.try_login(name, PASSWORD).await;
        assert_eq!(response.status, 200, "{}", response.text());
        body_of(&response)["access_token"].as_str().unwrap().to_owned()
    }

    /// What a token is answered at `/v1/auth/me`.
    pub(crate) async fn me(&self, token: &str) -> Response {
        self.client().with_bearer(token).get("/v1/auth/me").await.unwrap()
    }

    /// What a POST without a body is answered.
    pub(crate) async fn post(&self, token: &str, path: &str) -> Response {
        let mut client = self.client().with_bearer(token);
        client.request("POST", path, &[], &[]).await.unwrap()
    }

    /// Another process over the same database and Redis.
    pub(crate) async fn twin(&self) -> Self {
        use secrecy::ExposeSecret as _;
        let redis = self
            .settings
            .redis
            .queue
            .as_ref()
            .map(|redis| redis.url.expose_secret());
        let settings = TestSettings::new().with("DATABASE_URL", self.settings.database.url.expose_secret());
        match redis {
            Some(url) => settings.over(url).start().await,
            None => settings.start().await,
        }
    }

    /// Enqueues a `debug.echo` job; its id.
    pub(crate) async fn enqueue(&self) -> JobId {
        let response = self
            .admin()
            .post_json("/v1/jobs", &echo(json!({"n": 1})))
            .await
            .unwrap();
        assert_eq!(response.status, 202, "{}", response.text());
        id_of(&response)
    }

    /// Claims every due job of the default queue as a worker would, and ends each in this way.
    pub(crate) async fn finish_all(&self, outcome: impl Fn(Fence) -> Outcome) -> usize {
        let worker = self.worker().await;
        let claimed = self
            .jobs
            .ledger()
            .claim("default", worker, 100, Duration::from_secs(15))
            .await
            .unwrap();
        let outcomes: Vec<_> = claimed.iter().map(|job| outcome(job.fence())).collect();
        self.jobs.ledger().finish(worker, &outcomes).await.unwrap().len()
    }

    /// A worker that has just been heard of.
    pub(crate) async fn worker(&self) -> WorkerId {
        let id = WorkerId::generate();
        let report = WorkerReport {
            id,
            name: "test-worker".to_owned(),
            queues: vec!["default".to_owned()],
            started_at: holdfast_core::clock::now(),
            stats: BTreeMap::new(),
            client: None,
        };
        self.jobs.ledger().register(&report).await.unwrap();
        id
    }

    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.running.await.unwrap().unwrap();
    }
}

#[allow(clippy::needless_pass_by_value, reason = "reads best at its many callers")]
pub(crate) fn echo(payload: Value) -> Value {
    json!({"kind": "debug.echo", "payload": payload})
}

pub(crate) fn id_of(response: &Response) -> JobId {
    response.json::<Value>().unwrap()["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

pub(crate) fn body_of(response: &Response) -> Value {
    response.json().unwrap()
}

/// Asserts that a response is a problem of this status and type; its body.
#[track_caller]
pub(crate) fn problem(response: &Response, status: u16, slug: &str) -> Value {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let body = body_of(response);
    assert_eq!(body["type"], format!("urn:holdfast:problem:{slug}"), "{body}");
    assert_eq!(body["status"], status);
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    assert_eq!(
        body["request_id"].as_str(),
        response.header("x-request-id"),
        "{body}"
    );
    body
}

/// The same, with the field that is wrong.
#[track_caller]
pub(crate) fn problem_of(response: &Response, status: u16, slug: &str, field: &str) -> Value {
    let body = problem(response, status, slug);
    assert_eq!(body["field"], field, "{body}");
    assert_eq!(body["errors"][0]["field"], field, "{body}");
    body
}

/// Asks again until there is an answer; for what nobody signals.
pub(crate) async fn until<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|_| panic!("waited {limit:?} in vain for: {what}"))
}
