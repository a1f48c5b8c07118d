//! The README's example, as a reader would run it.

use holdfast_testkit::{Child, binary};
use tempfile::TempDir;

use holdfast_testkit::place::DEADLINE;

#[tokio::test]
async fn the_example_runs_its_job() {
    let directory = TempDir::new().unwrap();
    let programs = binary("holdfast").unwrap().parent().unwrap().join("examples");
    let program = programs.join("send_invite");
    assert!(
        program.is_file(),
        "not built: run `cargo build --workspace --all-targets` first"
    );
    let mut example = Child::program(program)
        .current_dir(directory.path())
        .start()
        .unwrap();
    let status = example.wait_exit(DEADLINE).await.unwrap();
    let printed = example.printed(DEADLINE).await.unwrap().text;
    assert_eq!(status.code(), Some(0), "{printed}");
    assert!(
        printed.contains("attempt 1 for ada@example.org: Join Compilers"),
        "{printed}"
    );
    assert!(
        printed.contains(r#"is completed: Some("{\"subject\":\"Join Compilers\"}")"#),
        "{printed}"
    );
}
