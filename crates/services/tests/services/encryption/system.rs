//! API and worker in the test's own process, over a database that is opened again and again with other keys.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_cache::Cache;
use holdfast_core::config::{Settings, Sources};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::worker::{Worker, WorkerError, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, JobId, Jobs, SecretField, SecretPart};
use holdfast_product::{Process, WorkerProcess};
use holdfast_services::api::{Application, Services};
use holdfast_testkit::http::{Client, Response};
use holdfast_testkit::{PostgresServer, eventually};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(super) const DEADLINE: Duration = Duration::from_mins(2);

const ADMIN: &str = "bootstrap-key-of-the-tests";

/// The names of the payloads that handlers were given, whole.
#[derive(Clone, Default)]
struct HandledNames(Arc<Mutex<Vec<String>>>);

/// An application's own kind, with secrets deep in its payload.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Pay {
    auth: Auth,
    items: Vec<Item>,
    note: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Auth {
    token: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Item {
    pin: String,
    n: u32,
}

impl Job for Pay {
    const KIND: &'static str = "shop.pay";
    type Output = ();

    fn secret_fields() -> &'static [SecretField] {
        &[
            ("auth.token", SecretPart::Whole),
            ("items[].pin", SecretPart::Whole),
        ]
    }

    async fn run(self, ctx: JobContext) -> Result<(), JobError> {
        assert_eq!(self.auth.token, format!("S3CRET-{}", self.note));
        assert_eq!(self.items[0].pin, "S3CRET-pin");
        let seen = ctx.resource::<HandledNames>()?;
        seen.0.lock().unwrap().push(self.note.clone());
        if self.note == "fail" {
            return Err(JobError::permanent(format!(
                "the bank refuses {}",
                self.auth.token
            )));
        }
        Ok(())
    }
}

/// A database, and settings that all of its systems share.
pub(super) struct Place {
    env: Vec<(String, String)>,
    directory: TempDir,
    _postgres: Option<PostgresServer>,
}

impl Place {
    pub(super) async fn new(postgres: bool, more: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let postgres = if postgres {
            Some(PostgresServer::start().await.unwrap())
        } else {
            None
        };
        let url = match &postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("test.db").display()),
        };
        let own = [
            ("DATABASE_URL", url.as_str()),
            ("HOLDFAST_API_KEY", ADMIN),
            ("PORT", "0"),
            ("HOLDFAST__SERVER__HOST", "127.0.0.1"),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true"),
            ("SMTP_URL", "smtp://127.0.0.1:9"),
            ("HOLDFAST__SMTP__FROM", "Holdfast <no-reply@example.com>"),
        ];
        let env = own.iter().chain(more);
        Self {
            env: env
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            directory,
            _postgres: postgres,
        }
    }

    fn settings(&self, keys: &str) -> Settings {
        let mut env: std::collections::BTreeMap<_, _> = self.env.iter().cloned().collect();
        env.insert("HOLDFAST_ENCRYPTION_KEYS".to_owned(), keys.to_owned());
        holdfast_services::load_from(Sources { env, file: None }).unwrap()
    }
}

/// A system with certain keys.
pub(super) struct System {
    settings: Settings,
    database: Database,
    jobs: Jobs,
    gate: RedisGate,
    cache: Cache,
    address: std::net::SocketAddr,
    stop: Shutdown,
    serving: JoinHandle<std::io::Result<()>>,
    worker: Option<JoinHandle<Result<(), WorkerError>>>,
    seen: HandledNames,
    file: std::path::PathBuf,
}

/// The document of a response, which must have this status.
#[track_caller]
pub(super) fn good(response: &Response, status: u16, what: &str) -> Value {
    assert_eq!(response.status, status, "{what}: {}", response.text());
    response.json().unwrap()
}

impl System {
    /// With a worker.
    pub(super) async fn open(place: &Place, keys: &str) -> Self {
        let mut system = Self::idle(place, keys).await;
        system.work();
        system
    }

