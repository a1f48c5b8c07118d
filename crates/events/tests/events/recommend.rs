//! Events, interactions and recommendations on real databases; what is stored is counted in SQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_cache::{Cache, Source};
use holdfast_core::clock;
use holdfast_core::config::{Additions, Settings, Sources, load_from_with};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_events::interactions::{Action, Interaction, Interactions};
use holdfast_events::recommend::{
    ListSource, MlRecommend, MlTrain, Reason, Recommender, TrainedWhat, TrainingReport,
};
use holdfast_events::{
    Event, Events, EventsProduct, Filter, Near, NewEvent, Outcome, RecommendSettings, search_words,
};
use holdfast_jobs::{Job, JobContext, JobId, Resources};
use holdfast_product::{Product as _, UserName};
use holdfast_testkit::PostgresServer;
use tempfile::TempDir;
use ulid::Ulid;

struct Fixture {
    settings: Settings,
    database: Database,
    cache: Cache,
    recommender: Recommender,
    _directory: TempDir,
}

impl Fixture {
    async fn start(postgres: Option<&PostgresServer>, env: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("events.db").display()),
        };
        let mut all = BTreeMap::from([
            ("DATABASE_URL".to_owned(), url),
            // A busy machine is no reason for what is popular.
            (
                "HOLDFAST__RECOMMEND__DEADLINE_SECONDS".to_owned(),
                "30".to_owned(),
            ),
        ]);
        all.extend(
            env.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let settings = load_from_with(
            Sources { env: all, file: None },
            Additions {
                sections: EventsProduct.settings(),
                ..Additions::default()
            },
        )
        .unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Cache, None, &settings.redis).unwrap();
        let cache = Cache::open(gate, &settings.cache);
        Self {
            recommender: Recommender::new(&settings, &database, &cache),
            settings,
            database,
            cache,
            _directory: directory,
        }
    }

    fn events(&self) -> &Events {
        self.recommender.events()
    }

    fn interactions(&self) -> &Interactions {
        self.recommender.interactions()
    }

    /// As another process would see it.
    fn another(&self) -> Recommender {
        Recommender::new(&self.settings, &self.database, &self.cache)
    }

    async fn run<J: Job>(&self, job: J) -> Result<J::Output, holdfast_jobs::JobError> {
        let resources = Resources::default().with(self.recommender.clone());
        job.run(JobContext::detached(JobId::generate(), 1, 1, resources))
            .await
    }

    async fn count(&self, table: &str) -> i64 {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        match &self.database {
            Database::Postgres(pool) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            Database::Sqlite(database) => sqlx::query_scalar(count)
                .fetch_one(&database.reader)
                .await
                .unwrap(),
        }
    }

    /// Both databases understand it.
    async fn sql(&self, statement: &str) {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
        match &self.database {
            Database::Postgres(pool) => drop(statement.execute(pool).await.unwrap()),
            Database::Sqlite(database) => drop(statement.execute(&database.writer).await.unwrap()),
        }
    }

    async fn ids(&self, events: &[NewEvent]) -> Vec<Ulid> {
        let stored = self.events().upsert(events).await.unwrap();
        stored.iter().map(|one| one.id).collect()
    }

    async fn found(&self, filter: Filter) -> Vec<String> {
        let found = self.events().find(&filter, 100).await.unwrap();
        found.into_iter().map(|event| event.uid).collect()
    }
}

/// Days from now, to the millisecond.
fn days(count: i64) -> DateTime<Utc> {
    let at = clock::now() + chrono::Duration::days(count);
    DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap()
}

fn event(uid: &str, title: &str) -> NewEvent {
    NewEvent {
        source: None,
        uid: uid.to_owned(),
        title: title.to_owned(),
        description: None,
        url: None,
        category: None,
        starts_at: days(10),
        ends_at: None,
        time_zone: None,
        position: None,
        place: None,
        cancelled: false,
    }
}

fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

fn did(name: &str, event: Ulid, action: Action) -> Interaction {
    Interaction {
        user: user(name),
        event,
        action,
        at: days(-1),
    }
}

