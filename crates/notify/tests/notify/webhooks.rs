//! From a notice to the receivers, and what becomes of receivers that fail.

use std::time::Duration;

use holdfast_jobs::{Job, JobContext, JobId, State};
use holdfast_notify::NotificationsSettings;
use holdfast_notify::notifications::NoticeError;
use holdfast_notify::webhooks::NotifyWebhook;
use holdfast_testkit::{Receiver, eventually};
use serde_json::{Value, json};

use crate::official::is_signed;
use crate::on_both;
use crate::support::{DEADLINE, Fixture, body_of, by, draft, header, notice};

const KIND: &str = "notify.webhook";

on_both! {
    a_notice_reaches_whoever_listens_signed_and_logged,
    a_notice_is_published_once_under_its_key,
    both_secrets_sign_while_the_old_one_is_good,
    a_failed_delivery_is_tried_again_and_each_attempt_is_logged,
    an_endpoint_that_is_gone_is_disabled_at_once,
    an_endpoint_that_fails_for_too_long_is_disabled_and_others_hear_of_it,
    what_is_past_its_retention_is_pruned,
}

async fn a_notice_reaches_whoever_listens_signed_and_logged(mut f: Fixture) {
    let receiver = Receiver::start().await.unwrap();
    let orders = f.endpoint(&receiver.url("/orders"), &["order.*"]).await;
    let all = f.endpoint(&receiver.url("/all"), &["*"]).await;
    let others = f
        .endpoint(&receiver.url("/others"), &["invoice.paid", "orders.*"])
        .await;
    let off = draft(&receiver.url("/off"), &["*"], false);
    let off = f.webhooks().create(&by(), &off, None).await.unwrap();
    let data = json!({"order": 42, "name": "grüße \u{1f4e6}"});
    let published = f.publish("order.paid", data.clone()).await;
    assert_eq!((published.webhooks, published.duplicate), (2, false));
    f.work();
    for job in f.jobs_of(KIND).await {
        assert_eq!(f.ended(job.id).await.state, State::Completed);
    }
    for (made, path) in [(&orders, "/orders"), (&all, "/all")] {
        let seen = receiver.recorded();
        let request = seen.iter().find(|request| request.path == path).unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(header(request, "content-type"), "application/json");
        assert_eq!(header(request, "webhook-id"), format!("msg_{}", published.id));
        let body = body_of(request);
        assert_eq!((&body["type"], &body["data"]), (&json!("order.paid"), &data));
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'), "{body}");
        assert!(is_signed(request, made.secret.expose()));
        assert!(!is_signed(request, others.secret.expose()));
    }
    assert_eq!(receiver.requests(), 2);
    let [delivery] = &f.deliveries(orders.webhook.id).await[..] else {
        panic!("not one delivery")
    };
    assert_eq!(
        (
            delivery.delivered,
            delivery.status,
            delivery.attempt,
            &*delivery.event_type
        ),
        (true, Some(200), 1, "order.paid")
    );
    assert!(
        delivery.request.starts_with("{\"type\":\"order.paid\""),
        "{delivery:?}"
    );
    assert_eq!(delivery.error, None);
    assert!(f.deliveries(off.webhook.id).await.is_empty());
    f.stop().await;
}

async fn a_notice_is_published_once_under_its_key(f: Fixture) {
    let listening = f.endpoint("http://127.0.0.1:9/", &["*"]).await;
    let same = notice("a.b", &json!({"n": 1}), Some("key"));
    let first = f.notices.publish(&same).await.unwrap();
    // Who listens when it is repeated makes no difference.
    f.webhooks().delete(&by(), listening.webhook.id).await.unwrap();
    let second = f.notices.publish(&same).await.unwrap();
    assert_eq!(
        (second.id, second.webhooks, second.duplicate),
        (first.id, 1, true)
    );
    assert_eq!(f.jobs_of(KIND).await.len(), 1);
    for other in [
        notice("a.c", &json!({"n": 1}), Some("key")),
        notice("a.b", &json!({"n": 2}), Some("key")),
    ] {
        let refused = f.notices.publish(&other).await;
        assert!(
            matches!(refused, Err(NoticeError::KeyReused(id)) if id == first.id),
            "{refused:?}"
        );
    }
    let at_once = notice("a.b", &json!({"n": 1}), Some("another"));
    let published = futures::future::join_all((0..8).map(|_| f.notices.publish(&at_once))).await;
    let new = published.iter().filter(|one| !one.as_ref().unwrap().duplicate);
    assert_eq!(new.count(), 1);
    let unkeyed = notice("a.b", &json!({"n": 1}), None);
    let ids = [
        f.notices.publish(&unkeyed).await.unwrap().id,
        f.notices.publish(&unkeyed).await.unwrap().id,
    ];
    assert_ne!(ids[0], ids[1]);
}

