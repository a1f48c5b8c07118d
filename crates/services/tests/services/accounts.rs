//! What users want to be sent: preferences, quiet hours, and digests.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use holdfast_cache::Cache;
use holdfast_core::clock;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::Database;
use holdfast_events::NewEvent;
use holdfast_events::discovery::{
    Announcer, EventChange, Filter, News, NewsAnnouncer, Sources, SubscriptionId, SubscriptionMatch,
    Subscriptions,
};
use holdfast_events::recommend::Recommender;
use holdfast_jobs::audit::AuditFilter;
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{Job, JobContext, JobError, JobId, Resources, State};
use holdfast_notify::mail::{
    DigestReport, MAX_DIGEST_ITEMS, Mail, MailReport, MailTemplate, NotifyDigest, NotifyEmail,
};
use holdfast_notify::preferences::{Preferences, PreferencesText};
use holdfast_notify::{AddressState, PreferenceError, PreferenceStore};
use holdfast_product::{AccountId, AddressAuthority, Process, UserName};
use holdfast_services::{DeleteOptions, UserData};
use holdfast_testkit::{SmtpServer, eventually};
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use crate::support::{DEADLINE, Fixture, by};

/// A database with users, and a mail server.
pub(crate) struct People {
    pub(crate) f: Fixture,
    pub(crate) server: SmtpServer,
    pub(crate) preferences: PreferenceStore,
    pub(crate) user_data: UserData,
    pub(crate) recommender: Recommender,
}

impl People {
    pub(crate) async fn start(postgres: bool) -> Self {
        let server = SmtpServer::start().await.unwrap();
        let f = Fixture::mailing(postgres, &server, &[]).await;
        let gate = RedisGate::open(Role::Cache, None, &f.settings.redis).unwrap();
        let cache = Cache::open(gate, &f.settings.cache);
        let recommender = Recommender::new(&f.settings, &f.database, &cache);
        let process = Process {
            settings: &f.settings,
            database: &f.database,
            jobs: &f.jobs,
        };
        let preferences = PreferenceStore::new(&f.settings, &f.database, f.jobs.clone());
        let user_data = UserData::new(process, &cache);
        let people = Self {
            f,
            server,
            preferences,
            user_data,
            recommender,
        };
        people.template("hello", "Hello {{ name }}").await;
        people
    }

    pub(crate) fn mail(&self) -> &Mail {
        self.f.notices.mail()
    }

    pub(crate) async fn template(&self, name: &str, subject: &str) {
        let template = MailTemplate {
            subject: subject.to_owned(),
            text: "Dear {{ name }},\nall is well.".to_owned(),
            html: None,
        };
        self.mail().put_template(&by(), name, &template).await.unwrap();
    }

    /// An account of this name.
    pub(crate) async fn user(&self, name: &str) -> AccountId {
        let id = Ulid::from_parts(clock::unix_millis(), rand::random());
        let uuid = Uuid::from_u128(id.0);
        match &self.f.database {
            Database::Postgres(pool) => {
                let text = "insert into holdfast_users (id, name, password_hash, role) values ($1, $2, 'x', 'viewer')";
                sqlx::query(text)
                    .bind(uuid)
                    .bind(name)
                    .execute(pool)
                    .await
                    .unwrap();
            }
            Database::Sqlite(database) => {
                let text =
                    "insert into holdfast_users (id, name, password_hash, role, created_at, updated_at)
                    values ($1, $2, 'x', 'viewer', 0, 0)";
                let query = sqlx::query(text).bind(uuid).bind(name);
                query.execute(&database.writer).await.unwrap();
            }
        }
        id.to_string().parse().unwrap()
    }

    /// As an admin sets them.
    pub(crate) async fn prefer(&self, user: impl Into<UserName>, text: Value) {
        self.set(user, text, AddressAuthority::Admin).await.unwrap();
    }

    /// As an admin or the user sets them.
    pub(crate) async fn set(
        &self,
        user: impl Into<UserName>,
        text: Value,
        authority: AddressAuthority,
    ) -> Result<Option<AddressState>, PreferenceError> {
        let text: PreferencesText = serde_json::from_value(text).unwrap();
        let preferences = Preferences::parse(text).unwrap();
        let by = by();
        self.preferences
            .set_preferences(&by, &user.into(), &preferences, authority)
            .await
    }

    pub(crate) async fn run<J: Job>(&self, job: J) -> Result<J::Output, JobError> {
        job.validate().unwrap();
        let resources = Resources::default().with(self.mail().clone());
        let context = JobContext::detached(JobId::generate(), 1, 4, resources);
        job.run(context).await
    }