async fn an_event_is_inserted_changed_or_left_as_it_is(f: Fixture) {
    let mut full = event("a", "Jazz");
    full.source = Some("feed".to_owned());
    full.description = Some("An evening of swing".to_owned());
    full.url = Some("https://example.com/a".to_owned());
    full.category = Some("music".to_owned());
    full.ends_at = Some(days(11));
    full.time_zone = Some("Europe/Vienna".to_owned());
    full.position = Some((47.27, 11.4));
    full.place = Some("Market square".to_owned());
    let mut batch = vec![full.clone(), event("a", "Another, of no source"), event("b", "B")];
    let outcomes = |stored: &[holdfast_events::UpsertedEvent]| -> Vec<Outcome> {
        stored.iter().map(|one| one.outcome).collect()
    };
    let first = f.events().upsert(&batch).await.unwrap();
    assert_eq!(outcomes(&first), [Outcome::Inserted; 3]);
    let again = f.events().upsert(&batch).await.unwrap();
    assert_eq!(outcomes(&again), [Outcome::Unchanged; 3]);
    "Jazz, and blues".clone_into(&mut batch[0].title);
    batch[2].cancelled = true;
    let third = f.events().upsert(&batch).await.unwrap();
    assert_eq!(
        outcomes(&third),
        [Outcome::Changed, Outcome::Unchanged, Outcome::Changed]
    );
    for (one, other) in [(&first, &again), (&first, &third)] {
        assert!(one.iter().zip(other).all(|(a, b)| a.id == b.id), "ids stay");
    }
    assert_eq!(f.count("holdfast_events").await, 3);

    let stored = f.events().by_ids(&[first[0].id, Ulid(7)]).await.unwrap();
    let Event { lat, lon, .. } = stored[0];
    assert_eq!((stored.len(), lat, lon), (1, Some(47.27), Some(11.4)));
    let back = NewEvent {
        title: stored[0].title.clone(),
        starts_at: stored[0].starts_at,
        ends_at: stored[0].ends_at,
        description: stored[0].description.clone(),
        place: stored[0].place.clone(),
        time_zone: stored[0].time_zone.clone(),
        ..batch[0].clone()
    };
    assert_eq!(back, batch[0], "what is stored is what was brought");
    assert!(stored[0].updated_at >= stored[0].created_at && stored[0].cancelled_at.is_none());

    batch[2].cancelled = false;
    let revived = f.events().upsert(&batch[2..]).await.unwrap();
    assert_eq!(outcomes(&revived), [Outcome::Changed]);
    let twice = [event("c", "one"), event("c", "two"), event("c", "two")];
    let twice = f.events().upsert(&twice).await.unwrap();
    let expected = [Outcome::Inserted, Outcome::Changed, Outcome::Unchanged];
    assert_eq!(outcomes(&twice), expected, "each in its turn");
}

async fn batches_of_the_same_events_at_once_store_each_once(f: Fixture) {
    let batch: Vec<_> = (0..300).map(|n| event(&format!("e{n}"), "same")).collect();
    let mut turned = batch.clone();
    turned.reverse();
    let mut tasks = tokio::task::JoinSet::new();
    for batch in [batch.clone(), turned.clone(), batch, turned] {
        let events = f.events().clone();
        tasks.spawn(async move { events.upsert(&batch).await.unwrap() });
    }
    let mut ids = BTreeMap::new();
    for stored in tasks.join_all().await {
        for one in stored {
            *ids.entry(one.id).or_insert(0) += 1;
        }
    }
    assert_eq!(f.count("holdfast_events").await, 300);
    assert_eq!(ids.len(), 300, "everybody is told the same ids");
    assert!(ids.values().all(|told| *told == 4));
}

