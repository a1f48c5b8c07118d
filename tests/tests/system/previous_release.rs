//! The release before this one and this one on one database and one Redis, as during a rolling upgrade and after a rollback.
//!
//! `scripts/previous-release binaries` builds the release before out of its sources, which takes minutes: so this test is asked for
//! by name, and `.github/workflows/upgrade.yml` does so every night. Its statements alone are held against the schema in every run
//! (`crates/jobs/tests/jobs/previous_release.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::{Cluster, Durability, Expect, Load, Role, Setup};

const LIMIT: Duration = Duration::from_mins(1);
/// Jobs that are accepted before the next step is taken.
const STEP: usize = 1_000;

/// Where `scripts/previous-release binaries` puts them.
fn programs_of_the_release_before() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder = root.join("target/previous-release/bin");
    assert!(
        folder.join("api").is_file() && folder.join("worker").is_file(),
        "there are no binaries in {}: run scripts/previous-release binaries",
        folder.display()
    );
    folder
}

/// Ends the process in good order and starts the program of `folder` in its place.
async fn replace(cluster: &mut Cluster, role: Role, index: usize, folder: Option<&Path>) {
    let status = cluster.sigterm(role, index).await.unwrap();
    assert!(status.success(), "{role:?} {index} ended with {status}");
    cluster.process(role, index).set_programs(folder);
    cluster.start_again(role, index).await.unwrap();
}

#[tokio::test]
#[ignore = "needs the release before: scripts/previous-release binaries"]
async fn the_release_before_and_this_one_side_by_side_lose_and_repeat_no_job() {
    let before = programs_of_the_release_before();
    let before = Some(before.as_path());
    let builder = Cluster::builder(Setup::PostgresRedis).apis(2).workers(2);
    let mut cluster = builder.queue("fast", Durability::Redis).prepare().await.unwrap();
    for process in cluster.processes() {
        process.set_programs(before);
    }
    cluster.start_all().await.unwrap();

    let load = Load::new()
        .producers(4)
        .per_second(200.0)
        .queues(&["default", "fast"]);
    let load = cluster.load(load);
    let mut accepted = STEP;
    load.wait_for_accepted(accepted, LIMIT).await.unwrap();
    // One of each first, as a platform rolls; the other two later; then all the way back.
    let upgrade = [
        (Role::Api, 0),
        (Role::Worker, 0),
        (Role::Worker, 1),
        (Role::Api, 1),
    ];
    let rollback = upgrade.map(|place| (place, before));
    for ((role, index), folder) in upgrade.map(|place| (place, None)).into_iter().chain(rollback) {
        replace(&mut cluster, role, index, folder).await;
        accepted += STEP;
        load.wait_for_accepted(accepted, LIMIT).await.unwrap();
    }
    load.stop().await.unwrap();

    let expect = Expect::new();
    let report = cluster
        .conclude("the release before beside this one", &expect)
        .await
        .unwrap();
    report.assert();
    assert!(report.accepted >= accepted);
    assert_eq!(cluster.receiver.duplicates(), []);
}