    pub(crate) async fn send(&self, job: NotifyEmail) -> MailReport {
        self.run(job).await.unwrap()
    }

    pub(crate) async fn digest(&self, user: impl Into<UserName>) -> DigestReport {
        self.run(NotifyDigest { user: user.into() }).await.unwrap()
    }

    async fn waiting(&self) -> u64 {
        self.f.sql("update holdfast_digest_items set list = list").await
    }
}

/// A mail of a list to a user.
pub(crate) fn to(user: impl Into<UserName>, list: &str) -> NotifyEmail {
    NotifyEmail {
        to: None,
        user: Some(user.into()),
        template: "hello".to_owned(),
        data: json!({"name": "Ada"}),
        list: Some(list.to_owned()),
        reply_to: None,
        key: None,
    }
}

fn keyed(user: impl Into<UserName>, list: &str, key: &str) -> NotifyEmail {
    NotifyEmail {
        key: Some(key.to_owned()),
        ..to(user, list)
    }
}

/// Quiet hours that began an hour ago and end in an hour.
pub(crate) fn quiet_now() -> Value {
    let hour = |hours: i64| {
        (clock::now() + TimeDelta::hours(hours))
            .format("%H:%M")
            .to_string()
    };
    json!({"from": hour(-1), "until": hour(1)})
}

macro_rules! on_both {
    ($($name:ident,)+) => {
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::accounts::People::start(true).await).await;
            })+
        }

        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::accounts::People::start(false).await).await;
            })+
        }
    };
}
pub(crate) use on_both;

on_both! {
    mail_goes_where_its_user_wants_it,
    a_list_that_is_off_is_skipped_and_mail_of_no_list_is_not,
    quiet_hours_put_mail_off_and_spend_no_attempt,
    what_is_put_aside_is_one_mail_when_it_is_due,
    a_digest_whose_end_was_not_noted_is_the_same_mail,
    a_digest_leaves_out_what_is_off_by_now,
    a_digest_is_bounded,
    news_of_events_are_what_their_users_want,
    preferences_are_of_users_who_are_there,
}

async fn mail_goes_where_its_user_wants_it(people: People) {
    let (ada, bob) = (people.user("ada@example.org").await, people.user("bob").await);
    assert!(people.send(to(ada, "news")).await.sent);
    let nowhere = people.send(to(bob, "news")).await;
    assert_eq!(
        nowhere.skipped.as_deref(),
        Some("the user has no confirmed mail address")
    );
    people.template("hello.de", "Hallo {{ name }}").await;
    people
        .prefer(
            ada,
            json!({"address": "Lovelace@example.org", "language": "de-AT"}),
        )
        .await;
    assert!(people.send(to(ada, "news")).await.sent);
    let given = NotifyEmail {
        to: Some("desk@example.org".to_owned()),
        ..to(ada, "news")
    };
    assert!(people.send(given).await.sent);
    let sent: Vec<_> = people
        .server
        .mails()
        .into_iter()
        .map(|mail| (mail.to.clone(), mail.header("Subject").unwrap()))
        .collect();
    let expected = [
        ("ada@example.org", "Hello Ada"),
        ("Lovelace@example.org", "Hallo Ada"),
        ("desk@example.org", "Hallo Ada"),
    ];
    assert_eq!(
        sent,
        expected.map(|(to, subject)| (to.to_owned(), subject.to_owned()))
    );
}

async fn a_list_that_is_off_is_skipped_and_mail_of_no_list_is_not(people: People) {
    let ada = people.user("ada@example.org").await;
    people
        .prefer(
            ada,
            json!({"email": "off", "topics": {"news": {"email": "on"}}, "quiet_hours": null}),
        )
        .await;
    let skipped = people.send(to(ada, "offers")).await;
    assert_eq!(
        (skipped.sent, skipped.skipped.as_deref()),
        (false, Some("the user wants no mail of this list"))
    );
    assert!(people.send(to(ada, "news")).await.sent);
    people
        .prefer(ada, json!({"email": "off", "quiet_hours": quiet_now()}))
        .await;
    let receipt = NotifyEmail {
        list: None,
        ..to(ada, "x")
    };
    assert!(
        people.send(receipt).await.sent,
        "nobody unsubscribes from a receipt"
    );
    assert_eq!(people.server.mails().len(), 2);
}