async fn events_are_found_by_time_place_category_and_words_in_pages(f: Fixture) {
    let placed = |uid: &str, title: &str, day: i64, category: &str, at: (f64, f64)| NewEvent {
        starts_at: days(day),
        category: Some(category.to_owned()),
        position: Some(at),
        ..event(uid, title)
    };
    let batch = [
        placed("past", "Jazz of yesterday", -1, "music", (47.27, 11.40)),
        placed("near", "Jazz trio: Ärger im Café", 1, "music", (47.27, 11.40)),
        placed("munich", "Jazz quartet", 2, "music", (48.14, 11.58)),
        placed("fiji", "Surfing_100%", 3, "sport", (-17.7, 179.99)),
        placed("other-fiji", "Surfing", 4, "sport", (-17.7, -179.99)),
        NewEvent {
            cancelled: true,
            ..placed("off", "Jazz, cancelled", 5, "music", (47.27, 11.40))
        },
        event("nowhere", "jazzy talk"),
    ];
    f.events().upsert(&batch).await.unwrap();
    let all = ["past", "near", "munich", "fiji", "other-fiji", "nowhere"];
    assert_eq!(f.found(Filter::default()).await, all);
    let ahead = Filter {
        from: Some(clock::now()),
        to: Some(days(3) - chrono::Duration::minutes(1)),
        ..Filter::default()
    };
    assert_eq!(f.found(ahead).await, ["near", "munich"]);
    let words = |text: &str| Filter {
        words: search_words(text).unwrap(),
        ..Filter::default()
    };
    assert_eq!(
        f.found(words("JAZZ")).await,
        ["past", "near", "munich"],
        "whole words"
    );
    assert_eq!(f.found(words("café jazz")).await, ["near"]);
    assert_eq!(f.found(words("surfing 100%")).await, ["fiji"]);
    assert_eq!(
        f.found(words("music")).await,
        ["past", "near", "munich"],
        "the category too"
    );
    assert!(f.found(words("az")).await.is_empty());
    let around = |lat, lon, kilometres| Filter {
        near: Some(Near { lat, lon, kilometres }),
        ..Filter::default()
    };
    assert_eq!(f.found(around(47.27, 11.40, 1.0)).await, ["past", "near"]);
    assert_eq!(f.found(around(47.27, 11.40, 96.0)).await, ["past", "near"]);
    assert_eq!(
        f.found(around(47.27, 11.40, 99.0)).await,
        ["past", "near", "munich"]
    );
    assert_eq!(
        f.found(around(-17.7, 180.0, 5.0)).await,
        ["fiji", "other-fiji"],
        "the date line parts nothing"
    );
    let sport = Filter {
        category: Some("sport".to_owned()),
        cancelled: true,
        ..Filter::default()
    };
    assert_eq!(f.found(sport).await, ["fiji", "other-fiji"]);
    let cancelled = Filter {
        cancelled: true,
        from: Some(days(4) + chrono::Duration::minutes(1)),
        ..Filter::default()
    };
    assert_eq!(f.found(cancelled).await, ["off", "nowhere"]);

    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let filter = Filter {
            after,
            ..Filter::default()
        };
        let page = f.events().find(&filter, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.starts_at, last.id));
        pages.extend(page.into_iter().map(|event| event.uid));
    }
    assert_eq!(pages, all, "pages give all of it, each once");
}

async fn interactions_are_stored_once_and_only_with_an_event(f: Fixture) {
    let ids = f.ids(&[event("a", "A"), event("b", "B")]).await;
    let mut sent = vec![
        did("ada", ids[0], Action::View),
        did("ada", ids[0], Action::Save),
        did("bob", ids[1], Action::Attend),
        did("bob", Ulid(9), Action::View),
    ];
    let first = f.recommender.accept(&sent).await.unwrap();
    assert_eq!((first.stored, first.unknown), (3, [Ulid(9)].into()));
    sent.push(did("ada", ids[1], Action::Dismiss));
    let second = f.recommender.accept(&sent).await.unwrap();
    assert_eq!(second.stored, 1);
    assert_eq!(f.count("holdfast_interactions").await, 4);
    let done = f.interactions().of_user(&user("ada"), 10).await.unwrap();
    assert_eq!(done.len(), 3);
    assert!(
        done.iter()
            .any(|one| (one.event, one.action, one.at) == (sent[1].event, Action::Save, sent[1].at))
    );
}

