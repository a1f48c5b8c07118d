//! What cannot be undone is done once that is agreed to: at the terminal, or with `--yes`.

use holdfast_testkit::http::Client;
use holdfast_testkit::place::{Dev, Place};
use serde_json::{Value, json};

async fn post(client: &mut Client, path: &str, body: Value) -> Value {
    let response = client.post_json(path, &body).await.unwrap();
    assert!(response.status < 300, "{path}: {}", response.text());
    response.json().unwrap()
}

/// Something of everything that the commands end; the ids of the batch and of the signing key.
async fn fill(place: &Place, client: &mut Client) -> [String; 2] {
    let later = json!({"kind": "debug.echo", "payload": 1, "delay_seconds": 3600});
    for _ in 0..3 {
        post(client, "/v1/jobs", later.clone()).await;
    }
    let dead = json!({"kind": "debug.fail", "payload": {"mode": "permanent"}});
    for _ in 0..2 {
        let id = post(client, "/v1/jobs", dead.clone()).await["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let ended = client.get(&format!("/v1/jobs/{id}?wait=20")).await.unwrap();
        assert_eq!(ended.json::<Value>().unwrap()["state"], "discarded");
    }
    let events = json!({"kind": "debug.echo", "payload": 1, "delay_seconds": 3600, "queue": "events"});
    let batch = post(client, "/v1/batches", json!({"jobs": [events]})).await;
    let body = json!({"name": "ada", "role": "viewer", "password": "correct horse battery"});
    post(client, "/v1/users", body).await;
    let schedule = json!({"name": "nightly", "every_seconds": 3600, "kind": "debug.echo", "payload": 1});
    post(client, "/v1/schedules", schedule).await;
    place.json(&["keys", "create", "--name", "shop"]).await;
    place.json(&["queues", "declare", "spare"]).await;
    place
        .json(&["kinds", "declare", "thumb.make", "--queue", "media"])
        .await;
    let key = place.json(&["signing-keys", "create"]).await;
    [&batch["id"], &key["key"]["id"]].map(|id| id.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_cannot_be_undone_is_agreed_to_in_one_way() {
    const KEY: &str = "a-bootstrap-key-of-a-test";
    let mut place = Place::new().with_env("HOLDFAST_API_KEY", KEY);
    let dev = Dev::start(&mut place).await;
    let place = place.with_env("HOLDFAST_URL", dev.url());
    let mut client = Client::new(dev.address).with_bearer(KEY);
    let [batch, signing_key] = fill(&place, &mut client).await;
    let cases: [(&[&str], &str); 10] = [
        (&["batches", "cancel", &batch], "Cancel 1 remaining job of batch"),
        (&["dead-letters", "delete", "--all"], "Delete 2 dead letters"),
        (&["jobs", "cancel-many", "--kind", "debug.echo"], "Cancel 3 jobs"),
        (
            &["queues", "purge", "default"],
            "Cancel 0 waiting jobs of the queue default",
        ),
        (&["queues", "delete", "spare"], "Delete the queue spare"),
        (&["kinds", "delete", "thumb.make"], "Delete the kind thumb.make"),
        (&["schedules", "remove", "nightly"], "Delete the schedule nightly"),
        (&["keys", "revoke", "shop"], "Revoke the key shop"),
        (
            &["signing-keys", "delete", &signing_key],
            "Delete the signing key",
        ),
        (
            &["users", "delete", "ada"],
            "Delete ada and all stored data about ada",
        ),
    ];
    for (command, question) in cases {
        let refused = place.run(command).await;
        assert!(
            refused.code == Some(64) && refused.text.contains("give --yes"),
            "{command:?}: {}",
            refused.text
        );
        for (answer, code) in [("", 1), ("no", 1), ("y", 0)] {
            let ended = place.run_at_terminal(command, answer).await;
            assert_eq!(ended.code, Some(code), "{command:?}: {}", ended.text);
            // The counts are those of before: nothing else was changed meanwhile.
            assert!(ended.text.contains(question), "{command:?}: {}", ended.text);
            assert_eq!(
                ended.text.contains("nothing was changed"),
                code == 1,
                "{}",
                ended.text
            );
        }
    }
    // What was agreed to was done; what is done again says that there is nothing, and with `--yes` asks nothing.
    for (command, said) in [
        (&["dead-letters", "delete", "--all", "--yes"][..], "nothing"),
        (&["users", "delete", "ada", "-y"], "no user"),
        (&["queues", "delete", "spare", "--yes"], "no such queue"),
    ] {
        let ended = place.run(command).await;
        assert!(
            ended.code == Some(1) && ended.text.contains(said) && !ended.text.contains("[y/N]"),
            "{command:?}: {}",
            ended.text
        );
    }
    dev.stop().await;
}