    pub(super) async fn idle(place: &Place, keys: &str) -> Self {
        let settings = place.settings(keys);
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        let cache = RedisGate::open(Role::Cache, settings.redis.cache.as_ref(), &settings.redis).unwrap();
        let cache = Cache::open(cache, &settings.cache);
        gate.wait_ready(Duration::from_secs(30)).await;
        let registry = holdfast_services::registry_for(&settings).register::<Pay>();
        let jobs = Jobs::new(&settings, registry, &database, &gate);
        jobs.try_publish_catalogue().await.unwrap();
        let services = Services {
            jobs: jobs.clone(),
            database: database.clone(),
            gate: gate.clone(),
            cache: cache.clone(),
        };
        let application = Application::build(&settings, services).await.unwrap();
        let (address, stop) = (application.address(), Shutdown::new());
        Self {
            serving: tokio::spawn(application.run_until_stopped(stop.clone())),
            settings,
            database,
            jobs,
            gate,
            cache,
            address,
            stop,
            worker: None,
            seen: HandledNames::default(),
            file: place.directory.path().join("test.db"),
        }
    }

    pub(super) fn work(&mut self) {
        let process = Process {
            settings: &self.settings,
            database: &self.database,
            jobs: &self.jobs,
        };
        let worker = WorkerProcess {
            process,
            gate: &self.gate,
            cache: &self.cache,
        };
        let resources = crate::resources(&self.settings).with(self.seen.clone());
        let (resources, _) = holdfast_services::worker_duties(worker, resources);
        let parts = WorkerParts {
            settings: self.settings.clone(),
            jobs: self.jobs.clone(),
            gate: self.gate.clone(),
            resources,
        };
        let worker = Worker::new(parts, self.stop.clone()).unwrap();
        self.worker = Some(tokio::spawn(worker.run()));
    }

    pub(super) async fn stop(self) {
        self.stop.trigger();
        if let Some(worker) = self.worker {
            worker.await.unwrap().unwrap();
        }
        self.serving.await.unwrap().unwrap();
        self.database.close(Duration::from_secs(10)).await;
    }

    pub(super) fn admin(&self) -> Client {
        self.with_key(ADMIN)
    }

    pub(super) fn with_key(&self, key: &str) -> Client {
        Client::new(self.address).with_bearer(key)
    }

