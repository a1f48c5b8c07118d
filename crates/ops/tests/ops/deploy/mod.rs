//! `holdfast deploy` against a fake Railway CLI, and against everything that may be wrong with it.

mod fake;
mod live;

use serde_json::{Value, json};

use self::fake::{Fake, SERVICES, deployment, status};
use holdfast_testkit::place::CommandOutput;

const UNATTENDED: [&str; 2] = ["--yes", "--no-check"];

fn assert_says(ended: &CommandOutput, code: i32, words: &[&str], what: &str) {
    assert_eq!(ended.code, Some(code), "{what}: {}", ended.text);
    for words in words {
        assert!(
            ended.text.contains(words),
            "{what}: no {words:?} in {}",
            ended.text
        );
    }
    assert!(!ended.text.contains("panicked"), "{what}: {}", ended.text);
}

/// The one JSON document on stdout; the lines of progress are on stderr.
fn document(ended: &CommandOutput) -> Value {
    let stdout = &ended.stdout;
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[tokio::test]
async fn each_service_is_deployed_in_order_and_followed_to_its_end() {
    let fake = Fake::healthy();
    let ended = fake.deploy(&["--yes", "--no-check", "--json"]).await;
    assert_says(
        &ended,
        0,
        &["Railway project holdfast", "as ada@example.org"],
        "deploy",
    );

    let document = document(&ended);
    let outcomes: Vec<_> = document["services"].as_array().unwrap().iter().collect();
    for (service, name) in outcomes.iter().zip(SERVICES) {
        assert_eq!(service["service"], name);
        assert_eq!(service["deployment"], format!("new-{name}"));
        assert_eq!(service["outcome"], "alive");
    }
    let ups: Vec<String> = SERVICES
        .map(|name| format!("up --detach --json --service {name} --environment production"))
        .to_vec();
    assert_eq!(fake.calls_of("up"), ups);
    // Each was followed through its four statuses before the next was touched.
    let calls = fake.calls();
    let at = |call: &str| calls.iter().position(|known| known == call).unwrap();
    assert_eq!(at(&ups[1]) - at(&ups[0]), 5, "{calls:#?}");
    assert_eq!(
        fake.calls_of("variable"),
        Vec::<String>::new(),
        "secrets are never printed"
    );
}

#[tokio::test]
async fn who_migrates_goes_first_whatever_the_order() {
    let fake = Fake::healthy();
    let ended = fake
        .deploy(&["--yes", "--no-check", "--service", "worker,api"])
        .await;
    assert_says(
        &ended,
        0,
        &["pre-deploy command brings the schema up to date"],
        "deploy",
    );
    let ups = fake.calls_of("up");
    assert_eq!(ups.len(), 2);
    assert!(ups[0].contains("--service api"), "{ups:?}");
}

#[tokio::test]
async fn a_migration_from_here_runs_before_anything_is_uploaded() {
    let fake = Fake::healthy();
    fake.out("run-api", "applied 0001_init\n");
    let ended = fake.deploy(&["--yes", "--no-check", "--migrate", "here"]).await;
    assert_says(&ended, 0, &["applied 0001_init"], "deploy");
    let calls = fake.calls();
    let migration = calls.iter().position(|call| call.starts_with("run ")).unwrap();
    let upload = calls.iter().position(|call| call.starts_with("up ")).unwrap();
    assert!(migration < upload, "{calls:#?}");
    assert!(calls[migration].ends_with("holdfast migrate"), "{calls:#?}");

    let fake = Fake::healthy();
    fake.fails("run-api", "the database cannot be reached");
    let ended = fake.deploy(&["--yes", "--no-check", "--migrate", "here"]).await;
    assert_says(&ended, 1, &["the database cannot be reached"], "failed migration");
    assert_eq!(
        fake.calls_of("up"),
        Vec::<String>::new(),
        "nothing is deployed on an old schema"
    );
}

#[tokio::test]
async fn a_dry_run_prints_every_command_and_runs_none() {
    let fake = Fake::healthy();
    let ended = fake.deploy(&["--dry-run", "--rollback"]).await;
    let lines = [
        "railway --version",
        "railway whoami --json",
        "railway status --json --environment production",
        "railway up --detach --json --service api --environment production",
        "railway deployment list --json --limit 20 --service beat --environment production",
        "deploymentRollback",
    ];
    assert_says(&ended, 0, &lines, "dry run");
    assert_eq!(fake.calls(), Vec::<String>::new());

    let token = Fake::healthy().with_env("RAILWAY_TOKEN", "hunter2");
    let ended = token.deploy(&["--dry-run"]).await;
    assert!(
        !ended.text.contains("whoami"),
        "a project's token has nobody: {}",
        ended.text
    );
    assert!(!ended.text.contains("hunter2"), "{}", ended.text);
}

#[tokio::test]
async fn the_projects_changes_are_shown_and_applied_first() {
    let fake = Fake::healthy();
    std::fs::create_dir(fake.working_directory().join(".railway")).unwrap();
    std::fs::write(fake.working_directory().join(".railway/railway.ts"), "").unwrap();
    let change = json!({
        "kind": "resource.update", "address": "service.api", "field": "deploy", "path": "resources.service.api.deploy",
        "summary": "Update service api deploy", "severity": "safe", "deployEffect": "deploy",
    });
    let changes = json!({ "ok": true, "command": "plan", "changeSet": { "version": 1, "changes": [change], "diagnostics": [] } });
    fake.json("config-plan", &changes);
    fake.out("config-apply", "{}");
    // Nothing pending: nothing applied.
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(&ended, 0, &[], "nothing pending");
    assert_eq!(fake.calls_of("config apply"), Vec::<String>::new());

    let fake = Fake::healthy();
    std::fs::create_dir(fake.working_directory().join(".railway")).unwrap();
    std::fs::write(fake.working_directory().join(".railway/railway.ts"), "").unwrap();
    fake.json("config-plan", &changes);
    fake.code("config-plan", 2);
    fake.out("config-apply", "{}");
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(
        &ended,
        0,
        &["change the project: Update service api deploy"],
        "pending",
    );
    let calls = fake.calls();
    let apply = calls
        .iter()
        .position(|call| call == "config apply --yes --json")
        .unwrap();
    let upload = calls.iter().position(|call| call.starts_with("up ")).unwrap();
    assert!(apply < upload, "{calls:#?}");
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_is_touched() {
    type Break = fn(&Fake);
    let cases: [(&str, Break, &str); 7] = [
        (
            "too old",
            |fake| fake.out("version", "railway 4.11.0"),
            "railway upgrade",
        ),
        (
            "not logged in",
            |fake| fake.fails("whoami", "Unauthorized. Please login with `railway login`"),
            "not logged in to Railway",
        ),
        (
            "wrong token",
            |fake| {
                fake.fails(
                    "whoami",
                    "Unauthorized. Please check that your RAILWAY_API_TOKEN is valid and has access to the resource you're trying to use.",
                );
            },
            "refuses the token in RAILWAY_API_TOKEN",
        ),
        (
            "not linked",
            |fake| {
                fake.fails(
                    "status",
                    "No linked project found. Run railway link to connect to a project",
                );
            },
            "railway link",
        ),
        (
            "no such service",
            |fake| fake.json("status", &status(&["api", "worker"])),
            "production has no service beat (there is api, worker)",
        ),
        (
            "deleted project, said in JSON",
            |fake| {
                fake.fails("status", "");
                fake.json(
                    "status",
                    &json!({ "error": "Project not found. Run `railway link` to connect to a project.", "code": "PROJECT_NOT_FOUND", "hint": null }),
                );
            },
            "railway link",
        ),
        ("nothing wrong but nobody to ask", |_| {}, "give --yes"),
    ];
    for (what, breaks, says) in cases {
        let fake = Fake::healthy();
        breaks(&fake);
        let agreed: &[&str] = if what.contains("nobody") {
            &["--no-check"]
        } else {
            &UNATTENDED
        };
        let ended = fake.deploy(agreed).await;
        assert_says(&ended, 64, &[says], what);
        assert_eq!(fake.calls_of("up"), Vec::<String>::new(), "{what}");
    }

    let fake = Fake::healthy();
    let ended = fake
        .deploy(&["--yes", "--no-check", "--environment", "staging"])
        .await;
    assert_says(&ended, 64, &["no environment staging"], "environment");

    let empty = tempfile::TempDir::new().unwrap();
    let fake = Fake::healthy().with_env("PATH", &empty.path().display().to_string());
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(
        &ended,
        64,
        &["Railway CLI is not installed", "npm install"],
        "no CLI",
    );

    let fake = Fake::healthy()
        .with_env("RAILWAY_TOKEN", "hunter2")
        .with_env("RAILWAY_API_TOKEN", "hunter3");
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(
        &ended,
        64,
        &["RAILWAY_TOKEN and RAILWAY_API_TOKEN are both set"],
        "two tokens",
    );
    assert!(!ended.text.contains("hunter"), "{}", ended.text);
}

#[tokio::test]
async fn nonsense_from_the_cli_is_a_clear_message_and_never_a_hang() {
    type Break = fn(&Fake);
    let cases: [(&str, Break, &str); 5] = [
        (
            "a web page",
            |fake| fake.out("status", "<!DOCTYPE html><html>sign in</html>"),
            "a web page instead of JSON",
        ),
        (
            "half a document",
            |fake| fake.out("status", "{\"id\": \"p1\", \"name\": \"hold"),
            "broke off in the middle",
        ),
        ("nothing", |fake| fake.out("status", ""), "nothing at all"),
        (
            "another document",
            |fake| fake.out("status", "{\"id\": 1}"),
            "something unknown",
        ),
        (
            "the upload is refused",
            |fake| {
                fake.fails("up-api", "");
                fake.json(
                    "up-api",
                    &json!({ "error": "file too large", "code": "UPLOAD_FAILED", "hint": null }),
                );
            },
            "file too large",
        ),
    ];
    for (what, breaks, says) in cases {
        let fake = Fake::healthy();
        breaks(&fake);
        let ended = fake.deploy(&UNATTENDED).await;
        assert_says(&ended, 1, &[says], what);
        assert_eq!(
            fake.calls_of("up --detach --json --service worker"),
            Vec::<String>::new(),
            "{what}"
        );
    }
}

/// The fake hangs for 600 s, and a command here is given up after 2 s, an upload after 20 s.
#[tokio::test]
async fn a_cli_that_hangs_is_given_up() {
    for hanging in ["version", "whoami", "status", "up-api"] {
        let fake = Fake::healthy();
        fake.hangs(hanging);
        let ended = fake
            .deploy(&["--yes", "--no-check", "--command-timeout-seconds", "2"])
            .await;
        assert_says(&ended, 1, &["gave no answer within"], hanging);
    }
}

#[tokio::test]
async fn a_service_that_does_not_come_alive_ends_the_run_and_shows_its_last_lines() {
    let cases = [
        ("FAILED", "health check failed"),
        ("CRASHED", "started and crashed"),
        ("REMOVED", "removed before it was alive"),
        ("REMOVING", "removed before it was alive"),
        ("NEEDS_APPROVAL", "approve it in Railway's dashboard"),
        ("BUILDING", "it was BUILDING after"),
        ("A_STATUS_OF_TOMORROW", "it was A_STATUS_OF_TOMORROW after"),
    ];
    for (status, says) in cases {
        let fake = Fake::healthy();
        fake.ends_as("worker", status);
        // Only what never ends has to be given up.
        let limit = if says.contains(" after") { "8" } else { "600" };
        let ended = fake
            .deploy(&["--yes", "--no-check", "--timeout-seconds", limit])
            .await;
        assert_says(
            &ended,
            1,
            &["worker was not deployed", says, "worker says why"],
            status,
        );
        assert_eq!(fake.calls_of("up").len(), 2, "{status}: beat must not be touched");
        assert_eq!(
            fake.calls_of("api"),
            Vec::<String>::new(),
            "{status}: no rollback unasked"
        );
    }
}

#[tokio::test]
async fn a_skipped_deployment_leaves_what_serves_and_is_no_failure() {
    let fake = Fake::healthy();
    fake.ends_as("worker", "SKIPPED");
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(&ended, 0, &["worker unchanged", "beat alive"], "skipped");
}

#[tokio::test]
async fn a_look_that_fails_now_and_then_is_tried_again() {
    let fake = Fake::healthy();
    for call in [2, 3] {
        fake.fails(
            &format!("list-api.{call}"),
            "Failed to fetch: error sending request",
        );
    }
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(&ended, 0, &["api alive"], "two failed looks");

    let fake = Fake::healthy();
    fake.forget("list-api");
    fake.fails("list-api", "Failed to fetch: error sending request");
    let ended = fake.deploy(&UNATTENDED).await;
    assert_says(&ended, 1, &["its status cannot be asked for"], "no look succeeds");
    assert_eq!(fake.calls_of("deployment list").len(), 5);
}

#[tokio::test]
async fn a_rollback_goes_back_in_reverse_and_only_where_something_changed() {
    let fake = Fake::healthy();
    fake.ends_as("beat", "FAILED");
    // After the four looks of the deployment and the one before the rollback, Railway's deployment of the old image.
    for service in ["api", "worker"] {
        let now = [("back", "SUCCESS"), ("new", "REMOVED"), ("old", "REMOVED")];
        let now = now.map(|(age, status)| deployment(&format!("{age}-{service}"), status));
        fake.json(&format!("list-{service}.6"), &json!(now));
    }
    let ended = fake.deploy(&["--yes", "--no-check", "--rollback"]).await;
    assert_says(
        &ended,
        1,
        &["beat was not deployed", "api, worker rolled back"],
        "rollback",
    );
    let mutation = "api mutation($id: String!) { deploymentRollback(id: $id) } --raw-var id=old-";
    assert_eq!(
        fake.calls_of("api"),
        ["worker", "api"].map(|service| format!("{mutation}{service} --compact"))
    );

    // The first one failed: what served before serves still.
    let fake = Fake::healthy();
    fake.ends_as("api", "FAILED");
    let ended = fake.deploy(&["--yes", "--no-check", "--rollback"]).await;
    assert_says(
        &ended,
        1,
        &["nothing that runs was changed"],
        "nothing to roll back",
    );
    assert_eq!(fake.calls_of("api"), Vec::<String>::new());
}

#[tokio::test]
async fn a_rollback_that_is_refused_is_said() {
    let fake = Fake::healthy();
    fake.ends_as("worker", "CRASHED");
    fake.out(
        "api",
        "{\"data\":null,\"errors\":[{\"message\":\"Not Authorized\"}]}",
    );
    fake.code("api", 1);
    let ended = fake.deploy(&["--yes", "--no-check", "--rollback"]).await;
    assert_says(
        &ended,
        1,
        &["started and crashed", "rolling back failed", "Not Authorized"],
        "refused",
    );
}