async fn both_secrets_sign_while_the_old_one_is_good(mut f: Fixture) {
    let receiver = Receiver::start().await.unwrap();
    let made = f.endpoint(&receiver.url("/"), &["*"]).await;
    let id = made.webhook.id;
    f.work();
    let rotated = f
        .webhooks()
        .rotate(&by(), id, None, Duration::from_secs(600))
        .await
        .unwrap();
    f.publish("a", json!(1)).await;
    receiver.wait_for_requests(1, DEADLINE).await.unwrap();
    let ended = f
        .webhooks()
        .rotate(&by(), id, None, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(ended.webhook.previous_secret_until, None);
    f.publish("a", json!(2)).await;
    receiver.wait_for_requests(2, DEADLINE).await.unwrap();
    let seen = receiver.recorded();
    assert_eq!(header(&seen[0], "webhook-signature").split(' ').count(), 2);
    assert!(is_signed(&seen[0], made.secret.expose()));
    assert!(is_signed(&seen[0], rotated.secret.expose()));
    assert!(!is_signed(&seen[0], ended.secret.expose()));
    assert_eq!(header(&seen[1], "webhook-signature").split(' ').count(), 1);
    assert!(is_signed(&seen[1], ended.secret.expose()));
    assert!(!is_signed(&seen[1], rotated.secret.expose()));
    f.stop().await;
}

async fn a_failed_delivery_is_tried_again_and_each_attempt_is_logged(mut f: Fixture) {
    let receiver = Receiver::start().await.unwrap();
    let made = f.endpoint(&receiver.url("/fail-then-ok/2/x"), &["*"]).await;
    let published = f.publish("a", json!({"big": "x".repeat(3_000)})).await;
    f.work();
    let job = f.only_job(KIND).await;
    assert_eq!((job.state, job.attempt), (State::Completed, 3));
    assert_eq!(receiver.count("x"), 3);
    let deliveries = f.deliveries(made.webhook.id).await;
    let told: Vec<_> = deliveries
        .iter()
        .map(|delivery| (delivery.attempt, delivery.status, delivery.delivered))
        .collect();
    assert_eq!(
        told,
        [(3, Some(200), true), (2, Some(503), false), (1, Some(503), false)]
    );
    let seen = receiver.recorded();
    assert_eq!(seen[0].body, seen[2].body, "a repeat is the same to the byte");
    for request in &seen {
        assert_eq!(header(request, "webhook-id"), format!("msg_{}", published.id));
        assert!(is_signed(request, made.secret.expose()));
    }
    let error = deliveries[1].error.as_deref().unwrap();
    assert!(error.contains("answered 503"), "{error}");
    assert_eq!(deliveries[1].request.len(), 1_024);
    assert_eq!(
        f.webhook(made.webhook.id).await.failing_since,
        None,
        "it has recovered"
    );
    f.stop().await;
}

async fn an_endpoint_that_is_gone_is_disabled_at_once(mut f: Fixture) {
    let receiver = Receiver::start().await.unwrap();
    let made = f.endpoint(&receiver.url("/status/410"), &["*"]).await;
    let id = made.webhook.id;
    f.publish("a", json!(1)).await;
    f.work();
    let job = f.only_job(KIND).await;
    assert_eq!((job.state, job.attempt), (State::Discarded, 1));
    let webhook = f.webhook(id).await;
    assert_eq!(
        (webhook.enabled, webhook.disabled_reason.as_deref()),
        (false, Some("it answered 410 Gone"))
    );
    assert_eq!(f.publish("a", json!(2)).await.webhooks, 0);
    let entries = f.audited(id).await;
    let last = entries.last().unwrap();
    assert_eq!(
        (last.action.as_str(), last.actor.as_str()),
        ("webhook.disable", "system")
    );
    // A test reaches it all the same, and its owner may enable it again.
    let test = f.webhooks().test(id).await.unwrap();
    assert_eq!(f.ended(test.id).await.attempt, 1);
    assert_eq!(body_of(&receiver.recorded()[1])["type"], "webhook.test");
    let url = receiver.url("/now-fine");
    let enabled = f
        .webhooks()
        .put(&by(), id, &draft(&url, &["*"], true))
        .await
        .unwrap();
    assert_eq!((enabled.enabled, enabled.disabled_reason), (true, None));
    f.stop().await;
}

async fn an_endpoint_that_fails_for_too_long_is_disabled_and_others_hear_of_it(mut f: Fixture) {
    let receiver = Receiver::start().await.unwrap();
    let failing = f.endpoint(&receiver.url("/status/500"), &["a"]).await.webhook.id;
    let hearing = f
        .endpoint(&receiver.url("/hears"), &["webhook.*"])
        .await
        .webhook
        .id;
    f.work();
    let test = f.webhooks().test(failing).await.unwrap();
    assert_eq!(f.ended(test.id).await.state, State::Discarded);
    let webhook = f.webhook(failing).await;
    assert!(webhook.enabled && webhook.failing_since.is_some(), "{webhook:?}");
    let long = f
        .settings
        .section::<NotificationsSettings>()
        .webhook_disable_after
        .as_secs()
        + 60;
    f.sql(&format!(
        "update holdfast_webhooks set failing_since = {} where failing_since is not null",
        f.ago(long)
    ))
    .await;
    f.publish("a", json!(1)).await;
    receiver.wait_for_requests(3, DEADLINE).await.unwrap();
    let told = receiver
        .recorded()
        .into_iter()
        .find(|request| request.path == "/hears")
        .unwrap();
    let body = body_of(&told);
    assert_eq!(
        (&body["type"], &body["data"]["webhook_id"]),
        (&json!("webhook.disabled"), &json!(failing))
    );
    assert_eq!(f.audited(failing).await.last().unwrap().action, "webhook.disable");
    assert!(
        f.audited(hearing)
            .await
            .iter()
            .all(|entry| entry.action == "webhook.create")
    );
    // An attempt is logged a moment before its job's outcome is written.
    let tried = async || {
        let jobs = f.jobs_of(KIND).await;
        let mut tried = jobs.iter().filter(|job| job.attempt > 0 && job.id != test.id);
        tried.next().map(drop)
    };
    eventually(
        "an attempt to be over",
        DEADLINE,
        Duration::from_millis(20),
        tried,
    )
    .await
    .unwrap();
    // What waits for another attempt is given up, and says why.
    let waiting: Vec<JobId> = f.jobs_of(KIND).await.iter().map(|job| job.id).collect();
    let mut discarded = Vec::new();
    for id in waiting {
        let job = f.ended(id).await;
        if job.state == State::Discarded && id != test.id {
            discarded.push(job.errors.last().unwrap().message.clone());
        }
    }
    assert_eq!(discarded.len(), 1, "{discarded:?}");
    assert!(
        discarded[0].contains("is disabled: it failed for 5 days without a success"),
        "{discarded:?}"
    );
    f.stop().await;
}

async fn what_is_past_its_retention_is_pruned(mut f: Fixture) {
    let receiver = Receiver::start().await.unwrap();
    let made = f.endpoint(&receiver.url("/"), &["*"]).await;
    f.work();
    for n in 0..3 {
        f.notices
            .publish(&notice("a", &json!(n), Some(&n.to_string())))
            .await
            .unwrap();
    }
    for job in f.jobs_of(KIND).await {
        f.ended(job.id).await;
    }
    f.stop().await;
    let oldest = f.deliveries(made.webhook.id).await.pop().unwrap();
    let old = f.ago(
        f.settings
            .section::<NotificationsSettings>()
            .retain_deliveries
            .as_secs()
            + 60,
    );
    f.sql(&format!(
        "update holdfast_webhook_deliveries set at = {old} where message_id = '{}'",
        oldest.message_id
    ))
    .await;
    f.sql(&format!("update holdfast_notices set at = {old} where key = '0'"))
        .await;
    assert_eq!(f.webhooks().prune().await.unwrap(), 2);
    assert_eq!(f.deliveries(made.webhook.id).await.len(), 2);
    assert!(
        !f.notices
            .publish(&notice("a", &json!(0), Some("0")))
            .await
            .unwrap()
            .duplicate
    );
    assert!(
        f.notices
            .publish(&notice("a", &json!(1), Some("1")))
            .await
            .unwrap()
            .duplicate
    );
}

/// The class of an error and what it says, of a delivery to this URL.
async fn told(f: &Fixture, url: &str) -> (&'static str, String) {
    let made = f.endpoint("https://example.com/", &["*"]).await;
    // As if it had been stored under other settings: what is stored is checked when something is sent.
    f.sql(&format!("update holdfast_webhooks set url = '{url}'"))
        .await;
    let job = NotifyWebhook {
        webhook: made.webhook.id,
        id: "msg_1".to_owned(),
        event_type: "a".parse().unwrap(),
        timestamp: made.webhook.created_at,
        data: serde_json::value::to_raw_value(&Value::Null).unwrap(),
        test: false,
    };
    let resources = crate::resources(&f.settings).with(f.webhooks().clone());
    let error = job
        .run(JobContext::detached(JobId::generate(), 1, 4, resources))
        .await
        .unwrap_err();
    (error.class(), error.to_string())
}

#[tokio::test]
async fn whatever_a_receiver_does_is_a_clear_outcome() {
    let f = Fixture::with(&[("HOLDFAST__NOTIFICATIONS__WEBHOOK_TIMEOUT_SECONDS", "0.3")]).await;
    let receiver = Receiver::start().await.unwrap();
    for (path, class, says) in [
        ("/status/404", "transient", "answered 404"),
        ("/status/401", "transient", "answered 401"),
        ("/status/429", "transient", "answered 429"),
        ("/status/410", "permanent", "answered 410"),
        ("/redirect?to=/hit/elsewhere", "transient", "answered 302"),
        ("/close", "transient", "ended the exchange without an answer"),
        ("/hang", "transient", "did not answer within 0.3 s"),
        ("/retry-after/7/y", "transient", "answered 429"),
    ] {
        let (is, text) = told(&f, &receiver.url(path)).await;
        assert_eq!(is, class, "{path}: {text}");
        assert!(text.contains(says), "{path}: {text}");
    }
    assert_eq!(receiver.count("elsewhere"), 0, "a redirect is not followed");
    let (class, text) = told(&f, "http://no-such-host.invalid/?secret=1").await;
    assert_eq!(class, "transient");
    assert!(
        text.contains("cannot be reached") && !text.contains("secret"),
        "{text}"
    );
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_when_it_is_looked_up() {
    let f = Fixture::with(&[("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "false")]).await;
    let (class, text) = told(&f, "http://localhost:9/").await;
    assert_eq!(class, "permanent");
    assert!(text.contains("loopback"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_stored_is_no_notice() {
    let f = Fixture::with(&[("HOLDFAST__JOBS__MAX_PAYLOAD_BYTES", "4096")]).await;
    let raw = |text: String| {
        let mut notice = notice("a", &Value::Null, None);
        notice.data = serde_json::value::RawValue::from_string(text).unwrap();
        notice
    };
    for (data, says) in [
        (
            "[".repeat(40) + &"]".repeat(40),
            "data: is nested 40 deep; 31 is the most",
        ),
        (
            format!("\"{}\"", "x".repeat(4_000)),
            "4002 bytes are more than the 3072 allowed",
        ),
    ] {
        let error = f.notices.publish(&raw(data.clone())).await.unwrap_err();
        assert!(error.to_string().starts_with(says), "{data}: {error}");
    }
}
