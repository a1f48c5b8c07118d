//! A user goes: what was kept is exported, and nothing of it is left in any row of any table.

use chrono::TimeDelta;
use holdfast_core::clock;
use holdfast_core::sql::{self, Database};
use holdfast_events::NewEvent;
use holdfast_events::discovery::{Filter, Sources, Subscriptions};
use holdfast_events::interactions::{Action, Interaction};
use holdfast_events::recommend::MlRecommend;
use holdfast_jobs::State;
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter};
use holdfast_notify::mail::{NotifyDigest, NotifyEmail};
use holdfast_notify::notifications::Notice;
use holdfast_notify::preferences::Preferences;
use holdfast_notify::{AddressState, PreferenceError};
use holdfast_product::UserName;
use holdfast_product::{AccountId, AddressAuthority};
use holdfast_services::{DeleteOptions, DeletionReport, UserDataError};
use holdfast_testkit::Receiver;
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use crate::accounts::{People, on_both, quiet_now, to};
use crate::support::{by, notice};

const NAME: &str = "ada@example.org";
const ADDRESS: &str = "Lovelace@Example.net";
const SUBSCRIBED: &str = "Ada <Other@Example.com>";

/// What a user is found by, beside the id.
const KNOWN_BY: [&str; 3] = [NAME, ADDRESS, "other@example.com"];

on_both! {
    nothing_of_a_deleted_user_is_left_in_any_row,
    an_export_says_all_that_is_kept,
    mail_to_a_deleted_user_is_skipped_and_says_so,
    a_name_of_the_applications_own_is_exported_and_deleted_too,
    a_user_of_the_application_has_preferences_without_an_account,
    one_users_deletion_leaves_the_others,
    an_address_that_nobody_has_proven_is_neither_exported_nor_erased,
    what_an_operator_subscribes_owns_nothing,
    a_suppression_outlasts_the_user_whose_address_it_is,
    an_address_is_the_users_once_its_owner_confirms_it,
    an_address_of_an_older_release_gets_mail_and_owns_nothing,
    keys_of_an_older_release_are_their_makers,
    an_address_that_another_user_has_proven_too_keeps_its_records,
    nobody_is_flooded_with_confirmation_mails,
    who_could_do_more_than_read_stays_in_the_audit_log_by_id,
}