async fn quiet_hours_put_mail_off_and_spend_no_attempt(mut people: People) {
    let ada = people.user("ada@example.org").await;
    people.prefer(ada, json!({"quiet_hours": quiet_now()})).await;
    people.f.jobs.enqueue(to(ada, "news")).await.unwrap();
    people.f.work();
    let asleep = eventually(
        "the job is put off",
        DEADLINE,
        Duration::from_millis(20),
        || async {
            let job = people.f.jobs_of("notify.email").await.remove(0);
            (job.run_at > clock::now() + TimeDelta::minutes(30)).then_some(job)
        },
    )
    .await
    .unwrap();
    assert!(
        asleep.run_at <= clock::now() + TimeDelta::minutes(61),
        "{asleep:?}"
    );
    assert_eq!((asleep.attempt, asleep.errors.len()), (0, 0));
    assert_eq!(people.server.asked(), 0);
    // The quiet hours are over.
    people.prefer(ada, json!({})).await;
    let now = people.f.ago(1);
    people
        .f
        .sql(&format!("update holdfast_jobs set run_at = {now}"))
        .await;
    let ended = people.f.only_job("notify.email").await;
    assert_eq!((ended.state, ended.attempt), (State::Completed, 1));
    people.f.stop().await;
    assert_eq!(people.server.mails().len(), 1);
}

async fn what_is_put_aside_is_one_mail_when_it_is_due(mut people: People) {
    let ada = people.user("ada@example.org").await;
    people.prefer(ada, json!({"email": "digest"})).await;
    for (list, key) in [("news", "1"), ("events", "2"), ("news", "3"), ("news", "1")] {
        let aside = people.send(keyed(ada, list, key)).await;
        assert_eq!(
            (aside.sent, aside.skipped.as_deref()),
            (false, Some("put aside for the digest"))
        );
    }
    assert_eq!(people.waiting().await, 3, "under one key it is put aside once");
    assert_eq!(
        people.mail().make_due_digests().await.unwrap(),
        0,
        "it is not due"
    );
    let due = people.f.ago(1);
    people
        .f
        .sql(&format!("update holdfast_digest_items set due_at = {due}"))
        .await;
    assert_eq!(people.mail().make_due_digests().await.unwrap(), 1);
    assert_eq!(
        people.mail().make_due_digests().await.unwrap(),
        0,
        "it has its job"
    );
    people.f.work();
    let ended = people.f.only_job("notify.digest").await;
    assert_eq!(ended.state, State::Completed, "{ended:?}");
    people.f.stop().await;
    let [mail] = &people.server.mails()[..] else {
        panic!("not one mail")
    };
    assert_eq!(mail.header("Subject").as_deref(), Some("3 messages for you"));
    assert!(mail.header("List-Unsubscribe").is_some());
    assert_eq!(mail.data.matches("* Hello Ada").count(), 3, "{}", mail.data);
    assert!(mail.data.contains("<h2>events</h2>"), "{}", mail.data);
    assert_eq!(people.waiting().await, 0);
    assert_eq!(people.digest(ada).await.items, 0);
    assert_eq!(people.server.mails().len(), 1);
}

async fn a_digest_whose_end_was_not_noted_is_the_same_mail(people: People) {
    let ada = people.user("greylisted@example.org").await;
    people.prefer(ada, json!({"email": "digest"})).await;
    people.send(keyed(ada, "news", "1")).await;
    // It begins, and fails; what comes meanwhile waits for the next one.
    people.run(NotifyDigest { user: ada.into() }).await.unwrap_err();
    people.send(keyed(ada, "news", "2")).await;
    let resumed = people.run(NotifyDigest { user: ada.into() }).await.unwrap_err();
    assert!(
        resumed.to_string().contains("another job is sending"),
        "{resumed}"
    );
    let dead = people.f.ago(181);
    people
        .f
        .sql(&format!("update holdfast_mails set at = {dead}"))
        .await;
    assert_eq!(people.digest(ada).await.items, 1);
    assert_eq!(people.server.mails().len(), 1);
    // One that was sent, whose items are there still: it is not sent again.
    people.f.sql("update holdfast_digest_items set batch = id").await;
    let key = people.run(NotifyDigest { user: ada.into() }).await.unwrap();
    assert!(key.sent);
    assert_eq!((people.server.mails().len(), people.waiting().await), (2, 0));
    people.send(keyed(ada, "news", "3")).await;
    people.f.sql("update holdfast_digest_items set batch = id").await;
    let noted = match &people.f.database {
        Database::Postgres(pool) => noted_sent(pool).await,
        Database::Sqlite(database) => noted_sent_sqlite(&database.writer).await,
    };
    assert_eq!(noted, 1);
    let again = people.digest(ada).await;
    assert_eq!(again.skipped.as_deref(), Some("another job has sent it"));
    assert_eq!((people.server.mails().len(), people.waiting().await), (2, 0));
}