async fn a_user_is_forgotten_or_made_nobody(f: Fixture) {
    let ids = f.ids(&[event("a", "A"), event("b", "B")]).await;
    let many: Vec<_> = (0..2_300)
        .map(|n| Interaction {
            at: days(-1) - chrono::Duration::seconds(n),
            ..did("ada", ids[0], Action::View)
        })
        .collect();
    f.recommender.accept(&many).await.unwrap();
    let others = [did("bob", ids[0], Action::Save), did("bob", ids[1], Action::Save)];
    f.recommender.accept(&others).await.unwrap();
    assert_eq!(f.recommender.forget(&user("ada")).await.unwrap(), 2_300);
    assert_eq!(
        f.recommender.forget(&user("ada")).await.unwrap(),
        0,
        "again does no harm"
    );
    assert_eq!(f.interactions().anonymise(&user("bob")).await.unwrap(), 2);
    assert!(
        f.interactions()
            .of_user(&user("bob"), 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(f.count("holdfast_interactions").await, 2);
    let nobody = "holdfast_interactions where user_id like 'anonymous-%'";
    assert_eq!(f.count(nobody).await, 2);
    assert_eq!(
        f.count("(select distinct user_id from holdfast_interactions) as u")
            .await,
        1
    );
}

async fn what_is_past_its_retention_goes_and_nothing_else(f: Fixture) {
    let at = |uid: &str, day: i64| NewEvent {
        starts_at: days(day),
        ..event(uid, "x")
    };
    let long = NewEvent {
        ends_at: Some(days(1)),
        ..at("long", -502)
    };
    let ids = f
        .ids(&[at("old", -501), at("remembered", -500), long, at("new", -1)])
        .await;
    let old = Interaction {
        at: days(-900),
        ..did("ada", ids[0], Action::View)
    };
    let kept = did("ada", ids[1], Action::View);
    f.recommender.accept(&[old, kept]).await.unwrap();
    assert_eq!(f.recommender.prune().await.unwrap(), 2);
    assert_eq!(f.found(Filter::default()).await, ["long", "remembered", "new"]);
    assert_eq!(f.count("holdfast_interactions").await, 1);
    assert_eq!(f.recommender.prune().await.unwrap(), 0);
}

/// Two circles of taste, five events and ten users each, and an event that nobody knows, whose words are those of the first.
async fn circles(f: &Fixture) -> Vec<Ulid> {
    let themed = |circle: &str, n: usize| NewEvent {
        category: Some(circle.to_owned()),
        ..event(&format!("{circle}-{n}"), &format!("{circle} evening {n}"))
    };
    let mut batch: Vec<_> = (0..5).map(|n| themed("jazz", n)).collect();
    batch.extend((0..5).map(|n| themed("chess", n)));
    batch.push(themed("jazz", 99));
    // A word that so many events share as share `jazz` here tells none apart.
    for alike in [0, 10] {
        batch[alike].description = Some("swing and bebop".to_owned());
    }
    let ids = f.ids(&batch).await;
    let mut done = Vec::new();
    for circle in 0..2 {
        for n in 0..10 {
            let liked = (0..5).filter(|event| (event + n) % 5 < 3);
            done.extend(liked.map(|event| {
                let name = format!("circle{circle}-{n}");
                did(&name, ids[circle * 5 + event], Action::Attend)
            }));
        }
    }
    f.recommender.accept(&done).await.unwrap();
    ids
}

async fn train(f: &Fixture, full: bool) -> TrainingReport {
    f.run(MlTrain { full }).await.unwrap()
}

async fn a_trained_model_recommends_what_the_circle_likes_and_says_why(f: Fixture) {
    let ids = circles(&f).await;
    let trained = train(&f, false).await;
    assert_eq!(
        (trained.what, trained.events, trained.users, trained.ratings),
        (TrainedWhat::Everything, 11, 20, 60)
    );
    f.recommender
        .accept(&[
            did("ada", ids[0], Action::Save),
            did("ada", ids[5], Action::Dismiss),
        ])
        .await
        .unwrap();
    // Another process, which has never seen the model.
    let other = f.another();
    let found = other.list(&user("ada")).await.unwrap();
    assert_eq!(
        (found.value.source, found.source),
        (ListSource::Personal, Source::Loaded)
    );
    let items = &found.value.items;
    assert_eq!(items.len(), 9, "all but what ada knows of");
    let jazz: Vec<Ulid> = items[..5].iter().map(|item| item.event).collect();
    assert!(ids[1..5].iter().all(|id| jazz.contains(id)), "{items:?}");
    assert!(
        jazz.contains(&ids[10]),
        "the one that nobody knows, by its words: {items:?}"
    );
    let unknown = items.iter().find(|item| item.event == ids[10]).unwrap();
    assert_eq!(
        (unknown.because.why, unknown.because.event),
        (Reason::Words, Some(ids[0]))
    );
    let first = &items[0].because;
    assert_eq!((first.why, first.event), (Reason::Similar, Some(ids[0])));
    assert_eq!(first.text, "People who like “jazz evening 0” like this too");
    assert!(items.windows(2).all(|pair| pair[0].event != pair[1].event));
    assert_eq!(
        f.recommender.list(&user("ada")).await.unwrap().source,
        Source::Local
    );

    // What ada does next counts at once.
    f.recommender
        .accept(&[did("ada", jazz[0], Action::Dismiss)])
        .await
        .unwrap();
    let next = f.recommender.list(&user("ada")).await.unwrap();
    assert_eq!(next.source, Source::Loaded);
    assert!(next.value.items.iter().all(|item| item.event != jazz[0]));
    // A look drops nothing.
    f.recommender
        .accept(&[did("ada", jazz[1], Action::View)])
        .await
        .unwrap();
    assert_eq!(
        f.recommender.list(&user("ada")).await.unwrap().source,
        Source::Local
    );

    // What was cancelled since the training is in no new list.
    let gone = NewEvent {
        cancelled: true,
        ..event("jazz-99", "jazz evening 99")
    };
    f.ids(&[gone]).await;
    let made = f.run(MlRecommend { user: user("ada") }).await.unwrap();
    assert_eq!((made.source, made.items), (ListSource::Personal, 7));
    let stranger = f.recommender.list(&user("eve")).await.unwrap();
    assert_eq!(stranger.value.source, ListSource::Popular);
}

async fn without_a_model_the_popular_is_recommended_and_marked(f: Fixture) {
    let empty = f.recommender.list(&user("nobody")).await.unwrap();
    assert_eq!(
        (empty.value.source, empty.value.items.len()),
        (ListSource::Popular, 0)
    );
    let ids = f.ids(&[event("a", "A"), event("b", "B"), event("c", "C")]).await;
    let done = [
        did("ada", ids[2], Action::Save),
        did("bob", ids[2], Action::View),
        did("bob", ids[1], Action::View),
        did("eve", ids[0], Action::Dismiss),
    ];
    f.recommender.accept(&done).await.unwrap();
    let list = f.recommender.list(&user("ada")).await.unwrap().value;
    assert_eq!(list.source, ListSource::Popular);
    let listed: Vec<_> = list
        .items
        .iter()
        .map(|item| (item.event, item.because.why))
        .collect();
    let expected = [
        (ids[2], Reason::Popular),
        (ids[1], Reason::Popular),
        (ids[0], Reason::Soon),
    ];
    assert_eq!(listed, expected);
}

async fn a_training_does_what_has_changed_and_no_more(f: Fixture) {
    let ids = circles(&f).await;
    let first = train(&f, false).await;
    let idle = train(&f, false).await;
    assert_eq!((idle.what, idle.version), (TrainedWhat::Nothing, first.version));
    assert_eq!(train(&f, true).await.what, TrainedWhat::Everything);

    let before = f.recommender.make(&user("circle0-0")).await.unwrap();
    f.ids(&[NewEvent {
        category: Some("jazz".to_owned()),
        ..event("jazz-100", "jazz evening 100")
    }])
    .await;
    let events = train(&f, false).await;
    assert_eq!((events.what, events.events), (TrainedWhat::Events, 12));
    let after = f.recommender.make(&user("circle0-0")).await.unwrap();
    assert_eq!(
        after.items.len(),
        before.items.len() + 1,
        "the new one is known at once"
    );
    let full = train(&f, true).await;
    assert_eq!(full.bytes, events.bytes);
    let anew = f.recommender.make(&user("circle0-0")).await.unwrap();
    let listed = |list: &holdfast_events::recommend::List| -> Vec<_> {
        list.items
            .iter()
            .map(|item| (item.event, item.because.why))
            .collect()
    };
    assert_eq!(listed(&after), listed(&anew), "as learning everything anew would");

    f.recommender
        .accept(&[did("ada", ids[0], Action::Save)])
        .await
        .unwrap();
    assert_eq!(train(&f, false).await.what, TrainedWhat::Everything);
    assert_eq!(f.count("holdfast_models").await, 1);
}

async fn a_damaged_or_foreign_model_is_replaced_and_meanwhile_the_popular_serves(f: Fixture) {
    circles(&f).await;
    train(&f, false).await;
    for damage in [
        "update holdfast_model_parts set data = substr(data, 1, 20)",
        "delete from holdfast_model_parts",
        "update holdfast_models set about = '{}'",
    ] {
        f.sql(damage).await;
        let other = f.another();
        assert!(other.model().await.is_err(), "{damage}");
        let list = other.list(&user(damage)).await.unwrap().value;
        assert_eq!(
            (list.source, list.items.len()),
            (ListSource::Popular, 11),
            "{damage}"
        );
        let trained = f.another().train(true).await.unwrap();
        assert_eq!(trained.what, TrainedWhat::Everything, "{damage}");
        assert!(f.another().model().await.unwrap().is_some());
    }
}

async fn pieces_that_no_model_names_are_swept_once_they_are_old(f: Fixture) {
    circles(&f).await;
    train(&f, true).await;
    train(&f, true).await;
    assert_eq!(f.count("holdfast_model_parts").await, 2, "a reader may be at it");
    let hours_ago = match &f.database {
        Database::Postgres(_) => "made_at - interval '2 hours'",
        Database::Sqlite(_) => "made_at - 7200000",
    };
    f.sql(&format!("update holdfast_model_parts set made_at = {hours_ago}"))
        .await;
    train(&f, true).await;
    assert_eq!(f.count("holdfast_model_parts").await, 1);
    assert!(f.another().model().await.unwrap().is_some());
}

/// The one thread for computation is busy, so that no list is made within the deadline, however fast the machine is.
async fn a_list_that_is_late_is_popular_first_and_personal_next(f: Fixture) {
    let ids = circles(&f).await;
    train(&f, false).await;
    f.recommender
        .accept(&[did("ada", ids[0], Action::Save)])
        .await
        .unwrap();
    let recommend = RecommendSettings {
        deadline: Duration::ZERO,
        ..f.settings.section()
    };
    let hasty = f.settings.clone().with_section(recommend);
    let hasty = Recommender::new(&hasty, &f.database, &f.cache);
    let (release, busy) = std::sync::mpsc::channel::<()>();
    let computing = tokio::task::spawn_blocking(move || busy.recv());
    let first = hasty.list(&user("ada")).await.unwrap().value;
    assert_eq!(first.source, ListSource::Popular);
    assert!(!first.items.is_empty());
    drop(release);
    assert!(computing.await.unwrap().is_err(), "it was released");
    // The list was begun all the same: the next caller gets it without beginning another.
    let next = f.recommender.list(&user("ada")).await.unwrap().value;
    assert_eq!(next.source, ListSource::Personal);
}

fn with_one_thread_for_computation(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn a_list_that_is_late_is_popular_first_and_personal_next_on_sqlite() {
    with_one_thread_for_computation(async {
        a_list_that_is_late_is_popular_first_and_personal_next(Fixture::start(None, &[]).await).await;
    });
}

#[test]
fn a_list_that_is_late_is_popular_first_and_personal_next_on_postgres() {
    with_one_thread_for_computation(async {
        let server = PostgresServer::start().await.unwrap();
        a_list_that_is_late_is_popular_first_and_personal_next(Fixture::start(Some(&server), &[]).await)
            .await;
    });
}

macro_rules! on_both {
    ($($test:ident)+) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Fixture::start(None, &[]).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                let server = holdfast_testkit::PostgresServer::start().await.unwrap();
                super::$test(super::Fixture::start(Some(&server), &[]).await).await;
            })+
        }
    };
}

on_both! {
    an_event_is_inserted_changed_or_left_as_it_is
    batches_of_the_same_events_at_once_store_each_once
    events_are_found_by_time_place_category_and_words_in_pages
    interactions_are_stored_once_and_only_with_an_event
    a_user_is_forgotten_or_made_nobody
    what_is_past_its_retention_goes_and_nothing_else
    a_trained_model_recommends_what_the_circle_likes_and_says_why
    without_a_model_the_popular_is_recommended_and_marked
    a_training_does_what_has_changed_and_no_more
    a_damaged_or_foreign_model_is_replaced_and_meanwhile_the_popular_serves
    pieces_that_no_model_names_are_swept_once_they_are_old
}
