//! Who hears of what a run finds, and that all of it is one transaction.

use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_events::discovery::NewsAnnouncer;
use holdfast_notify::notifications::Notices;
use holdfast_notify::webhooks::{WebhookDraft, WebhookId};
use holdfast_product::AddressAuthority;
use serde_json::Value;

use super::*;

on_both! {
    subscriptions_hear_of_what_they_want_and_of_nothing_else
    what_changes_reaches_the_endpoints_that_listen_and_the_addresses_that_subscribed
    what_cannot_be_told_is_not_stored_either
    changes_of_a_source_are_in_the_audit_log
}

async fn subscriptions_hear_of_what_they_want_and_of_nothing_else(f: Fixture) {
    let title = Arc::new(Mutex::new("Jazz in the park"));
    let current = Arc::clone(&title);
    let server = Server::start(move |_: &Request| {
        let title = *current.lock().unwrap();
        Reply::new(200, &[], calendar(&[("a", title), ("b", "Blues")]))
    })
    .await;
    let subscriptions = Subscriptions::of(&f.sources);
    let filters = [
        ("all", Filter::default()),
        (
            "text",
            Filter {
                text: Some("PARK jazz".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "other-text",
            Filter {
                text: Some("jazz opera".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "category",
            Filter {
                category: Some("City".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "other-category",
            Filter {
                category: Some("sport".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "near",
            Filter {
                lat: Some(48.21),
                lon: Some(16.38),
                within_km: Some(5.0),
                ..Filter::default()
            },
        ),
        (
            "far",
            Filter {
                lat: Some(47.07),
                lon: Some(15.44),
                within_km: Some(50.0),
                ..Filter::default()
            },
        ),
    ];
    for (user, filter) in &filters {
        assert_eq!(filter.faults(), []);
        subscriptions
            .create(user, None, AddressAuthority::User, filter)
            .await
            .unwrap()
            .unwrap();
    }
    let id = f.source("calendar", SourceKind::Ical, &server.url("/")).await;
    f.discover(id).await;
    let heard = |f: &Fixture| -> Vec<String> {
        let mut heard = std::mem::take(&mut *f.ear.0.lock().unwrap());
        heard.sort();
        heard
    };
    let both =
        |user: &str| ["Blues", "Jazz in the park"].map(|title| format!("{user} event.discovered {title}"));
    let mut expected: Vec<String> = [both("all"), both("category"), both("near")].concat();
    expected.push("text event.discovered Jazz in the park".to_owned());
    assert_eq!(heard(&f), expected);
    *title.lock().unwrap() = "Opera, and jazz";
    f.discover(id).await;
    let changed =
        ["all", "category", "near", "other-text"].map(|user| format!("{user} event.changed Opera, and jazz"));
    assert_eq!(heard(&f), changed);
    assert_eq!(f.shown(id).await.report.unwrap().notices, 4);
    f.discover(id).await;
    assert_eq!(heard(&f), Vec::<String>::new());
    let listed = subscriptions.list(Some("near"), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(subscriptions.delete(listed[0].id).await.unwrap());
    assert!(!subscriptions.delete(listed[0].id).await.unwrap());
    assert_eq!(subscriptions.forget("far").await.unwrap(), 1);
    assert_eq!(
        subscriptions.list(None, None, 100).await.unwrap().len(),
        filters.len() - 2
    );
}

/// A calendar of one event for each `(uid, title, status)`.
fn with_statuses(events: &[(&str, &str, &str)]) -> String {
    let events: Vec<String> = events
        .iter()
        .map(|(uid, title, status)| {
            format!(
                "BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:{title}\r\nSTATUS:{status}\r\nDTSTART:20900601T180000Z\r\nEND:VEVENT\r\n"
            )
        })
        .collect();
    format!("BEGIN:VCALENDAR\r\n{}END:VCALENDAR\r\n", events.concat())
}

/// A server of one calendar, which a test may put another in place of.
async fn served(calendar: &str) -> (Server, Arc<Mutex<String>>) {
    let body = Arc::new(Mutex::new(calendar.to_owned()));
    let current = Arc::clone(&body);
    let server =
        Server::start(move |_: &Request| Reply::new(200, &[], current.lock().unwrap().as_bytes())).await;
    (server, body)
}

impl Fixture {
    fn notices(&self) -> Notices {
        Notices::new(&self.settings, &self.database, self.jobs.clone())
    }

    fn telling(&self, announcer: Arc<dyn Announcer>) -> Discoverer {
        let gate = RedisGate::open(Role::Cache, None, &self.settings.redis).unwrap();
        let cache = Cache::open(gate, &self.settings.cache);
        let events = Events::new(&self.settings, &self.database, &cache);
        let outbound = Outbound::new(&self.settings.http_request).unwrap();
        Discoverer::new(
            &self.settings,
            self.sources.clone(),
            events,
            &outbound,
            Some(announcer),
        )
    }

    async fn endpoint(&self, notices: &Notices, filters: &[&str]) -> WebhookId {
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        let draft = WebhookDraft::parse("http://127.0.0.1:1/", None, &filters, true).unwrap();
        notices
            .webhooks()
            .create(&by(), &draft, None)
            .await
            .unwrap()
            .webhook
            .id
    }

    /// The payloads of the jobs of a kind, oldest first.
    async fn payloads(&self, kind: &str) -> Vec<Value> {
        let filter = JobFilter {
            kind: Some(kind.to_owned()),
            limit: 100,
            ..JobFilter::default()
        };
        let mut jobs = self.jobs.list(&filter).await.unwrap();
        jobs.sort_by_key(|job| job.id);
        jobs.iter()
            .map(|job| serde_json::from_str(job.payload.get()).unwrap())
            .collect()
    }
}

/// Jobs of one moment are in no order.
fn sorted_by(mut payloads: Vec<Value>, field: &str) -> Vec<Value> {
    payloads.sort_by_key(|payload| payload[field].to_string());
    payloads
}

/// `endpoint type title users` of each delivery, sorted.
fn deliveries(payloads: &[Value], names: &[(WebhookId, &str)]) -> Vec<String> {
    let mut told: Vec<String> = payloads
        .iter()
        .map(|payload| {
            let endpoint = payload["webhook"].as_str().unwrap();
            let (_, name) = names.iter().find(|(id, _)| id.to_string() == endpoint).unwrap();
            let users = payload["data"]["subscriptions"].as_array().unwrap();
            let mut users: Vec<&str> = users.iter().map(|one| one["user"].as_str().unwrap()).collect();
            users.sort_unstable();
            let (what, title) = (&payload["type"], &payload["data"]["event"]["title"]);
            format!(
                "{name} {} {} {}",
                what.as_str().unwrap(),
                title.as_str().unwrap(),
                users.join("+")
            )
        })
        .collect();
    told.sort();
    told
}

async fn what_changes_reaches_the_endpoints_that_listen_and_the_addresses_that_subscribed(f: Fixture) {
    let calendar = with_statuses(&[("a", "Jazz", "CONFIRMED"), ("b", "Blues", "CONFIRMED")]);
    let (server, body) = served(&calendar).await;
    let notices = f.notices();
    let names = [
        (f.endpoint(&notices, &["event.*"]).await, "all"),
        (
            f.endpoint(&notices, &["event.cancelled", "order.paid"]).await,
            "off",
        ),
    ];
    let subscriptions = Subscriptions::of(&f.sources);
    let jazz = Filter {
        text: Some("jazz".to_owned()),
        ..Filter::default()
    };
    for (user, email, filter) in [
        ("anna", Some("anna@example.com"), &jazz),
        // The same address twice gets one mail.
        ("anna", Some("anna@example.com"), &Filter::default()),
        ("bob", None, &jazz),
        ("eve", Some("Eve <eve@example.com>"), &jazz),
    ] {
        subscriptions
            .create(user, email, AddressAuthority::User, filter)
            .await
            .unwrap()
            .unwrap();
    }
    let discoverer = f.telling(Arc::new(NewsAnnouncer::new(
        &f.settings,
        Arc::new(notices.clone()),
    )));
    let id = f.source("calendar", SourceKind::Ical, &server.url("/")).await;
    discoverer.discover(id).await.unwrap();
    let told = f.payloads("notify.webhook").await;
    assert_eq!(
        deliveries(&told, &names),
        [
            "all event.discovered Blues anna",
            "all event.discovered Jazz anna+anna+bob+eve"
        ]
    );
    let event = &told[0]["data"]["event"];
    assert_eq!(
        (&event["source"], &event["time_zone"], &event["cancelled"]),
        (&json!(id.to_string()), &json!("Europe/Vienna"), &json!(false))
    );
    let mails = sorted_by(f.payloads("notify.email").await, "to");
    let listed = |mail: &Value| -> Vec<String> {
        let events = mail["data"]["events"].as_array().unwrap();
        let line = |event: &Value| {
            format!(
                "{} {}",
                event["news"].as_str().unwrap(),
                event["title"].as_str().unwrap()
            )
        };
        events.iter().map(line).collect()
    };
    assert_eq!(mails.len(), 2, "{mails:?}");
    assert_eq!(mails[0]["to"], "Eve <eve@example.com>");
    assert_eq!(listed(&mails[0]), ["discovered Jazz"]);
    assert_eq!(mails[1]["to"], "anna@example.com");
    assert_eq!(listed(&mails[1]), ["discovered Jazz", "discovered Blues"]);
    let report = f.shown(id).await.report.unwrap();
    assert_eq!((report.notices, report.webhooks, report.mails), (5, 2, 2));

    // The same again is no news.
    discoverer.discover(id).await.unwrap();
    assert_eq!(f.payloads("notify.webhook").await.len(), 2);

    *body.lock().unwrap() =
        with_statuses(&[("a", "Jazz, outdoors", "CONFIRMED"), ("b", "Blues", "CANCELLED")]);
    discoverer.discover(id).await.unwrap();
    let told = f.payloads("notify.webhook").await.split_off(2);
    assert_eq!(
        deliveries(&told, &names),
        [
            "all event.cancelled Blues anna",
            "all event.changed Jazz, outdoors anna+anna+bob+eve",
            "off event.cancelled Blues anna",
        ]
    );
    let mails = sorted_by(f.payloads("notify.email").await.split_off(2), "to");
    assert_eq!(listed(&mails[1]), ["changed Jazz, outdoors", "cancelled Blues"]);
}

/// Tells, and then fails as long as it is said to.
struct FailingAnnouncer(NewsAnnouncer, AtomicBool);

impl Announcer for FailingAnnouncer {
    fn endpoints(&self) -> BoxFuture<'_, Result<usize, LedgerError>> {
        self.0.endpoints()
    }

    fn announce<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        news: &'a [News<'a>],
    ) -> BoxFuture<'a, Result<AnnouncementCounts, LedgerError>> {
        async move {
            let told = self.0.announce(tx, news).await?;
            assert_eq!(told.webhooks, 1);
            if self.1.load(Ordering::SeqCst) {
                return Err(LedgerError::TimedOut {
                    doing: "tell of it",
                    after: Duration::ZERO,
                });
            }
            Ok(told)
        }
        .boxed()
    }

    fn ring(&self, told: &AnnouncementCounts) {
        assert!(!self.1.load(Ordering::SeqCst), "nothing was committed");
        self.0.ring(told);
    }
}

async fn what_cannot_be_told_is_not_stored_either(f: Fixture) {
    let (server, _) = served(&calendar(&[("a", "Jazz")])).await;
    let notices = f.notices();
    f.endpoint(&notices, &["*"]).await;
    let failing = Arc::new(FailingAnnouncer(
        NewsAnnouncer::new(&f.settings, Arc::new(notices)),
        AtomicBool::new(true),
    ));
    let discoverer = f.telling(Arc::clone(&failing) as Arc<dyn Announcer>);
    let id = f.source("calendar", SourceKind::Ical, &server.url("/")).await;
    let error = discoverer.discover(id).await.unwrap_err();
    assert_eq!(error.class(), "transient", "{error}");
    assert_eq!(
        (f.stored().await, f.payloads("notify.webhook").await.len()),
        (0, 0)
    );
    failing.1.store(false, Ordering::SeqCst);
    assert_eq!(discoverer.discover(id).await.unwrap().inserted, 1);
    assert_eq!(
        (f.stored().await, f.payloads("notify.webhook").await.len()),
        (1, 1)
    );
}

async fn changes_of_a_source_are_in_the_audit_log(f: Fixture) {
    let url = "https://example.com/a.ics?token=secret";
    let id = f.source("calendar", SourceKind::Ical, url).await;
    let mut off = new_source("calendar", SourceKind::Ical, url);
    off.enabled = false;
    f.sources.replace(&by(), id, &off).await.unwrap();
    f.sources.delete(&by(), id).await.unwrap();
    // What did not happen is not there.
    assert!(f.sources.delete(&by(), id).await.is_err());
    let filter = AuditFilter {
        target: Some(id.to_string()),
        limit: 100,
        ..AuditFilter::default()
    };
    let mut entries = f.jobs.audit().list(&filter).await.unwrap();
    entries.reverse();
    let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["source.create", "source.update", "source.delete"]);
    assert!(entries.iter().all(|entry| entry.actor == "user/a test"));
    let details: Value = serde_json::from_str(entries[1].details.as_ref().unwrap().get()).unwrap();
    assert_eq!(
        (&details["enabled"], &details["url"], &details["name"]),
        (
            &json!(false),
            &json!("https://example.com/[redacted]"),
            &json!("calendar")
        )
    );
}

#[tokio::test]
async fn an_event_that_many_want_comes_as_several_messages_and_each_is_named_once() {
    let f = Fixture::start(None, None).await;
    let (server, _) = served(&calendar(&[("a", "Jazz")])).await;
    let notices = f.notices();
    f.endpoint(&notices, &["event.discovered"]).await;
    let subscriptions = Subscriptions::of(&f.sources);
    for user in 0..501 {
        let (user, everything) = (format!("user-{user}"), Filter::default());
        let made = subscriptions
            .create(&user, None, AddressAuthority::User, &everything)
            .await;
        made.unwrap().unwrap();
    }
    let discoverer = f.telling(Arc::new(NewsAnnouncer::new(&f.settings, Arc::new(notices))));
    let id = f.source("calendar", SourceKind::Ical, &server.url("/")).await;
    discoverer.discover(id).await.unwrap();
    let told = f.payloads("notify.webhook").await;
    let named: Vec<_> = told
        .iter()
        .map(|payload| payload["data"]["subscriptions"].as_array().unwrap())
        .collect();
    let mut lengths: Vec<usize> = named.iter().map(|users| users.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 500]);
    let mut users: Vec<&str> = named
        .iter()
        .flat_map(|users| users.iter().map(|one| one["user"].as_str().unwrap()))
        .collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), 501);
    let report = f.shown(id).await.report.unwrap();
    assert_eq!((report.notices, report.webhooks, report.mails), (501, 2, 0));
}

#[tokio::test]
async fn news_that_fit_into_no_job_are_left_out_and_noted() {
    let f = Fixture::start(None, None).await;
    let (server, _) = served(&calendar(&[("a", "Jazz")])).await;
    let mut settings = f.settings.clone();
    settings.jobs.max_payload_bytes = 1_200;
    let notices = Notices::new(&settings, &f.database, f.jobs.clone());
    f.endpoint(&notices, &["*"]).await;
    let discoverer = f.telling(Arc::new(NewsAnnouncer::new(&settings, Arc::new(notices))));
    let id = f.source("calendar", SourceKind::Ical, &server.url("/")).await;
    assert_eq!(discoverer.discover(id).await.unwrap().inserted, 1);
    assert_eq!(
        (f.stored().await, f.payloads("notify.webhook").await.len()),
        (1, 0)
    );
    let report = f.shown(id).await.report.unwrap();
    let reason = &report.notes[0].reason;
    assert!(reason.contains("1 notices were not sent"), "{reason}");
}
