//! What the platforms' files start, started: the same commands, with the environment of deploy/compose.yaml.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_testkit::{Child, PostgresServer, eventually, free_port, http};
use serde_json::Value;

use super::files::{LIVE, READY, SERVICES, json, list, read, toml, yaml};

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// Every command in every file, without the directory of its program.
fn commands() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |command: &str| {
        let (program, rest) = command.split_once(' ').unwrap_or((command, ""));
        let program = program.rsplit('/').next().unwrap();
        found.insert(format!("{program} {rest}").trim().to_owned());
    };
    let joined = |words: &Value| {
        let words = words.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(" ")
    };
    for line in read("Procfile").lines() {
        add(line.split_once(": ").unwrap().1);
    }
    for path in [
        "railway.json",
        "deploy/railway/worker.json",
        "deploy/railway/beat.json",
    ] {
        let deploy = json(path)["deploy"].clone();
        add(deploy["startCommand"].as_str().unwrap());
        for before in deploy["preDeployCommand"].as_array().into_iter().flatten() {
            add(before.as_str().unwrap());
        }
    }
    let fly = toml("deploy/fly.toml");
    add(fly["deploy"]["release_command"].as_str().unwrap());
    for command in fly["processes"].as_object().unwrap().values() {
        add(command.as_str().unwrap());
    }
    for service in yaml("deploy/render.yaml")[0]["services"].as_array().unwrap() {
        for field in ["dockerCommand", "preDeployCommand"] {
            service[field].as_str().into_iter().for_each(&mut add);
        }
    }
    let compose = yaml("deploy/compose.yaml").remove(0);
    for service in compose["services"].as_object().unwrap().values() {
        if service["image"] == "holdfast:local" {
            add(&joined(&service["command"]));
            let health = joined(&service["healthcheck"]["test"]);
            health.strip_prefix("CMD ").into_iter().for_each(&mut add);
        }
    }
    for manifest in list("deploy/kubernetes", "yaml")
        .iter()
        .flat_map(|path| yaml(path))
    {
        let containers = &manifest["spec"]["template"]["spec"]["containers"];
        for container in containers.as_array().into_iter().flatten() {
            add(&joined(&container["command"]));
        }
    }
    for path in list("deploy/systemd", "service") {
        let unit = read(&path);
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
        add(start.unwrap());
    }
    found
}

#[test]
fn the_files_start_these_commands_and_no_others() {
    let wanted = [
        "api",
        "beat",
        "holdfast healthcheck",
        "holdfast migrate",
        "worker",
    ];
    assert_eq!(commands().into_iter().collect::<Vec<_>>(), wanted);
}

/// The environment that Compose gives, without Redis, and with a database of this test.
fn environment(postgres: &PostgresServer) -> Vec<(String, String)> {
    let compose = yaml("deploy/compose.yaml").remove(0);
    let given = compose["services"]["api"]["environment"]
        .as_object()
        .unwrap()
        .clone();
    let given = given.into_iter().filter_map(|(name, value)| {
        let value = match name.as_str() {
            "DATABASE_URL" => postgres.url(),
            "HOLDFAST_API_KEY" => "a-key-of-the-test-0123456789".to_owned(),
            "REDIS_URL" | "REDIS_CACHE_URL" | "PORT" => return None,
            _ => value.as_str().unwrap().to_owned(),
        };
        Some((name, value))
    });
    given.collect()
}

#[tokio::test]
async fn every_command_does_what_its_platform_expects() {
    let postgres = PostgresServer::start().await.unwrap();
    let environment = environment(&postgres);
    let directory = tempfile::TempDir::new().unwrap();
    let start = |command: &str, port: u16| {
        let mut words = command.split(' ');
        Child::binary(words.next().unwrap())
            .args(words)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("PORT", port.to_string())
            .current_dir(directory.path())
            .start()
            .unwrap()
    };
    // The schema first, twice: every deployment runs it.
    for _ in 0..2 {
        let mut migrate = start("holdfast migrate", 0);
        assert!(migrate.wait_exit(DEADLINE).await.unwrap().success());
    }
    let mut started = 0;
    for command in commands() {
        // `holdfast …` is tried before and beside them.
        if command.starts_with("holdfast") {
            continue;
        }
        started += 1;
        let port = free_port().unwrap();
        let mut service = start(&command, port);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let is_ready = || async {
            let response = http::get(address, READY).await.ok()?;
            (response.status == 200).then_some(())
        };
        eventually(&format!("{command} is ready"), DEADLINE, POLL, is_ready)
            .await
            .unwrap();
        assert_eq!(http::get(address, LIVE).await.unwrap().status, 200, "{command}");
        let mut healthcheck = start("holdfast healthcheck", port);
        assert!(
            healthcheck.wait_exit(DEADLINE).await.unwrap().success(),
            "{command}"
        );
        service.sigterm().unwrap();
        assert_eq!(
            service.wait_exit(DEADLINE).await.unwrap().code(),
            Some(0),
            "{command}"
        );
    }
    assert_eq!(started, SERVICES.len());
}