/// Notes the one open batch as sent, as its worker did before it died.
async fn noted_sent(pool: &holdfast_core::sql::PostgresDatabase) -> u64 {
    let (batch,): (Uuid,) = sqlx::query_as("select batch from holdfast_digest_items")
        .fetch_one(pool)
        .await
        .unwrap();
    let text = "insert into holdfast_mails (key, address, job_id, sent) values ($1, 'greylisted@example.org', $2, true)";
    let query = sqlx::query(text).bind(key_of(batch)).bind(batch);
    query.execute(pool).await.unwrap().rows_affected()
}

async fn noted_sent_sqlite(pool: &sqlx::SqlitePool) -> u64 {
    let (batch,): (Uuid,) = sqlx::query_as("select batch from holdfast_digest_items")
        .fetch_one(pool)
        .await
        .unwrap();
    let text = "insert into holdfast_mails (key, address, job_id, sent, at)
        values ($1, 'greylisted@example.org', $2, true, 0)";
    let query = sqlx::query(text).bind(key_of(batch)).bind(batch);
    query.execute(pool).await.unwrap().rows_affected()
}

fn key_of(batch: Uuid) -> String {
    format!("digest/{}", Ulid(batch.as_u128()))
}

async fn a_digest_leaves_out_what_is_off_by_now(people: People) {
    let ada = people.user("ada@example.org").await;
    people.prefer(ada, json!({"email": "digest"})).await;
    for (list, key) in [("news", "1"), ("events", "2"), ("offers", "3")] {
        people.send(keyed(ada, list, key)).await;
    }
    people
        .prefer(
            ada,
            json!({"email": "digest", "topics": {"news": {"email": "off"}}, "quiet_hours": quiet_now()}),
        )
        .await;
    people
        .mail()
        .suppress(&by(), "ada@example.org", Some("offers"), "by hand")
        .await
        .unwrap();
    let late = people.run(NotifyDigest { user: ada.into() }).await.unwrap_err();
    assert_eq!(late.class(), "snooze", "quiet hours hold for digests");
    people
        .prefer(
            ada,
            json!({"email": "digest", "topics": {"news": {"email": "off"}}}),
        )
        .await;
    let sent = people.digest(ada).await;
    assert_eq!((sent.sent, sent.items), (true, 1));
    let mails = people.server.mails();
    assert!(
        mails.len() == 1 && mails[0].data.contains("<h2>events</h2>"),
        "{mails:?}"
    );
    // Whoever unsubscribed from digests gets none, and nothing waits for ever.
    people.send(keyed(ada, "events", "4")).await;
    people
        .mail()
        .suppress(&by(), "ada@example.org", Some("digest"), "by hand")
        .await
        .unwrap();
    assert!(!people.digest(ada).await.sent);
    assert_eq!((people.server.mails().len(), people.waiting().await), (1, 0));
}

async fn a_digest_is_bounded(people: People) {
    let ada = people.user("ada@example.org").await;
    people.prefer(ada, json!({"email": "digest"})).await;
    for key in 0..MAX_DIGEST_ITEMS {
        people.send(keyed(ada, "news", &key.to_string())).await;
    }
    let beyond = people.send(keyed(ada, "news", "beyond")).await;
    assert_eq!(beyond.skipped.as_deref(), Some("the user's digest is full"));
    assert_eq!(people.waiting().await, MAX_DIGEST_ITEMS as u64);
    let sent = people.digest(ada).await;
    assert_eq!((sent.sent, sent.items), (true, MAX_DIGEST_ITEMS));
    assert_eq!(people.server.mails().len(), 1);
}

async fn preferences_are_of_users_who_are_there(people: People) {
    let ada = people.user("ada@example.org").await;
    assert_eq!(
        people
            .preferences
            .preferences(&ada.into())
            .await
            .unwrap()
            .preferences,
        Preferences::default()
    );
    let text = json!({"time_zone": "Europe/Vienna", "quiet_hours": {"from": "22:00", "until": "07:00"}});
    people.prefer(ada, text.clone()).await;
    let kept = people
        .preferences
        .preferences(&ada.into())
        .await
        .unwrap()
        .preferences;
    assert_eq!(
        kept,
        Preferences::parse(serde_json::from_value(text).unwrap()).unwrap()
    );
    let filter = AuditFilter {
        action: Some("user.update".to_owned()),
        limit: 10,
        ..AuditFilter::default()
    };
    let audited = people.f.jobs.audit().list(&filter).await.unwrap();
    assert_eq!(
        (audited.len(), audited[0].target.clone()),
        (1, Some(ada.to_string()))
    );
    let nobody: AccountId = "01JD3V0S7W8Q4M2XKZC5T9R6BH".parse().unwrap();
    let unknown = people.preferences.preferences(&nobody.into()).await.unwrap_err();
    assert!(matches!(unknown, PreferenceError::Unknown(_)), "{unknown}");
    let unknown = people
        .preferences
        .set_preferences(&by(), &nobody.into(), &kept, AddressAuthority::User)
        .await;
    assert!(matches!(unknown, Err(PreferenceError::Unknown(_))), "{unknown:?}");
    let gone = people.send(to(nobody, "news")).await;
    assert_eq!(gone.skipped.as_deref(), Some("the user was deleted"));
}

