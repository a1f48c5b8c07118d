//! A fake `railway` first on PATH, with the answers of a healthy project to begin with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use holdfast_testkit::place::{CommandOutput, Place};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ops/deploy/railway.sh");

pub(super) const SERVICES: [&str; 3] = ["api", "worker", "beat"];

pub(super) struct Fake {
    place: Place,
    directory: TempDir,
}

impl Fake {
    /// CLI 5.43, logged in, linked; three services that serve `old-…`; every upload comes alive as `new-…`.
    pub(super) fn healthy() -> Self {
        Self::with_place(Place::new())
    }

    pub(super) fn with_place(place: Place) -> Self {
        let directory = TempDir::new().unwrap();
        let programs = directory.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(SCRIPT, programs.join("railway")).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display());
        let place = place
            .with_env("PATH", path)
            .with_env("FAKE", directory.path().display().to_string());
        let fake = Self { place, directory };
        fake.out("version", "railway 5.43.1\n");
        fake.json(
            "whoami",
            &json!({ "name": "Ada", "email": "ada@example.org", "workspaces": [] }),
        );
        fake.json("status", &status(&SERVICES));
        for service in SERVICES {
            fake.json(&format!("up-{service}"), &started(service));
            for (call, status) in ["QUEUED", "BUILDING", "DEPLOYING", "SUCCESS"].iter().enumerate() {
                // The old one serves until the new one does.
                let old = if *status == "SUCCESS" {
                    "REMOVED"
                } else {
                    "SUCCESS"
                };
                let old = deployment(&format!("old-{service}"), old);
                let new = deployment(&format!("new-{service}"), status);
                fake.json(&format!("list-{service}.{}", call + 1), &json!([new, old]));
            }
            let line = json!({ "message": format!("{service} says why"), "level": "error", "timestamp": "2026-11-21T12:00:00Z" });
            fake.out(&format!("logs-{service}"), &format!("{line}\n"));
        }
        fake.json("api", &json!({ "data": { "deploymentRollback": true } }));
        fake
    }

    pub(super) fn with_env(mut self, name: &str, value: &str) -> Self {
        self.place = self.place.with_env(name, value);
        self
    }

    pub(super) fn json(&self, name: &str, value: &Value) {
        self.out(name, &format!("{value:#}\n"));
    }

    pub(super) fn out(&self, name: &str, text: &str) {
        self.write(&format!("{name}.out"), text);
    }

    /// The command fails, with words on stderr.
    pub(super) fn fails(&self, name: &str, text: &str) {
        self.forget(name);
        self.write(&format!("{name}.err"), text);
        self.write(&format!("{name}.code"), "1");
    }

    pub(super) fn code(&self, name: &str, code: i32) {
        self.write(&format!("{name}.code"), &code.to_string());
    }

    pub(super) fn hangs(&self, name: &str) {
        self.forget(name);
        self.write(&format!("{name}.hang"), "");
    }

    /// The service's newest deployment is in this status, for good.
    pub(super) fn ends_as(&self, service: &str, status: &str) {
        self.forget(&format!("list-{service}"));
        let new = deployment(&format!("new-{service}"), status);
        let old = deployment(&format!("old-{service}"), "SUCCESS");
        self.json(&format!("list-{service}"), &json!([new, old]));
    }

    /// The calls, in order.
    pub(super) fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The calls that begin so.
    pub(super) fn calls_of(&self, start: &str) -> Vec<String> {
        let mut calls = self.calls();
        calls.retain(|call| call.starts_with(start));
        calls
    }

    pub(super) async fn deploy(&self, args: &[&str]) -> CommandOutput {
        let fast = ["deploy", "--poll-seconds", "0.02"];
        self.place.run(&[&fast[..], args].concat()).await
    }

    /// Where the command runs.
    pub(super) fn working_directory(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn forget(&self, name: &str) {
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            if file.starts_with(&format!("{name}.")) {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

/// `railway status --json --environment production`, as the CLI puts it together from its two queries.
pub(super) fn status(services: &[&str]) -> Value {
    let instances = services.iter().map(|name| {
        let serving = json!({
            "canRedeploy": true, "id": format!("old-{name}"), "status": "SUCCESS", "createdAt": "2026-11-20T09:00:00Z",
            "deploymentStopped": false, "meta": { "commitHash": "6977d6e" }, "instances": [{ "id": "i", "status": "RUNNING" }],
        });
        json!({ "node": {
            "id": format!("instance-{name}"), "serviceId": format!("service-{name}"), "serviceName": name,
            "environmentId": "e1", "numReplicas": 1, "latestDeployment": serving, "activeDeployments": [serving],
            "source": null, "startCommand": name, "cronSchedule": null, "nextCronRunAt": null,
            "domains": { "serviceDomains": [], "customDomains": [] },
        } })
    });
    let named = services
        .iter()
        .map(|name| json!({ "node": { "id": format!("service-{name}"), "name": name } }));
    json!({
        "id": "p1", "name": "holdfast", "workspaceId": "w1", "deletedAt": null, "workspace": { "name": "Ada" },
        "buckets": { "edges": [] },
        "environments": { "edges": [{ "node": {
            "id": "e1", "name": "production", "canAccess": true, "deletedAt": null, "unmergedChangesCount": 0,
            "serviceInstances": { "edges": instances.collect::<Vec<_>>() }, "volumeInstances": { "edges": [] },
        } }] },
        "services": { "edges": named.collect::<Vec<_>>() },
    })
}

/// `railway deployment list --json`: one of the list.
pub(super) fn deployment(id: &str, status: &str) -> Value {
    json!({ "id": id, "status": status, "createdAt": "2026-11-21T12:00:00Z", "meta": { "cliCaller": "ci" } })
}

/// `railway up --detach --json`.
fn started(service: &str) -> Value {
    json!({ "deploymentId": format!("new-{service}"), "logsUrl": format!("https://railway.com/project/p1/service/{service}?id=new") })
}