impl People {
    async fn event(&self, uid: &str) -> Ulid {
        let event = NewEvent {
            source: None,
            uid: uid.to_owned(),
            title: format!("Event {uid}"),
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
        self.recommender.events().upsert(&[event]).await.unwrap()[0].id
    }

    async fn interact(&self, user: &UserName, count: usize) {
        let event = self.event("one").await;
        let now = clock::now();
        let all: Vec<_> = (0..count)
            .map(|at| Interaction {
                user: user.clone(),
                event,
                action: Action::Save,
                at: now - TimeDelta::seconds(at as i64),
            })
            .collect();
        self.recommender.accept(&all).await.unwrap();
    }

    async fn subscribe(&self, user: &UserName, authority: AddressAuthority) {
        let sources = Sources::new(&self.f.settings, &self.f.database, self.f.jobs.clone());
        let subscriptions = Subscriptions::of(&sources);
        let filter = Filter::default();
        subscriptions
            .create(user.as_str(), Some(SUBSCRIBED), authority, &filter)
            .await
            .unwrap()
            .unwrap();
    }

    /// Every value of every row of every table, as text.
    async fn everything(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        match &self.f.database {
            Database::Postgres(pool) => {
                let tables: Vec<(String,)> =
                    sqlx::query_as("select tablename::text from pg_tables where schemaname = 'public'")
                        .fetch_all(pool)
                        .await
                        .unwrap();
                for (table,) in tables {
                    let text = format!("select to_jsonb(t)::text from \"{table}\" as t");
                    let rows: Vec<(String,)> = sqlx::query_as(sqlx::AssertSqlSafe(text))
                        .fetch_all(pool)
                        .await
                        .unwrap();
                    all.extend(rows.into_iter().map(|(row,)| (table.clone(), row)));
                }
            }
            Database::Sqlite(database) => {
                let pool = &database.writer;
                let columns: Vec<(String, String)> = sqlx::query_as(
                    "select t.name, c.name from sqlite_master as t, pragma_table_info(t.name) as c
                     where t.type = 'table'",
                )
                .fetch_all(pool)
                .await
                .unwrap();
                for (table, column) in columns {
                    let text = format!("select quote(\"{column}\") from \"{table}\"");
                    let rows: Vec<(String,)> = sqlx::query_as(sqlx::AssertSqlSafe(text))
                        .fetch_all(pool)
                        .await
                        .unwrap();
                    all.extend(rows.into_iter().map(|(row,)| (table.clone(), row)));
                }
            }
        }
        all
    }

    /// The tables and rows in which a user can be found, by id (in each of its spellings), name or address.
    async fn traces(&self, user: AccountId, others: &[&str]) -> Vec<(String, String)> {
        let uuid = Uuid::from_u128(Ulid::from_string(&user.to_string()).unwrap().0);
        let [id, hyphenated, simple] = [
            user.to_string(),
            uuid.hyphenated().to_string(),
            uuid.simple().to_string(),
        ];
        let mut needles = vec![&*id, &*hyphenated, &*simple];
        needles.extend(others);
        self.rows_with(&needles).await
    }

    /// The tables and rows in which one of these texts is found.
    async fn rows_with(&self, needles: &[&str]) -> Vec<(String, String)> {
        let needles: Vec<String> = needles.iter().map(|text| text.to_lowercase()).collect();
        let is_trace = |row: &str| {
            let row = row.to_lowercase();
            needles.iter().any(|needle| row.contains(needle))
        };
        let mut all = self.everything().await;
        all.retain(|(_, row)| is_trace(row));
        all
    }

    async fn exported(&self, user: &UserName) -> Value {
        let mut export = self.user_data.export(user).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = export.next().await.unwrap() {
            text.extend_from_slice(&piece);
        }
        serde_json::from_slice(&text).unwrap()
    }

    /// One of everything that may name a user.
    async fn full_life(&mut self, id: AccountId) -> Receiver {
        let (user, receiver): (UserName, _) =
            (id.to_string().parse().unwrap(), Receiver::start().await.unwrap());
        let own = AuditContext::new(Actor::user(id));
        self.prefer(
            id,
            json!({"address": ADDRESS, "topics": {"news": {"email": "digest"}}}),
        )
        .await;
        self.interact(&user, 3).await;
        self.subscribe(&user, AddressAuthority::Admin).await;
        // Mail of both addresses, sent, failed, suppressed, and put aside.
        assert!(self.send(to(id, "offers")).await.sent);
        assert!(self.send(to(id, "news")).await.skipped.is_some());
        for address in KNOWN_BY {
            let job = NotifyEmail {
                to: Some(format!("Ada <{address}>")),
                ..to(id, "list")
            };
            assert!(self.send(job.clone()).await.sent);
            self.mail()
                .suppress(&own, address, Some("list"), "no")
                .await
                .unwrap();
            let delayed = self
                .f
                .jobs
                .enqueue(job)
                .delay(std::time::Duration::from_secs(600));
            delayed
                .idempotency_key(format!("user-{id}/{address}"))
                .enqueued_by(format!("user/{id}"))
                .await
                .unwrap();
        }
        let hour = std::time::Duration::from_secs(3_600);
        let later = self.f.jobs.enqueue(to(id, "offers")).delay(hour);
        let later = later.unique(id.to_string()).limit_key(NAME).tags([NAME]);
        later.await.unwrap();
        let digest = self.f.jobs.enqueue(NotifyDigest { user: id.into() }).delay(hour);
        digest.unique(id.to_string()).await.unwrap();
        self.f
            .jobs
            .enqueue(MlRecommend { user })
            .delay(hour)
            .await
            .unwrap();
        // A webhook that was told, and one that will be.
        self.f.endpoint(&receiver.url("/hook"), &["event.*"]).await;
        let about = |key: &str| Notice {
            key: Some(format!("user-{id}/{key}")),
            ..notice("event.discovered", &json!({"user": id, "title": "x"}), None)
        };
        self.f.notices.publish(&about("told")).await.unwrap();
        self.f.work();
        self.f.only_job("notify.webhook").await;
        self.f.stop().await;
        self.f.notices.publish(&about("later")).await.unwrap();
        receiver
    }
}

fn user_of(id: AccountId) -> UserName {
    id.into()
}

async fn nothing_of_a_deleted_user_is_left_in_any_row(mut people: People) {
    let id = people.user(NAME).await;
    let _receiver = people.full_life(id).await;
    let before = people.traces(id, &KNOWN_BY).await;
    let mut tables: Vec<_> = before.iter().map(|(table, _)| table.as_str()).collect();
    tables.dedup();
    for table in [
        "holdfast_users",
        "holdfast_preferences",
        "holdfast_interactions",
        "holdfast_subscriptions",
        "holdfast_mails",
        "holdfast_mail_suppressions",
        "holdfast_mail_tokens",
        "holdfast_digest_items",
        "holdfast_jobs",
        "holdfast_webhook_deliveries",
        "holdfast_notices",
        "holdfast_audit",
    ] {
        assert!(tables.contains(&table), "{table} is not tried: {tables:?}");
    }
    let own = AuditContext::new(Actor::user(id));
    let done = people
        .user_data
        .delete(&own, &user_of(id), DeleteOptions::default())
        .await
        .unwrap();
    let expected = DeletionReport {
        account: true,
        interactions: 3,
        subscriptions: 1,
        mail: done.mail,
        deliveries: 1,
        jobs: 8,
        audit: done.audit,
        keys: 0,
        others: std::collections::BTreeMap::new(),
    };
    assert_eq!(done, expected);
    assert!(done.mail >= 8 && done.audit >= 3, "{done:?}");
    let after = people.traces(id, &KNOWN_BY).await;
    assert!(after.is_empty(), "{after:#?}");
    let filter = AuditFilter {
        action: Some("user.delete".to_owned()),
        limit: 10,
        ..AuditFilter::default()
    };
    let audited = people.f.jobs.audit().list(&filter).await.unwrap();
    assert_eq!(audited.len(), 1);
    assert_eq!(
        (audited[0].actor.as_str(), audited[0].target.as_deref()),
        ("user/deleted", Some("deleted"))
    );
    let again = people
        .user_data
        .delete(&own, &user_of(id), DeleteOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(again, UserDataError::Unknown(_)), "{again}");
    let gone = people.user_data.export(&user_of(id)).await.unwrap_err();
    assert!(matches!(gone, UserDataError::Unknown(_)), "{gone}");
}

async fn an_export_says_all_that_is_kept(mut people: People) {
    let id = people.user(NAME).await;
    let _receiver = people.full_life(id).await;
    // More than a page.
    people.interact(&user_of(id), 1_001).await;
    let told = people.exported(&user_of(id)).await;
    assert_eq!(told["account"]["name"], NAME);
    assert_eq!(told["preferences"]["address"], ADDRESS);
    let count = |name: &str| told[name].as_array().unwrap().len();
    // Three were before, one of which is the same moment again or not: each moment is its own.
    assert!(
        (1_001..=1_004).contains(&count("interactions")),
        "{}",
        count("interactions")
    );
    assert_eq!(
        [count("subscriptions"), count("suppressions"), count("digest")],
        [1, 3, 1]
    );
    assert_eq!(count("mails"), 4, "{}", told["mails"]);
    assert!(told["recommendations"]["items"].is_array());
    let text = told.to_string();
    assert!(!text.contains("password") && !text.contains("token"), "{text}");
}

async fn mail_to_a_deleted_user_is_skipped_and_says_so(mut people: People) {
    let id = people.user(NAME).await;
    people
        .prefer(id, json!({"topics": {"news": {"email": "digest"}}}))
        .await;
    people.send(to(id, "news")).await;
    let jobs = [
        people.f.jobs.enqueue(to(id, "offers")).await.unwrap().id,
        people
            .f
            .jobs
            .enqueue(NotifyDigest { user: id.into() })
            .await
            .unwrap()
            .id,
    ];
    let sent = people.server.asked();
    people
        .user_data
        .delete(&by(), &user_of(id), DeleteOptions::default())
        .await
        .unwrap();
    people.f.work();
    for job in jobs {
        let ended = people.f.ended(job).await;
        assert_eq!(ended.state, State::Completed, "{ended:?}");
        let result: Value = serde_json::from_str(ended.result.unwrap().get()).unwrap();
        assert_eq!(result["skipped"], "the user was deleted");
    }
    people.f.stop().await;
    // One that a worker holds already, whose payload names the user still.
    let held = people.run(to(id, "offers")).await.unwrap();
    assert_eq!(held.skipped.as_deref(), Some("the user was deleted"));
    assert_eq!(people.server.asked(), sent);
}

async fn a_name_of_the_applications_own_is_exported_and_deleted_too(people: People) {
    let user: UserName = "user 17".parse().unwrap();
    let unknown = people
        .user_data
        .delete(&by(), &user, DeleteOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(unknown, UserDataError::Unknown(_)), "{unknown}");
    people.interact(&user, 2).await;
    people.subscribe(&user, AddressAuthority::Admin).await;
    let told = people.exported(&user).await;
    assert_eq!(
        (&told["account"], &told["user"]),
        (&Value::Null, &json!("user 17"))
    );
    assert_eq!(told["interactions"].as_array().unwrap().len(), 2);
    let done = people
        .user_data
        .delete(&by(), &user, DeleteOptions::default())
        .await
        .unwrap();
    let expected = DeletionReport {
        interactions: 2,
        subscriptions: 1,
        ..DeletionReport::default()
    };
    assert_eq!(done, expected);
    assert_eq!(
        people
            .recommender
            .interactions()
            .of_user(&user, 10)
            .await
            .unwrap(),
        []
    );
}

async fn a_user_of_the_application_has_preferences_without_an_account(people: People) {
    const NAME: &str = "shop/Zoë-7f3a";
    const ADDRESS: &str = "zoe@example.net";
    let user: UserName = NAME.parse().unwrap();
    let unset = people.preferences.preferences(&user).await.unwrap();
    assert_eq!(
        (unset.preferences, unset.address_state),
        (Preferences::default(), None)
    );
    assert_eq!(
        people.send(to(user.clone(), "news")).await.skipped.as_deref(),
        Some("the user has no confirmed mail address")
    );
    let wanted =
        json!({"address": ADDRESS, "topics": {"news": {"email": "digest"}, "offers": {"email": "off"}}});
    people.prefer(user.clone(), wanted.clone()).await;
    let stored = people.preferences.preferences(&user).await.unwrap();
    assert_eq!(stored.address_state, Some(AddressState::Confirmed));
    let skipped = async |list: &str| people.send(to(user.clone(), list)).await.skipped;
    assert_eq!(skipped("news").await.as_deref(), Some("put aside for the digest"));
    assert_eq!(
        skipped("offers").await.as_deref(),
        Some("the user wants no mail of this list")
    );
    assert_eq!(skipped("events").await, None);
    // The digest comes when it is due, and not in quiet hours.
    let due = people.f.ago(1);
    let all_due = format!("update holdfast_digest_items set due_at = {due}");
    assert_eq!(people.f.sql(&all_due).await, 1);
    assert_eq!(people.mail().make_due_digests().await.unwrap(), 1);
    let jobs = people.f.jobs_of("notify.digest").await;
    assert_eq!(jobs[0].payload.get(), json!({ "user": NAME }).to_string());
    let mut quiet = wanted.clone();
    quiet["quiet_hours"] = quiet_now();
    people.prefer(user.clone(), quiet).await;
    people.run(to(user.clone(), "events")).await.unwrap_err();
    people.run(NotifyDigest { user: user.clone() }).await.unwrap_err();
    people.prefer(user.clone(), wanted).await;
    assert!(people.digest(user.clone()).await.sent);
    let sent: Vec<_> = people
        .server
        .mails()
        .into_iter()
        .map(|mail| mail.to.clone())
        .collect();
    assert_eq!(sent, [ADDRESS, ADDRESS]);
    // It is exported, and nothing of it is left after the deletion.
    skipped("news").await;
    people.f.jobs.enqueue(to(user.clone(), "events")).await.unwrap();
    let told = people.exported(&user).await;
    assert_eq!(
        (&told["account"], &told["preferences"]["address"]),
        (&Value::Null, &json!(ADDRESS))
    );
    let count = |name: &str| told[name].as_array().unwrap().len();
    assert_eq!((count("digest"), count("mails")), (1, 2), "{told}");
    let options = DeleteOptions::default();
    let done = people.user_data.delete(&by(), &user, options).await.unwrap();
    assert_eq!(
        (done.account, done.others["preferences"], done.jobs),
        (false, 1, 2),
        "{done:?}"
    );
    let left = people.rows_with(&[NAME, ADDRESS]).await;
    assert!(left.is_empty(), "{left:#?}");
    let again = people.user_data.delete(&by(), &user, options).await.unwrap_err();
    assert!(matches!(again, UserDataError::Unknown(_)), "{again}");
    // An account is meant by its id: its name is refused, and only an admin stores a user.
    let ada = people.user("ada@example.org").await;
    let name: UserName = "ada@example.org".parse().unwrap();
    for refused in [
        people.preferences.preferences(&name).await.map(drop),
        people
            .set(name.clone(), json!({}), AddressAuthority::Admin)
            .await
            .map(drop),
    ] {
        let Err(PreferenceError::NameOfAccount { id, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(id, ada);
    }
    let unknown = people.set(user, json!({}), AddressAuthority::User).await;
    assert!(matches!(unknown, Err(PreferenceError::Unknown(_))), "{unknown:?}");
}

async fn one_users_deletion_leaves_the_others(people: People) {
    let (ada, bob) = (people.user(NAME).await, people.user("bob@example.org").await);
    for id in [ada, bob] {
        people.interact(&user_of(id), 2).await;
        people.subscribe(&user_of(id), AddressAuthority::Admin).await;
        people
            .prefer(id, json!({"topics": {"news": {"email": "digest"}}}))
            .await;
        assert!(people.send(to(id, "offers")).await.sent);
        people.send(to(id, "news")).await;
        people.f.jobs.enqueue(to(id, "offers")).await.unwrap();
    }
    let before = people.traces(bob, &["bob@example.org"]).await;
    people
        .user_data
        .delete(&by(), &user_of(ada), DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(people.traces(bob, &["bob@example.org"]).await, before);
}

const VICTIM: &str = "victim@customer.example";

impl People {
    /// A customer without an account, who was sent a mail, has left a list, and is to be sent another mail tomorrow.
    async fn customer(&self, address: &str) -> holdfast_jobs::JobId {
        let mail = |list: Option<&str>| NotifyEmail {
            to: Some(address.to_owned()),
            user: None,
            template: "hello".to_owned(),
            data: json!({"name": "You"}),
            list: list.map(str::to_owned),
            reply_to: None,
            key: None,
        };
        assert!(self.send(mail(Some("news"))).await.sent);
        self.mail()
            .suppress(&by(), address, Some("promo"), "complained to the regulator")
            .await
            .unwrap();
        let day = std::time::Duration::from_secs(86_400);
        let waits = self.f.jobs.enqueue(mail(None)).delay(day).await.unwrap();
        waits.id
    }

    /// The link of the confirmation mail.
    async fn link(&self) -> Option<String> {
        let jobs = self.f.jobs_of("notify.email").await;
        jobs.iter().find_map(|job| {
            let payload: Value = serde_json::from_str(job.payload.get()).unwrap();
            let is_ours = payload["template"] == "address.confirm";
            is_ours.then(|| payload["data"]["link"].as_str().unwrap().to_owned())
        })
    }

    async fn payload_of(&self, id: holdfast_jobs::JobId) -> String {
        let jobs = self.f.jobs_of("notify.email").await;
        let job = jobs.into_iter().find(|job| job.id == id).unwrap();
        job.payload.get().to_owned()
    }
}

fn token_of(link: &str) -> &str {
    link.rsplit('/').next().unwrap()
}

async fn an_address_that_nobody_has_proven_is_neither_exported_nor_erased(people: People) {
    let waiting = people.customer(VICTIM).await;
    let before = people.payload_of(waiting).await;
    let mallory = people.user("mallory").await;
    let state = people
        .set(mallory, json!({"address": VICTIM}), AddressAuthority::User)
        .await
        .unwrap();
    assert_eq!(state, Some(AddressState::Unconfirmed));
    let told = people.exported(&user_of(mallory)).await;
    assert_eq!((&told["mails"], &told["suppressions"]), (&json!([]), &json!([])));
    // Nothing but the question goes there.
    let skipped = people.send(to(mallory, "news")).await.skipped;
    assert_eq!(skipped.as_deref(), Some("the user has no confirmed mail address"));
    let done = people
        .user_data
        .delete(
            &AuditContext::new(Actor::user(mallory)),
            &user_of(mallory),
            DeleteOptions::default(),
        )
        .await
        .unwrap();
    // The question, which names the user.
    assert_eq!((done.mail, done.jobs), (0, 1));
    let kept = people.mail().suppressions(None, 10).await.unwrap();
    assert_eq!((kept.len(), kept[0].address.as_str()), (1, VICTIM));
    let after = people.payload_of(waiting).await;
    assert_eq!(after, before);
}

async fn what_an_operator_subscribes_owns_nothing(people: People) {
    people.customer("other@example.com").await;
    let operator = people.user("operator").await;
    people.subscribe(&user_of(operator), AddressAuthority::User).await;
    let told = people.exported(&user_of(operator)).await;
    assert_eq!((&told["mails"], &told["suppressions"]), (&json!([]), &json!([])));
    let done = people
        .user_data
        .delete(&by(), &user_of(operator), DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!((done.subscriptions, done.mail, done.jobs), (1, 0, 0));
    assert_eq!(people.mail().suppressions(None, 10).await.unwrap().len(), 1);
}

async fn a_suppression_outlasts_the_user_whose_address_it_is(people: People) {
    let ada = people.user("ada@b\u{fc}cher.example").await;
    let mail = |list: Option<&str>| NotifyEmail {
        to: Some("Ada <ADA@xn--bcher-kva.example>".to_owned()),
        user: None,
        list: list.map(str::to_owned),
        ..to(ada, "offers")
    };
    assert!(people.send(mail(Some("offers"))).await.sent);
    let link = people
        .mail()
        .unsubscribe_link("ada@xn--bcher-kva.example", "later");
    let link = link.await.unwrap().unwrap();
    for list in [Some("offers"), None] {
        let spelling = "ada@bu\u{308}cher.example";
        people.mail().suppress(&by(), spelling, list, "no").await.unwrap();
    }
    people
        .user_data
        .delete(&by(), &user_of(ada), DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(people.traces(ada, &["cher"]).await, []);
    for list in [Some("offers"), Some("news"), None] {
        assert!(people.send(mail(list)).await.skipped.is_some(), "{list:?}");
    }
    // A link of before goes on to work.
    let token = token_of(&link).to_owned();
    assert!(people.mail().unsubscribe(&token).await.unwrap().is_some());
    // An admin's word ends it.
    let spelling = "ada@b\u{fc}cher.example";
    people.mail().release(&by(), spelling, None).await.unwrap();
    assert!(people.send(mail(Some("news"))).await.sent);
    assert!(people.send(mail(Some("offers"))).await.skipped.is_some());
    assert!(people.send(mail(Some("later"))).await.skipped.is_some());
}

async fn an_address_is_the_users_once_its_owner_confirms_it(people: People) {
    let ada = people.user("ada").await;
    people.customer(VICTIM).await;
    let state = people
        .set(ada, json!({"address": VICTIM}), AddressAuthority::User)
        .await;
    assert_eq!(state.unwrap(), Some(AddressState::Unconfirmed));
    let link = people.link().await.unwrap();
    let token = token_of(&link);
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    let forged = format!("{}{last}", &token[..token.len() - 1]);
    for odd in ["", "x", &forged, &token[1..]] {
        assert_eq!(people.preferences.confirm(odd).await.unwrap(), None, "{odd}");
    }
    let asked = people.preferences.confirmation(token).await.unwrap().unwrap();
    assert_eq!((asked.user.as_str(), asked.address.as_str()), ("ada", VICTIM));
    let state = people
        .preferences
        .preferences(&ada.into())
        .await
        .unwrap()
        .address_state;
    assert_eq!(state, Some(AddressState::Unconfirmed), "asking changes nothing");
    for _ in 0..2 {
        assert!(people.preferences.confirm(token).await.unwrap().is_some());
    }
    let state = people
        .preferences
        .preferences(&ada.into())
        .await
        .unwrap()
        .address_state;
    assert_eq!(state, Some(AddressState::Confirmed));
    assert!(people.send(to(ada, "news")).await.sent);
    let told = people.exported(&user_of(ada)).await;
    assert_eq!(told["suppressions"][0]["list"], "promo");
    // Another one is asked for, and mail goes on to the one before.
    let other = json!({"address": "new@example.com"});
    people.set(ada, other, AddressAuthority::User).await.unwrap();
    assert!(people.send(to(ada, "news")).await.sent);
    let last = people.server.mails().pop().unwrap();
    assert_eq!(last.to, VICTIM);
}

/// The rows of a release without these tables: migrations fill them.
async fn an_address_of_an_older_release_gets_mail_and_owns_nothing(people: People) {
    let ada = people.user("ada").await;
    people.customer(VICTIM).await;
    people
        .set(ada, json!({"address": VICTIM}), AddressAuthority::User)
        .await
        .unwrap();
    people
        .f
        .sql("delete from holdfast_addresses; delete from holdfast_migrations where version = 24")
        .await;
    let report = sql::migrate(&people.f.settings.database).await.unwrap();
    assert_eq!(report.applied, ["0024_earlier_addresses"]);
    let state = people
        .preferences
        .preferences(&ada.into())
        .await
        .unwrap()
        .address_state;
    assert_eq!(state, Some(AddressState::Earlier));
    assert!(people.send(to(ada, "news")).await.sent);
    let exported = people.exported(&user_of(ada)).await;
    assert_eq!(exported["suppressions"], json!([]));
}

/// The audit log of a release that did not store who made a key.
async fn keys_of_an_older_release_are_their_makers(people: People) {
    let ada = people.user("ada").await;
    let actor = format!("user/{ada}");
    let is_postgres = matches!(people.f.database, Database::Postgres(_));
    let (uuid, bytes, now) = if is_postgres {
        ("'", "'\\x", "now()")
    } else {
        ("x'", "x'", "cast(unixepoch('subsec') * 1000 as integer)")
    };
    // Who made the second one, no entry says.
    for (number, name) in [(1, "old"), (2, "other")] {
        let key = format!(
            "insert into holdfast_api_keys (id, name, hash, scopes, created_at)
             values ({uuid}{number:032}', '{name}', {bytes}{number:02}', 'read', {now})"
        );
        people.f.sql(&key).await;
    }
    let entry = format!(
        "insert into holdfast_audit (id, at, actor, action, details)
         values ({uuid}{:032}', {now}, '{actor}', 'key.create', '{{\"name\":\"old\"}}')",
        3
    );
    people.f.sql(&entry).await;
    people
        .f
        .sql("delete from holdfast_migrations where version = 25")
        .await;
    let report = sql::migrate(&people.f.settings.database).await.unwrap();
    assert_eq!(report.applied, ["0025_key_makers"]);
    let made = people.user_data.made_keys(&user_of(ada)).await.unwrap();
    let names: Vec<&str> = made.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["old"]);
}

async fn an_address_that_another_user_has_proven_too_keeps_its_records(people: People) {
    let (ada, bob) = (people.user("ada").await, people.user("bob").await);
    people.customer(VICTIM).await;
    for id in [ada, bob] {
        people.prefer(id, json!({"address": VICTIM})).await;
    }
    let (by, user) = (by(), user_of(ada));
    let done = people.user_data.delete(&by, &user, DeleteOptions::default());
    assert_eq!(done.await.unwrap().mail, 0);
    let kept = people.mail().suppressions(None, 10).await.unwrap();
    assert_eq!(kept[0].address, VICTIM);
}

async fn nobody_is_flooded_with_confirmation_mails(people: People) {
    let ada = people.user("ada").await;
    let count = async || {
        let text = "update holdfast_jobs set attempt = attempt where kind = 'notify.email'";
        people.f.sql(text).await
    };
    for _ in 0..3 {
        people
            .set(ada, json!({"address": VICTIM}), AddressAuthority::User)
            .await
            .unwrap();
    }
    assert_eq!(count().await, 1, "the same address is asked once");
    for number in 1..5 {
        let address = json!({"address": format!("v{number}@example.com")});
        people.set(ada, address, AddressAuthority::User).await.unwrap();
    }
    let refused = people
        .set(ada, json!({"address": "v6@example.com"}), AddressAuthority::User)
        .await;
    assert!(matches!(refused, Err(PreferenceError::Invalid(_))), "{refused:?}");
    assert_eq!(count().await, 5);
    // One address, many users.
    for number in 0..6 {
        let user = people.user(&format!("user{number}")).await;
        let set = people
            .set(user, json!({"address": VICTIM}), AddressAuthority::User)
            .await;
        assert_eq!(set.is_ok(), number < 4, "{number}: {set:?}");
    }
}

async fn who_could_do_more_than_read_stays_in_the_audit_log_by_id(people: People) {
    let (mallory, viewer) = (people.user("mallory").await, people.user("viewer").await);
    people
        .f
        .sql("update holdfast_users set role = 'admin' where name = 'mallory'")
        .await;
    for id in [mallory, viewer] {
        let own = AuditContext::new(Actor::user(id));
        people
            .mail()
            .suppress(&own, VICTIM, Some("a"), "no")
            .await
            .unwrap();
        people
            .user_data
            .delete(&own, &user_of(id), DeleteOptions::default())
            .await
            .unwrap();
    }
    let filter = AuditFilter {
        limit: 100,
        ..AuditFilter::default()
    };
    let audited = people.f.jobs.audit().list(&filter).await.unwrap();
    let by_id = |id: AccountId| {
        audited
            .iter()
            .filter(|entry| entry.actor.as_str() == format!("user/{id}"))
            .count()
    };
    assert_eq!((by_id(mallory), by_id(viewer)), (2, 0));
    let deleted = audited
        .iter()
        .find(|entry| entry.target == Some(mallory.to_string()))
        .unwrap();
    assert_eq!(deleted.action, "user.delete");
}
