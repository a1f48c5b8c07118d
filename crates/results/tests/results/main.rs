//! Results and channels on real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::config::{Settings, Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_results::{DocumentWrite, Results, ResultsError};
use holdfast_testkit::{PostgresServer, RedisOptions, RedisServer};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

const DAY: Duration = Duration::from_hours(24);

struct Fixture {
    settings: Settings,
    database: Database,
    results: Results,
    _directory: TempDir,
}

impl Fixture {
    async fn start(postgres: Option<&PostgresServer>, redis: Option<&RedisServer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("results.db").display()),
        };
        let mut env = vec![("DATABASE_URL".to_owned(), url)];
        env.extend(redis.map(|server| ("REDIS_URL".to_owned(), server.url())));
        let settings: Settings = load_from(Sources {
            env: env.into_iter().collect(),
            file: None,
        })
        .unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let results = process(&settings, &database).await;
        Self {
            settings,
            database,
            results,
            _directory: directory,
        }
    }

    /// Another process over the same database and Redis.
    async fn twin(&self) -> Results {
        process(&self.settings, &self.database).await
    }

    async fn execute(&self, text: &'static str) {
        match &self.database {
            Database::Postgres(pool) => drop(sqlx::query(text).execute(pool).await.unwrap()),
            Database::Sqlite(database) => drop(sqlx::query(text).execute(&database.writer).await.unwrap()),
        }
    }

    async fn count(&self, text: &'static str) -> i64 {
        match &self.database {
            Database::Postgres(pool) => sqlx::query_scalar(text).fetch_one(pool).await.unwrap(),
            Database::Sqlite(database) => sqlx::query_scalar(text)
                .fetch_one(&database.reader)
                .await
                .unwrap(),
        }
    }

    /// Lets everything in a table expire that much ago.
    async fn expire(&self, table: &str, hours: u32) {
        let past = match &self.database {
            Database::Postgres(_) => format!("now() - interval '{hours} hours 1 second'"),
            Database::Sqlite(_) => format!("unixepoch() * 1000 - {hours} * 3600000 - 1000"),
        };
        let next = if table.ends_with("sets") {
            format!(", next_expiry = {past}")
        } else {
            String::new()
        };
        let text = format!("update {table} set expires_at = {past}{next}");
        match &self.database {
            Database::Postgres(pool) => drop(
                sqlx::query(sqlx::AssertSqlSafe(text))
                    .execute(pool)
                    .await
                    .unwrap(),
            ),
            Database::Sqlite(database) => {
                let query = sqlx::query(sqlx::AssertSqlSafe(text));
                query.execute(&database.writer).await.unwrap();
            }
        }
    }
}

async fn process(settings: &Settings, database: &Database) -> Results {
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    if gate.is_configured() {
        let normal = gate
            .watch()
            .wait_for(holdfast_core::mode::Mode::is_normal)
            .await
            .is_ok();
        assert!(normal);
    }
    Results::new(settings, database, &gate)
}