    /// Takes the names of this many payloads that handlers were given, sorted.
    pub(super) async fn seen(&self, count: usize) -> Vec<String> {
        let what = format!("{count} runs");
        let seen = eventually(&what, DEADLINE, Duration::from_millis(20), async || {
            let mut seen = self.seen.0.lock().unwrap();
            (seen.len() >= count).then(|| std::mem::take(&mut *seen))
        });
        let mut seen = seen
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.seen.0.lock()));
        seen.sort();
        seen
    }

    pub(super) async fn sql(&self, text: &str) -> u64 {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned()));
        match &self.database {
            Database::Postgres(pool) => statement.execute(pool).await.unwrap().rows_affected(),
            Database::Sqlite(database) => statement.execute(&database.writer).await.unwrap().rows_affected(),
        }
    }

    async fn text(&self, text: &str) -> Option<String> {
        let query = sqlx::AssertSqlSafe(text.to_owned());
        match &self.database {
            Database::Postgres(pool) => sqlx::query_scalar(query).fetch_optional(pool).await.unwrap(),
            Database::Sqlite(database) => sqlx::query_scalar(query)
                .fetch_optional(&database.writer)
                .await
                .unwrap(),
        }
    }

    /// A pass of the rotation over HTTP.
    pub(super) async fn rotate(&self) -> Value {
        let (mut body, mut rewritten, mut skipped, mut unreadable) = (json!({}), 0, 0, Vec::new());
        loop {
            let answer = self
                .admin()
                .post_json("/v1/encryption/rotate", &body)
                .await
                .unwrap();
            let part = good(&answer, 200, "rotate");
            rewritten += part["rewritten"].as_u64().unwrap();
            skipped += part["skipped"].as_u64().unwrap();
            unreadable.extend(part["unreadable"].as_array().unwrap().iter().cloned());
            if part["next"].is_null() {
                return json!({"rewritten": rewritten, "skipped": skipped, "unreadable": unreadable});
            }
            body = json!({"after": part["next"]});
        }
    }

    pub(super) async fn waits_for_digest(&self) {
        eventually(
            "an item of a digest",
            DEADLINE,
            Duration::from_millis(50),
            async || {
                self.text("select list from holdfast_digest_items")
                    .await
                    .map(drop)
            },
        )
        .await
        .unwrap();
    }

    /// The tables with a row that holds this text, as it is or as bytes; for SQLite `file` too, if its file does.
    pub(super) async fn holders_of(&self, text: &str) -> BTreeSet<String> {
        let hex = text
            .bytes()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let mut holders = BTreeSet::new();
        for (table, row) in self.everything().await {
            if row.contains(text) || row.to_lowercase().contains(&hex) {
                holders.insert(table);
            }
        }
        holders
    }

    async fn everything(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        match &self.database {
            Database::Postgres(pool) => {
                let tables = "select tablename::text from pg_tables where schemaname = 'public'";
                let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(pool).await.unwrap();
                for table in tables {
                    let text = format!("select t::text from \"{table}\" as t");
                    let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_all(pool);
                    let rows: Vec<String> = rows.await.unwrap();
                    all.extend(rows.into_iter().map(|row| (table.clone(), row)));
                }
            }
            Database::Sqlite(database) => {
                let columns = "select t.name, c.name from sqlite_master as t, pragma_table_info(t.name) as c where t.type = 'table'";
                let columns: Vec<(String, String)> =
                    sqlx::query_as(columns).fetch_all(&database.writer).await.unwrap();
                for (table, column) in columns {
                    let text = format!("select quote(\"{column}\") from \"{table}\"");
                    let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_all(&database.writer);
                    let rows: Vec<String> = rows.await.unwrap();
                    all.extend(rows.into_iter().map(|row| (table.clone(), row)));
                }
            }
        }
        all
    }

    /// Whether the files of SQLite hold this text anywhere, also in what was deleted.
    pub(super) fn files_hold(&self, text: &str) -> bool {
        let holds = |suffix: &str| {
            let mut path = self.file.clone().into_os_string();
            path.push(suffix);
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        holds("") || holds("-wal")
    }

    /// The id of the delayed job with this note.
    pub(super) async fn id_of(&self, note: &str) -> String {
        let mut path = "/v1/jobs?kind=shop.pay&limit=200".to_owned();
        loop {
            let list = good(&self.admin().get(&path).await.unwrap(), 200, "jobs");
            let mut jobs = list["jobs"].as_array().unwrap().iter();
            if let Some(job) = jobs.find(|job| job["payload"]["note"] == note) {
                return job["id"].as_str().unwrap().to_owned();
            }
            let next = list["next"].as_str().expect("a job of this note");
            path = format!("/v1/jobs?kind=shop.pay&limit=200&after={next}");
        }
    }

    /// Makes the job with this note due now.
    pub(super) async fn make_due(&self, note: &str) -> String {
        let id = self.id_of(note).await;
        let path = format!("/v1/jobs/{id}/retry");
        let answer = self.admin().request("POST", &path, &[], &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        id
    }

    /// Puts the payload of one stored job into another's, but for the unmarked `note`.
    pub(super) async fn give_secrets_of_to(&self, from: &str, to: &str) {
        let (mut moved, target) = (self.stored_payload(from).await, self.stored_payload(to).await);
        moved["note"] = target["note"].clone();
        let literal = self.id_literal(to);
        let text = format!("update holdfast_jobs set payload = '{moved}' where id = {literal}");
        assert_eq!(self.sql(&text).await, 1);
    }

    async fn stored_payload(&self, id: &str) -> Value {
        let text = format!(
            "select cast(payload as text) from holdfast_jobs where id = {}",
            self.id_literal(id)
        );
        serde_json::from_str(&self.text(&text).await.unwrap()).unwrap()
    }

    fn id_literal(&self, id: &str) -> String {
        let uuid = id.parse::<JobId>().unwrap().as_uuid();
        match &self.database {
            Database::Postgres(_) => format!("'{uuid}'"),
            Database::Sqlite(_) => format!("x'{}'", uuid.simple()),
        }
    }
}