async fn news_of_events_are_what_their_users_want(people: People) {
    let (ada, bob) = (people.user("ada").await, people.user("bob").await);
    people
        .prefer(
            ada,
            json!({"webhook": "off", "topics": {"event.news": {"email": "digest"}}}),
        )
        .await;
    let application: UserName = "user 17".parse().unwrap();
    people
        .prefer(application.clone(), json!({"webhook": "off"}))
        .await;
    people.f.endpoint("https://example.com/hook", &["event.*"]).await;
    let event = NewEvent {
        source: None,
        uid: "1".to_owned(),
        title: "Jazz".to_owned(),
        description: None,
        url: None,
        category: None,
        starts_at: clock::now() + TimeDelta::days(3),
        ends_at: None,
        time_zone: None,
        position: None,
        place: None,
        cancelled: false,
    };
    // The last but one is no account, though it looks like one.
    let users = [
        ada.to_string(),
        bob.to_string(),
        "01JD3V0S7W8Q4M2XKZC5T9R6BH".to_owned(),
        application.to_string(),
    ];
    let sources = Sources::new(&people.f.settings, &people.f.database, people.f.jobs.clone());
    let subscriptions = Subscriptions::of(&sources);
    let mut wishes = Vec::new();
    for user in &users {
        let email = Some("all@example.org");
        let made = subscriptions
            .create(user, email, AddressAuthority::User, &Filter::default())
            .await;
        wishes.push(SubscriptionMatch {
            subscription: made.unwrap().unwrap().id,
            user: user.clone(),
            email: email.map(str::to_owned),
        });
    }
    // Deleted since the run began.
    wishes.push(SubscriptionMatch {
        subscription: SubscriptionId::generate(),
        user: "gone".to_owned(),
        email: Some("gone@example.org".to_owned()),
    });
    let news = [News {
        happened: EventChange::Discovered,
        id: Ulid(rand::random()),
        event: &event,
        wanted: wishes.iter().collect(),
    }];
    let sql = Sql::new(&people.f.database, &people.f.settings.database);
    let announcer = NewsAnnouncer::new(&people.f.settings, Arc::new(people.f.notices.clone()));
    let mut tx = sql.begin().await.unwrap();
    announcer.announce(tx.on(), &news).await.unwrap();
    tx.commit().await.unwrap();
    let payloads = async |kind: &str| -> Vec<Value> {
        let jobs = people.f.jobs_of(kind).await;
        jobs.iter()
            .map(|job| serde_json::from_str(job.payload.get()).unwrap())
            .collect()
    };
    let [webhook] = &payloads("notify.webhook").await[..] else {
        panic!("not one webhook")
    };
    let named = webhook["data"]["subscriptions"].as_array().unwrap();
    let named: Vec<_> = named.iter().map(|one| one["user"].as_str().unwrap()).collect();
    assert_eq!(named, users[1..3]);
    let mails = payloads("notify.email").await;
    let readers: HashSet<Option<&str>> = mails.iter().map(|mail| mail["user"].as_str()).collect();
    let user = |at: usize| Some(users[at].as_str());
    let expected = [user(0), user(1), None, user(3)];
    assert_eq!((mails.len(), readers), (4, HashSet::from(expected)));
    let aside = mails.iter().find(|mail| mail["user"] == users[0]).unwrap();
    let aside: NotifyEmail = serde_json::from_value(aside.clone()).unwrap();
    let aside = people.send(aside).await;
    assert_eq!(aside.skipped.as_deref(), Some("put aside for the digest"));
    // What named them names nobody once they are gone.
    for user in &users[1..] {
        people
            .user_data
            .delete(&by(), &user.parse().unwrap(), DeleteOptions::default())
            .await
            .unwrap();
    }
    let [webhook] = &payloads("notify.webhook").await[..] else {
        panic!("not one webhook")
    };
    let told = webhook.to_string();
    assert!(!told.contains(&users[1]) && !told.contains(&users[2]), "{told}");
}