fn document(id: &str, body: &str) -> DocumentWrite {
    DocumentWrite {
        id: id.to_owned(),
        body: body.to_owned(),
        ttl: DAY,
        finished: false,
        unless_finished: false,
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn known(ids: &[(&str, i64)]) -> BTreeMap<String, i64> {
    ids.iter()
        .map(|(id, version)| ((*id).to_owned(), *version))
        .collect()
}

/// The bodies of these documents, without a wait.
async fn bodies(results: &Results, ids: &[&str]) -> Vec<String> {
    let ids: Vec<_> = ids.iter().map(|id| (*id, 0)).collect();
    let page = results.read(&known(&ids), Duration::ZERO).await.unwrap();
    page.documents.into_iter().map(|document| document.body).collect()
}

async fn versions_grow_and_a_finished_document_is_not_overwritten_by_a_late_write(f: &Fixture) {
    let results = &f.results;
    let first = results
        .write(vec![document("v", "started"), document("other", "x")])
        .await
        .unwrap();
    let again = results.write(vec![document("v", "started")]).await.unwrap();
    assert!(again[0].version > first[0].version && again[0].is_stored);
    let success = DocumentWrite {
        finished: true,
        unless_finished: true,
        ..document("v", "success")
    };
    let written = results.write(vec![success.clone()]).await.unwrap();
    assert!(written[0].is_stored);
    let late = DocumentWrite {
        unless_finished: true,
        ..document("v", "started")
    };
    let kept = results
        .write(vec![late.clone(), document("other", "y")])
        .await
        .unwrap();
    assert_eq!((kept[0].is_stored, kept[0].version), (false, written[0].version));
    assert!(kept[1].is_stored);
    assert_eq!(
        bodies(results, &["v", "other", "absent"]).await,
        ["y", "success"],
        "in the order of ids"
    );
    let page = results
        .read(&known(&[("v", written[0].version), ("other", 0)]), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(page.documents.len(), 1, "what is known is not read again");
    // The same within one call: in order.
    let both = results.write(vec![
        document("w", "a"),
        success_of("w"),
        DocumentWrite {
            id: "w".to_owned(),
            ..late
        },
    ]);
    let both = both.await.unwrap();
    assert_eq!(both.len(), 3);
    assert_eq!(bodies(results, &["w"]).await, ["success"]);
    let forced = results.write(vec![document("w", "forced")]).await.unwrap();
    assert!(forced[0].is_stored && forced[0].version > both[2].version);
    assert_eq!(results.delete(&names(&["w", "absent"])).await.unwrap(), 1);
    let anew = results.write(vec![document("w", "anew")]).await.unwrap();
    assert!(anew[0].version > forced[0].version, "also over a deletion");
}

fn success_of(id: &str) -> DocumentWrite {
    DocumentWrite {
        finished: true,
        unless_finished: true,
        ..document(id, "success")
    }
}

async fn what_has_expired_is_shown_to_nobody_and_swept(f: &Fixture) {
    let results = &f.results;
    f.execute("delete from holdfast_results").await;
    f.execute("delete from holdfast_channels").await;
    let many: Vec<_> = (0..1_000).map(|n| document(&format!("x{n}"), "x")).collect();
    results.write(many).await.unwrap();
    let finished = results
        .write(vec![success_of("kept"), success_of("done")])
        .await
        .unwrap();
    results
        .add_parts("x", &names(&["a", "b", "c"]), DAY)
        .await
        .unwrap();
    results
        .post("c", &["m".to_owned(), "n".to_owned()], DAY)
        .await
        .unwrap();
    for table in [
        "results",
        "result_parts",
        "result_sets",
        "channel_messages",
        "channels",
    ] {
        f.expire(&format!("holdfast_{table}"), 0).await;
    }
    assert_eq!(bodies(results, &["x1", "done"]).await, [""; 0]);
    assert_eq!(results.parts("x", "", 10).await.unwrap().count, 0);
    let anew = DocumentWrite {
        unless_finished: true,
        ..document("kept", "anew")
    };
    let anew = results.write(vec![anew]).await.unwrap();
    assert!(
        anew[0].is_stored && anew[0].version > finished[0].version,
        "{anew:?}"
    );
    // A part that has expired is added anew, whether or not it was swept.
    let added = results.add_parts("x", &names(&["a", "d"]), DAY).await.unwrap();
    assert_eq!((added.count, added.added), (2, 2));
    assert!(results.sweep().await.unwrap(), "a full step");
    while results.sweep().await.unwrap() {}
    assert_eq!(f.count("select count(*) from holdfast_results").await, 1);
    assert_eq!(f.count("select count(*) from holdfast_result_parts").await, 2);
    assert_eq!(f.count("select count(*) from holdfast_result_sets").await, 1);
    assert_eq!(f.count("select count(*) from holdfast_channel_messages").await, 0);
    assert_eq!(
        f.count("select count(*) from holdfast_channels").await,
        1,
        "its readers find their place"
    );
    f.expire("holdfast_channels", 1).await;
    results.sweep().await.unwrap();
    assert_eq!(f.count("select count(*) from holdfast_channels").await, 0);
}

async fn a_part_counts_once_and_concurrent_adds_see_each_other(f: &Fixture) {
    let results = &f.results;
    let once = results.add_parts("chord", &names(&["t-0"]), DAY).await.unwrap();
    assert_eq!((once.count, once.added), (1, 1));
    let again = results.add_parts("chord", &names(&["t-0"]), DAY).await.unwrap();
    assert_eq!((again.count, again.added), (1, 0));
    let mut adding = JoinSet::new();
    for n in 1..40 {
        let results = results.clone();
        adding.spawn(async move {
            results
                .add_parts("chord", &names(&[&format!("t-{n}")]), DAY)
                .await
                .unwrap()
                .count
        });
    }
    let mut counts = adding.join_all().await;
    counts.sort_unstable();
    assert_eq!(
        counts,
        (2..=40).collect::<Vec<_>>(),
        "each has another count, and one the last"
    );
    let deleted = results
        .delete_parts("chord", &names(&["t-0", "t-1", "absent"]))
        .await
        .unwrap();
    assert_eq!((deleted.count, deleted.deleted), (38, 2));
    let page = results.parts("chord", "t-38", 1).await.unwrap();
    assert_eq!(
        (page.parts, page.count, page.more),
        (vec!["t-39".to_owned()], 38, true)
    );
    assert_eq!(
        results.delete(&names(&["chord"])).await.unwrap(),
        0,
        "there was no document"
    );
    assert_eq!(results.parts("chord", "", 10).await.unwrap().count, 0);
    // Each part has an expiry of its own.
    results
        .add_parts("mixed", &names(&["short"]), Duration::from_millis(1))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let added = results.add_parts("mixed", &names(&["long"]), DAY).await.unwrap();
    assert_eq!(added.count, 1);
}

async fn waiters_are_woken_by_writes_of_their_own_process_and_of_others(f: &Fixture) {
    let (own, other) = (&f.results, f.twin().await);
    let mut waiting = JoinSet::new();
    for n in 0..500 {
        let (results, id) = (own.clone(), format!("job-{n}"));
        let ids = known(&[(&id, 0), (&format!("never-{n}"), 0)]);
        waiting.spawn(async move { results.read(&ids, PATIENCE).await.unwrap() });
    }
    let writes =
        |range: std::ops::Range<usize>| range.map(|n| document(&format!("job-{n}"), "done")).collect();
    own.write(writes(0..250)).await.unwrap();
    other.write(writes(250..500)).await.unwrap();
    let mut read = BTreeSet::new();
    while let Some(page) = waiting.join_next().await {
        let page = page.unwrap();
        assert_eq!(page.documents.len(), 1);
        read.insert(page.documents[0].id.clone());
    }
    assert_eq!(read.len(), 500);
    // A newer version than the one that is known.
    let version = own.write(vec![document("job-0", "once more")]).await.unwrap()[0].version;
    let ids = known(&[("job-0", version)]);
    let (page, _) = tokio::join!(
        own.read(&ids, PATIENCE),
        other.write(vec![document("job-0", "at last")])
    );
    assert_eq!(page.unwrap().documents[0].body, "at last");
    let nothing = own
        .read(&known(&[("never", 0)]), Duration::from_millis(10))
        .await
        .unwrap();
    assert_eq!(nothing, holdfast_results::DocumentPage::default());
}

async fn a_reader_of_a_channel_skips_nothing_and_hears_each_message_once_in_order(f: &Fixture) {
    let (own, other) = (&f.results, f.twin().await);
    let after = |seq: Option<i64>| BTreeMap::from([("events".to_owned(), seq)]);
    let begin = own.listen(&after(None), 10, PATIENCE).await.unwrap();
    assert_eq!(
        (begin["events"].last, begin["events"].missed),
        (0, false),
        "nobody has posted"
    );
    let mut posting = JoinSet::new();
    for sender in 0..8 {
        let results = if sender % 2 == 0 {
            own.clone()
        } else {
            other.clone()
        };
        posting.spawn(async move {
            for n in 0..25 {
                let messages: Vec<_> = (0..3).map(|part| format!("{sender} {}", n * 3 + part)).collect();
                results.post("events", &messages, DAY).await.unwrap();
            }
        });
    }
    let (mut heard, mut last) = (Vec::new(), 0);
    while heard.len() < 600 {
        let mut pages = own.listen(&after(Some(last)), 50, PATIENCE).await.unwrap();
        let page = pages.remove("events").unwrap();
        assert!(!page.missed && !page.messages.is_empty() && page.messages.len() <= 50);
        assert!(page.messages.windows(2).all(|two| two[0].seq + 1 == two[1].seq));
        assert_eq!(page.messages.last().unwrap().seq, page.last);
        last = page.last;
        heard.extend(page.messages.into_iter().map(|message| message.body));
    }
    posting.join_all().await;
    for sender in 0..8 {
        let own: Vec<_> = heard
            .iter()
            .filter(|body| body.starts_with(&format!("{sender} ")))
            .cloned()
            .collect();
        let sent: Vec<_> = (0..75).map(|n| format!("{sender} {n}")).collect();
        assert_eq!(own, sent);
    }
    let idle = own
        .listen(&after(Some(last)), 50, Duration::from_millis(10))
        .await
        .unwrap();
    assert_eq!(
        (
            idle["events"].last,
            idle["events"].messages.len(),
            idle["events"].missed
        ),
        (last, 0, false)
    );
    // Several channels with one call.
    let both = BTreeMap::from([("events".to_owned(), Some(last)), ("news".to_owned(), Some(0))]);
    let (pages, _) = tokio::join!(own.listen(&both, 50, PATIENCE), async {
        other.post("news", &["extra".to_owned()], DAY).await.unwrap()
    });
    let pages = pages.unwrap();
    assert_eq!(
        (pages["events"].last, pages["news"].messages[0].body.as_str()),
        (last, "extra")
    );
}

async fn a_reader_is_told_what_it_missed(f: &Fixture) {
    let results = &f.results;
    let after = |seq: i64| BTreeMap::from([("short".to_owned(), Some(seq))]);
    let first = results
        .post("short", &["a".to_owned(), "b".to_owned()], DAY)
        .await
        .unwrap();
    f.execute("delete from holdfast_channel_messages where channel = 'short' and body = 'a'")
        .await;
    results.post("short", &["c".to_owned()], DAY).await.unwrap();
    let page = results
        .listen(&after(first - 2), 10, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((page["short"].messages.len(), page["short"].missed), (2, true));
    let page = results.listen(&after(first), 10, Duration::ZERO).await.unwrap();
    assert_eq!((page["short"].messages.len(), page["short"].missed), (1, false));
    let page = results.listen(&after(first + 99), 10, PATIENCE).await.unwrap();
    assert_eq!(
        (page["short"].last, page["short"].missed),
        (first + 1, true),
        "a database that was restored"
    );
    // A swept channel begins again with greater numbers, and nothing counts as missed.
    f.execute("delete from holdfast_channels where name = 'short'")
        .await;
    f.execute("delete from holdfast_channel_messages where channel = 'short'")
        .await;
    let page = results
        .listen(&after(first + 1), 10, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((page["short"].last, page["short"].missed), (first + 1, false));
    results.post("short", &["d".to_owned()], DAY).await.unwrap();
    let page = results
        .listen(&after(first + 1), 10, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(
        (page["short"].messages[0].body.as_str(), page["short"].missed),
        ("d", false)
    );
    // The oldest make room, by number and by bytes.
    for _ in 0..11 {
        results
            .post("short", &vec!["m".to_owned(); 1_000], DAY)
            .await
            .unwrap();
    }
    assert_eq!(
        f.count("select count(*) from holdfast_channel_messages where channel = 'short'")
            .await,
        10_000
    );
    let large = "x".repeat(4 * 1_048_576);
    for _ in 0..8 {
        results
            .post("short", std::slice::from_ref(&large), DAY)
            .await
            .unwrap();
    }
    let bytes = f
        .count("select sum(length(body)) from holdfast_channel_messages where channel = 'short'")
        .await;
    assert!((16..=20 * 1_048_576).contains(&bytes), "{bytes}");
}

async fn a_read_answers_eight_megabytes_and_names_what_is_left_out(f: &Fixture) {
    let large = "x".repeat(3 * 1_048_576);
    for id in ["l1", "l2", "l3", "l4"] {
        f.results.write(vec![document(id, &large)]).await.unwrap();
    }
    let page = f
        .results
        .read(&known(&[("l1", 0), ("l2", 0), ("l3", 0), ("l4", 0)]), PATIENCE)
        .await
        .unwrap();
    assert_eq!(page.documents.len(), 3);
    assert_eq!(page.left_out, ["l4"]);
}

async fn a_set_has_at_most_a_hundred_thousand_parts(f: &Fixture) {
    f.results.add_parts("full", &names(&["p"]), DAY).await.unwrap();
    f.execute("update holdfast_result_sets set count = 100000 where id = 'full'")
        .await;
    let refused = f.results.add_parts("full", &names(&["q"]), DAY).await;
    assert!(matches!(refused, Err(ResultsError::TooManyParts)));
    assert_eq!(
        f.results.parts("full", "", 10).await.unwrap().parts,
        ["p"],
        "nothing was added"
    );
}

async fn all_of_it(f: &Fixture) {
    versions_grow_and_a_finished_document_is_not_overwritten_by_a_late_write(f).await;
    a_part_counts_once_and_concurrent_adds_see_each_other(f).await;
    waiters_are_woken_by_writes_of_their_own_process_and_of_others(f).await;
    a_reader_of_a_channel_skips_nothing_and_hears_each_message_once_in_order(f).await;
    a_reader_is_told_what_it_missed(f).await;
    a_read_answers_eight_megabytes_and_names_what_is_left_out(f).await;
    a_set_has_at_most_a_hundred_thousand_parts(f).await;
    what_has_expired_is_shown_to_nobody_and_swept(f).await;
}

#[tokio::test]
async fn results_and_channels_on_postgres_and_redis() {
    let postgres = PostgresServer::start().await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    all_of_it(&Fixture::start(Some(&postgres), Some(&redis)).await).await;
}

#[tokio::test]
async fn results_and_channels_on_sqlite_without_redis() {
    all_of_it(&Fixture::start(None, None).await).await;
}

/// The lock of the channel is held until the commit: a message that commits late has the lower number, and nobody reads past it.
#[tokio::test]
async fn a_message_that_commits_late_is_not_skipped() {
    let postgres = PostgresServer::start().await.unwrap();
    let f = Fixture::start(Some(&postgres), None).await;
    let after = |seq: i64| BTreeMap::from([("slow".to_owned(), Some(seq))]);
    let first = f.results.post("slow", &["0".to_owned()], DAY).await.unwrap();
    let Database::Postgres(pool) = &f.database else {
        unreachable!()
    };
    // As a post does it, stopped before its commit.
    let mut late = pool.begin().await.unwrap();
    for text in [
        "update holdfast_channels set last_seq = last_seq + 1, bytes = bytes + 1 where name = 'slow'",
        "insert into holdfast_channel_messages (channel, seq, body, total_bytes, expires_at)
         select name, last_seq, '1', bytes, now() + interval '1 day' from holdfast_channels where name = 'slow'",
    ] {
        sqlx::query(text).execute(&mut *late).await.unwrap();
    }
    let next = {
        let results = f.results.clone();
        tokio::spawn(async move { results.post("slow", &["2".to_owned()], DAY).await })
    };
    let waits = async || {
        let text = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(text).fetch_one(pool).await.unwrap()
    };
    let patience = tokio::time::Instant::now() + PATIENCE;
    while waits().await == 0 {
        assert!(
            tokio::time::Instant::now() < patience,
            "the second post does not wait for the first"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        f.results.listen(&after(first), 10, Duration::ZERO).await.unwrap()["slow"]
            .messages
            .is_empty()
    );
    late.commit().await.unwrap();
    assert_eq!(next.await.unwrap().unwrap(), first + 2);
    let page = f.results.listen(&after(first), 10, Duration::ZERO).await.unwrap();
    let bodies: Vec<_> = page["slow"]
        .messages
        .iter()
        .map(|message| message.body.as_str())
        .collect();
    assert_eq!((bodies, page["slow"].missed), (vec!["1", "2"], false));
}
