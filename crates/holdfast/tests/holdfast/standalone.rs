//! The application's kind is known to its API, its worker, its beat and its command line, and its queue exists.

use std::time::Duration;

use holdfast_testkit::place::DEADLINE;
use holdfast_testkit::{RedisOptions, RedisServer, eventually};
use serde_json::{Value, json};

use crate::application::{Application, cargo};

const POLL: Duration = Duration::from_millis(100);
const PAYLOAD: &str = r#"{"to":"grace@example.org","team":"Compilers"}"#;
const SUBJECT: &str = "Ada invites you to Compilers";

fn names(list: &Value, field: &str) -> Vec<String> {
    let entries = list.as_array().unwrap().iter();
    entries
        .map(|entry| entry[field].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn one_process_of_an_application_serves_and_runs_its_kind_on_a_queue_that_no_setting_mentions() {
    let application = Application::standalone().await;
    let running = application.start(&[], &[]).await;

    let kinds = running.get("/v1/kinds").await;
    let known = kinds["kinds"].as_array().unwrap();
    let own = known.iter().find(|kind| kind["kind"] == "invite.send").unwrap();
    assert_eq!(own["queue"], "invites");
    assert!(known.iter().any(|kind| kind["kind"] == "http.request"));
    let queues = running.get("/v1/queues").await;
    assert!(
        names(&queues["queues"], "name").contains(&"invites".to_owned()),
        "{queues}"
    );

    let (status, problem) = running.invite("nobody").await;
    assert_eq!(status, 422, "{problem}");
    let problem = problem.to_string();
    assert!(
        problem.contains("payload.to") && problem.contains("must be an e-mail address"),
        "{problem}"
    );

    let (status, accepted) = running.invite("ada@example.org").await;
    assert_eq!(status, 202, "{accepted}");
    let job = running.finished(&accepted["id"]).await;
    assert_eq!(job["state"], "completed", "{job}");
    assert_eq!(job["queue"], "invites");
    assert_eq!(job["result"], json!({"subject": SUBJECT}));

    // A process that runs no service.
    let (code, printed) = application.run_example("enqueue_invite", &[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains(&format!(r#"is completed: {{"subject":"{SUBJECT}"}}"#)),
        "{printed}"
    );

    let log = running.stop().await;
    assert_eq!(log.matches("attempt 1 for ada@example.org").count(), 2, "{log}");
    assert!(!log.contains("attempt 2"), "{log}");
}

#[tokio::test]
async fn each_service_of_an_application_knows_its_kind_by_command_or_by_role() {
    let application = Application::standalone().await;
    application.configure(&format!(
        "[database]\nurl = \"sqlite://invites.db\"\n[schedules.reminder]\nevery_seconds = 1\nkind = \"invite.send\"\npayload = {}\n",
        r#"{ to = "grace@example.org", team = "Compilers" }"#
    ));
    let (code, printed) = application.run(&["migrate"], &[]).await;
    assert_eq!(code, Some(0), "{printed}");
    let api = application.start(&[], &[("HOLDFAST_ROLE", "api")]).await;
    // Its only queue is one that no setting mentions.
    let worker = application
        .start(&["worker"], &[("HOLDFAST__WORKER__QUEUES", "invites")])
        .await;
    // The command counts before the role.
    let beat = application.start(&["beat"], &[("HOLDFAST_ROLE", "worker")]).await;

    let (status, accepted) = api.invite("ada@example.org").await;
    assert_eq!(status, 202, "{accepted}");
    assert_eq!(api.finished(&accepted["id"]).await["state"], "completed");

    // A beat that did not know the kind would refuse its schedule, and end.
    let asked = &api;
    let of_schedule = || async move {
        let jobs = asked.get("/v1/jobs?kind=invite.send&state=completed").await;
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        jobs.into_iter()
            .find(|job| job["payload"]["to"] == "grace@example.org")
    };
    let scheduled = eventually("a job of the schedule", DEADLINE, POLL, of_schedule)
        .await
        .unwrap();
    assert_eq!(scheduled["queue"], "invites");

    for service in [beat, worker, api] {
        service.stop().await;
    }
}

#[tokio::test]
async fn the_command_line_of_an_application_knows_its_kind() {
    let application = Application::standalone().await;
    let running = application.start(&["dev"], &[]).await;
    let (code, printed) = application
        .run(&["jobs", "enqueue", "invite.send", PAYLOAD, "--wait"], &[])
        .await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains(SUBJECT), "{printed}");

    let (code, printed) = application
        .run(&["jobs", "enqueue", "invite.send", r#"{"to":"nobody"}"#], &[])
        .await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("team"), "{printed}");

    let (code, printed) = application.run(&["kinds", "list"], &[]).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("invite.send") && printed.contains("invites"),
        "{printed}"
    );
    running.stop().await;
}

#[tokio::test]
async fn an_application_with_an_unknown_role_or_a_faulty_configuration_starts_nothing() {
    let application = Application::standalone().await;
    let (code, printed) = application.run(&[], &[("HOLDFAST_ROLE", "wroker")]).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("HOLDFAST_ROLE is \"wroker\": set it to api, worker, beat or dev"),
        "{printed}"
    );
    let (code, printed) = application.run(&["api"], &[("PORT", "none")]).await;
    assert_eq!(code, Some(64), "{printed}");
    let (code, printed) = application.run(&[], &[("HOLDFAST_ENV", "production")]).await;
    assert_eq!(code, Some(64), "{printed}");
    assert!(!application.has_files(), "{printed}");
}

#[tokio::test]
async fn a_job_that_apalis_redis_pushes_is_run_once() {
    let application = Application::standalone().await;
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let url = redis.url();
    let env = [("REDIS_URL", url.as_str())];

    let (code, printed) = application.run_example("push_invite", &env).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("set queues.invites.durability to \"redis\""),
        "{printed}"
    );

    application.configure("[queues.invites]\ndurability = \"redis\"\n");
    let (code, printed) = application.run_example("push_invite", &[]).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("no Redis is configured: set REDIS_URL"),
        "{printed}"
    );

    let (code, printed) = application.run_example("push_invite", &env).await;
    assert_eq!(code, Some(0), "{printed}");
    let running = application.start(&["dev"], &env).await;
    running.printed("attempt 1 for linus@example.org").await;
    let log = running.stop().await;
    assert_eq!(log.matches("for linus@example.org").count(), 1, "{log}");
    // Neither waits nor runs, and has left no data: it was acknowledged.
    let left = redis.keys("{invites}:data").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_application_tests_its_handler_without_a_server() {
    Application::standalone().await;
    let tested = tokio::task::spawn_blocking(|| cargo(&["test"])).await.unwrap();
    assert!(tested.contains("1 passed"), "{tested}");
}
