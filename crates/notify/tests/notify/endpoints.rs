//! What owners do with their endpoints.

use std::time::Duration;

use holdfast_notify::webhooks::{Filter, SigningSecret, WebhookError, WebhookId};
use secrecy::SecretString;

use crate::on_both;
use crate::support::{Fixture, by, draft};

const NOBODY: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

on_both! {
    an_endpoint_is_made_changed_listed_and_deleted,
    what_does_not_exist_is_unknown,
}

async fn an_endpoint_is_made_changed_listed_and_deleted(f: Fixture) {
    let own = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let made = f
        .webhooks()
        .create(
            &by(),
            &draft("https://example.com/a?token=t0p", &["b.*", "a", "a"], true),
            Some(&own),
        )
        .await
        .unwrap();
    assert_eq!(made.secret.expose(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let id = made.webhook.id;
    let shown = f.webhook(id).await;
    assert_eq!(shown, made.webhook);
    let filters: Vec<_> = shown.events.iter().map(Filter::as_str).collect();
    assert_eq!(filters, ["a", "b.*"]);
    assert_eq!(
        (shown.enabled, shown.url.as_str()),
        (true, "https://example.com/a?token=t0p")
    );

    let second = f.endpoint("https://example.com/b", &["*"]).await;
    assert!(SigningSecret::parse(&second.secret.expose().to_owned().into()).is_ok());
    let page = f.webhooks().list(None, 1).await.unwrap();
    assert_eq!(page.len(), 1);
    let rest = f.webhooks().list(Some(page[0].id), 10).await.unwrap();
    assert_eq!((page[0].id, rest.len(), rest[0].id), (id, 1, second.webhook.id));

    let put = f
        .webhooks()
        .put(&by(), id, &draft("https://example.org/", &["*"], false))
        .await
        .unwrap();
    assert_eq!((put.url.as_str(), put.enabled), ("https://example.org/", false));
    let rotated = f
        .webhooks()
        .rotate(&by(), id, None, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(rotated.webhook.previous_secret_until.unwrap() > rotated.webhook.created_at);
    f.webhooks().delete(&by(), id).await.unwrap();
    assert!(matches!(f.webhooks().get(id).await, Err(WebhookError::Unknown(unknown)) if unknown == id));

    let entries = f.audited(id).await;
    let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "webhook.create",
            "webhook.update",
            "webhook.rotate",
            "webhook.delete"
        ]
    );
    for text in [
        format!("{entries:?}"),
        format!("{made:?}{rotated:?}{:?}", f.webhooks()),
    ] {
        assert!(
            !text.contains("MfKQ9r8G") && !text.contains(rotated.secret.expose()),
            "{text}"
        );
    }
    assert!(!format!("{entries:?}").contains("t0p"), "a query may be a secret");
}

async fn what_does_not_exist_is_unknown(f: Fixture) {
    let id: WebhookId = NOBODY.parse().unwrap();
    let draft = draft("https://example.com/", &["*"], true);
    let grace = Duration::ZERO;
    for error in [
        f.webhooks().get(id).await.unwrap_err(),
        f.webhooks().put(&by(), id, &draft).await.unwrap_err(),
        f.webhooks().rotate(&by(), id, None, grace).await.unwrap_err(),
        f.webhooks().delete(&by(), id).await.unwrap_err(),
        f.webhooks().test(id).await.unwrap_err(),
    ] {
        assert!(matches!(error, WebhookError::Unknown(_)), "{error}");
    }
    assert!(f.audited(id).await.is_empty());
}

#[tokio::test]
async fn an_address_inside_the_network_is_refused() {
    let f = Fixture::with(&[("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "false")]).await;
    for url in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "http://0x7f.1/",
    ] {
        let refused = f.webhooks().create(&by(), &draft(url, &["*"], true), None).await;
        match refused {
            Err(WebhookError::Invalid(fault)) => assert_eq!(fault.field, "url", "{url}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    assert!(f.webhooks().list(None, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn no_more_endpoints_are_kept_than_the_limit() {
    let f = Fixture::sqlite().await;
    f.sql(
        "insert into holdfast_webhooks (id, url, description, events, secret, enabled, created_at, updated_at)
         with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000)
         select cast(printf('%016d', i) as blob), 'https://example.com/', '', '[]', 'whsec_', true, 0, 0 from n",
    )
    .await;
    let refused = f
        .webhooks()
        .create(&by(), &draft("https://example.com/", &["*"], true), None)
        .await;
    assert!(matches!(refused, Err(WebhookError::TooMany)), "{refused:?}");
}
