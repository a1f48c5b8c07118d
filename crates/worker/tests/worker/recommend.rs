//! Training and lists in a real `worker` process: what it caches another process finds.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::time::Duration;

use holdfast_cache::{Cache, Source};
use holdfast_core::config::{Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::{Jobs, State};
use holdfast_services::events::NewEvent;
use holdfast_services::events::interactions::{Action, Interaction};
use holdfast_services::events::recommend::{ListSource, MlRecommend, MlTrain, Recommender};
use holdfast_services::product::UserName;
use holdfast_testkit::{Child, PostgresServer, RedisOptions, RedisServer, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_mins(1);

fn event(n: usize) -> NewEvent {
    NewEvent {
        source: None,
        uid: n.to_string(),
        title: format!("Event {n}"),
        description: None,
        url: None,
        category: None,
        starts_at: holdfast_core::clock::now() + chrono::Duration::days(30),
        ends_at: None,
        time_zone: None,
        position: None,
        place: None,
        cancelled: false,
    }
}

#[tokio::test]
async fn a_worker_trains_and_caches_a_list_that_another_process_serves() {
    let postgres = PostgresServer::start().await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let directory = TempDir::new().unwrap();
    let env = [
        ("DATABASE_URL".to_owned(), postgres.url()),
        ("REDIS_URL".to_owned(), redis.url()),
    ];
    let settings = load_from(Sources {
        env: env.iter().cloned().collect(),
        file: None,
    })
    .unwrap();
    migrate(&settings.database).await.unwrap();
    let database = Database::open(&settings.database).unwrap();
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    let cache_gate = RedisGate::open(Role::Cache, settings.redis.cache.as_ref(), &settings.redis).unwrap();
    cache_gate.wait_ready(DEADLINE).await;
    let cache = Cache::open(cache_gate, &settings.cache);
    let recommender = Recommender::new(&settings, &database, &cache);
    let events: Vec<_> = (0..6).map(event).collect();
    let stored = recommender.events().upsert(&events).await.unwrap();
    let done: Vec<_> = (0..30)
        .map(|n| Interaction {
            user: format!("user-{}", n / 3).parse().unwrap(),
            event: stored[(n / 3) % 2 * 3 + n % 3].id,
            action: Action::Attend,
            at: holdfast_core::clock::now() - chrono::Duration::hours(1),
        })
        .collect();
    assert_eq!(recommender.accept(&done).await.unwrap().stored, 30);

    let mut worker = Child::binary("worker")
        .envs(env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .env("PORT", free_port().unwrap().to_string())
        .current_dir(directory.path())
        .start()
        .unwrap();
    let jobs = Jobs::new(&settings, holdfast_services::registry(), &database, &gate);
    let ended = async |id| -> Value {
        let job = jobs.wait(id, DEADLINE).await.unwrap().unwrap();
        assert_eq!(job.state, State::Completed, "{job:?}");
        serde_json::from_str(job.result.unwrap().get()).unwrap()
    };
    let trained = ended(jobs.enqueue(MlTrain::default()).await.unwrap().id).await;
    assert_eq!(
        (&trained["what"], &trained["events"], &trained["ratings"]),
        (&json!("everything"), &json!(6), &json!(30))
    );
    let user: UserName = "user-0".parse().unwrap();
    let made = ended(jobs.enqueue(MlRecommend { user: user.clone() }).await.unwrap().id).await;
    assert_eq!(made, json!({"source": "personal", "items": 3}));
    let found = recommender.list(&user).await.unwrap();
    assert_eq!(
        (found.source, found.value.source, found.value.items.len()),
        (Source::Redis, ListSource::Personal, 3)
    );
    worker.sigterm().unwrap();
    assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
}
