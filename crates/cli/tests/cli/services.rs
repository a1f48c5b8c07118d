//! The command lines of `api`, `worker` and `beat`: asking them something has no effect.

use holdfast_testkit::place::DEADLINE;
use holdfast_testkit::{Child, http};
use tempfile::TempDir;

const SERVICES: [&str; 3] = ["api", "worker", "beat"];

/// Exit code and output. The directory is empty before and after.
async fn ask(service: &str, argument: &str) -> (Option<i32>, String) {
    let directory = TempDir::new().unwrap();
    let mut child = Child::binary(service)
        .arg(argument)
        .current_dir(directory.path())
        .start()
        .unwrap();
    let status = child.wait_exit(DEADLINE).await.unwrap();
    let printed = child.printed(DEADLINE).await.unwrap().text;
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(files, 0, "{service} {argument} made files");
    (status.code(), printed)
}

#[tokio::test]
async fn every_service_prints_its_help_and_version_and_does_nothing_else() {
    for service in SERVICES {
        let (code, help) = ask(service, "--help").await;
        assert_eq!(code, Some(0), "{help}");
        assert!(help.contains(&format!("Usage: {service} ")), "{help}");
        let (code, version) = ask(service, "--version").await;
        assert_eq!(code, Some(0), "{version}");
        assert!(version.starts_with(&format!("{service} 0.")), "{version}");
    }
}

/// One binary is enough: `holdfast api` is `api`, and so on.
#[tokio::test]
async fn every_service_is_a_command_of_holdfast_too() {
    let directory = TempDir::new().unwrap();
    let database = format!("sqlite://{}", directory.path().join("jobs.db").display());
    for service in SERVICES {
        let mut child = Child::binary("holdfast")
            .arg(service)
            .current_dir(directory.path())
            .env("DATABASE_URL", &database)
            .env("PORT", "0")
            .env("HOLDFAST__SERVER__HOST", "127.0.0.1")
            .env("HOLDFAST__LOG__FORMAT", "json")
            .start()
            .unwrap();
        let line = child
            .wait_for_line(r#""message":"listening"#, DEADLINE)
            .await
            .unwrap();
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = entry["address"].as_str().unwrap().parse().unwrap();
        let live = http::get(address, "/health/live").await.unwrap();
        assert_eq!(live.status, 200, "{service}");
        child.sigterm().unwrap();
        let status = child.wait_exit(DEADLINE).await.unwrap();
        assert_eq!(status.code(), Some(0), "{service}");
        let log = child.printed(DEADLINE).await.unwrap().text;
        let named = format!(r#""service":"{service}""#);
        assert!(log.lines().all(|line| line.contains(&named)), "{log}");
    }
}

#[tokio::test]
async fn a_service_on_a_platform_whose_environment_was_not_set_serves_this_machine_alone_and_says_so() {
    let directory = TempDir::new().unwrap();
    let database = format!("sqlite://{}", directory.path().join("jobs.db").display());
    for service in SERVICES {
        for (environment, is_confined) in [(None, true), (Some("development"), false)] {
            let child = Child::binary(service)
                .current_dir(directory.path())
                .env("DATABASE_URL", &database)
                .env("PORT", "0")
                .env("HOLDFAST__SERVER__HOST", "0.0.0.0")
                .env("HOLDFAST__LOG__FORMAT", "json")
                .env("HOLDFAST_API_KEY", "a-bootstrap-key-of-a-test")
                .env("KUBERNETES_SERVICE_HOST", "10.0.0.1")
                .envs(environment.map(|value| ("HOLDFAST_ENV", value)))
                .start()
                .unwrap();
            let line = child
                .wait_for_line(r#""message":"listening"#, DEADLINE)
                .await
                .unwrap();
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            let address: std::net::SocketAddr = entry["address"].as_str().unwrap().parse().unwrap();
            assert_eq!(address.ip().is_loopback(), is_confined, "{service}: {line}");
            let said =
                "this process runs on Kubernetes and HOLDFAST_ENV is not set: it listens on loopback only";
            let lines = child.lines();
            let says = lines.iter().filter(|line| line.contains(said)).count();
            assert_eq!(says, usize::from(is_confined), "{service}: {lines:?}");
        }
    }
}

#[tokio::test]
async fn a_service_refuses_an_argument_that_it_does_not_know() {
    for service in SERVICES {
        let (code, printed) = ask(service, "--prot=8080").await;
        assert_eq!(code, Some(2), "{printed}");
        assert!(
            printed.contains("--prot=8080") && printed.contains("--help"),
            "{printed}"
        );
    }
}

#[tokio::test]
async fn a_role_that_does_not_exist_is_refused() {
    let directory = TempDir::new().unwrap();
    let mut child = Child::binary("holdfast")
        .env("HOLDFAST_ROLE", "wroker")
        .current_dir(directory.path())
        .start()
        .unwrap();
    let status = child.wait_exit(DEADLINE).await.unwrap();
    let printed = child.printed(DEADLINE).await.unwrap().text;
    assert_eq!(status.code(), Some(64), "{printed}");
    assert_eq!(
        printed,
        "holdfast: HOLDFAST_ROLE is \"wroker\": set it to api, worker, beat or dev, or unset it"
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
