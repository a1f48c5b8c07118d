//! Children are started clean, heard, signalled, and never left behind.
#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use holdfast_testkit::{Child, RedisOptions, RedisServer, eventually};

const SOON: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Child {
    Child::program("sh").args(["-c", script]).start().unwrap()
}

#[tokio::test]
async fn the_environment_is_what_the_test_says_and_no_more() {
    let mut child = Child::program("env").env("PORT", "0").start().unwrap();
    assert!(child.wait_exit(SOON).await.unwrap().success());
    child.wait_for_line("PORT=0", SOON).await.unwrap();
    let unexpected: Vec<String> = child
        .lines()
        .into_iter()
        .filter(|line| {
            !["PORT=", "PATH=", "HOME=", "TMPDIR="]
                .iter()
                .any(|known| line.starts_with(known))
        })
        .collect();
    assert_eq!(unexpected, Vec::<String>::new());
}

#[tokio::test]
async fn lines_of_both_streams_are_heard_also_from_a_position_on() {
    let child = shell("echo one; echo two >&2; read _ || true; echo one again; exec sleep 600");
    child.wait_for_line("two", SOON).await.unwrap();
    assert_eq!(child.wait_for_line("one", SOON).await.unwrap(), "one");
    child.wait_for_line("again", SOON).await.unwrap();
    let from = child.line_count();
    let error = child
        .wait_for_line_after(from, "one", Duration::from_millis(20))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the deadline passed") && error.contains("one again"),
        "{error}"
    );
}

#[tokio::test]
async fn stdout_is_told_whole_whatever_is_printed_on_stderr_meanwhile() {
    // With a breath between, so that the lines are read as they come: mixed.
    let script = "for n in 1 2 3; do echo $n; echo said $n >&2; sleep 0.02; done; exec 1>&-; sleep 0.05; echo last >&2";
    let mut child = shell(script);
    assert!(child.wait_exit(SOON).await.unwrap().success());
    let printed = child.printed(SOON).await.unwrap();
    assert_eq!(printed.stdout, "1\n2\n3");
    for line in ["1", "said 3", "last"] {
        assert!(
            printed.text.lines().any(|found| found == line),
            "{}",
            printed.text
        );
    }
    assert_eq!(printed.text.lines().count(), 7);
}

#[tokio::test]
async fn what_goes_on_printing_has_not_printed_all() {
    let child = shell("echo one; exec sleep 600");
    child.wait_for_line("one", SOON).await.unwrap();
    let error = child.printed(Duration::from_millis(20)).await.unwrap_err();
    assert!(format!("{error:#}").contains("did not end"), "{error:#}");
}

#[tokio::test]
async fn sigterm_reaches_the_child_which_may_exit_as_it_likes() {
    let mut child = shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.02; done");
    child.wait_for_line("ready", SOON).await.unwrap();
    assert!(child.is_running().unwrap());
    child.sigterm().unwrap();
    assert_eq!(child.wait_exit(SOON).await.unwrap().code(), Some(7));
    child.wait_for_line("bye", SOON).await.unwrap();
    assert!(!child.is_running().unwrap());
    assert!(
        child.sigterm().is_err(),
        "a pid that is no longer ours must not be signalled"
    );
}

#[tokio::test]
async fn a_child_that_does_not_exit_in_time_is_reported_with_its_output() {
    let mut child = shell("echo stubborn; exec sleep 600");
    child.wait_for_line("stubborn", SOON).await.unwrap();
    let error = child.wait_exit(Duration::from_millis(20)).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("stubborn") && text.contains("did not exit within"),
        "{text}"
    );
}

#[tokio::test]
async fn sigkill_ends_a_stopped_child() {
    let mut child = shell("echo ready; exec sleep 600");
    child.wait_for_line("ready", SOON).await.unwrap();
    child.sigstop().unwrap();
    assert!(child.is_running().unwrap());
    assert_eq!(child.sigkill().await.unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_stopped_child_does_nothing_until_it_is_continued() {
    let mut child = shell("while :; do echo tick; sleep 0.01; done");
    child.wait_for_line("tick", SOON).await.unwrap();
    child.sigstop().unwrap();
    let stopped = || async { (state(child.pid()) == 'T').then_some(()) };
    eventually("the stop", SOON, Duration::from_millis(2), stopped)
        .await
        .unwrap();
    child.sigcont().unwrap();
    let from = child.line_count();
    // More than may have been in the pipe when it stopped.
    for number in 0..5 {
        child
            .wait_for_line_after(from + number, "tick", SOON)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn drop_kills_the_child_and_what_it_forked() {
    let child = shell("sleep 600 & echo \"$!\"; wait");
    let grandchild = child.wait_for_line("", SOON).await.unwrap();
    let (pid, grandchild) = (child.pid(), grandchild.parse::<u32>().unwrap());
    drop(child);
    assert_eq!(state(pid), '-');
    let gone = || async { matches!(state(grandchild), '-' | 'Z').then_some(()) };
    eventually("the end of the grandchild", SOON, Duration::from_millis(2), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_address_is_learnt_from_the_log() {
    let child =
        shell(r#"echo '{"level":"info","message":"listening","address":"[::]:4711"}'; exec sleep 600"#);
    assert_eq!(
        child.listening_addr(SOON).await.unwrap(),
        "127.0.0.1:4711".parse().unwrap()
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_and_cpu_are_measured() {
    let mut child =
        shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo busy; while :; do sleep 1; done");
    child.wait_for_line("busy", SOON).await.unwrap();
    assert!(child.cpu_seconds().unwrap() > 0.0);
    let rss = child.rss_bytes().unwrap();
    assert!((100_000..100_000_000).contains(&rss), "{rss}");
    child.sigkill().await.unwrap();
    child.rss_bytes().unwrap_err();
}

/// Not a test by itself: what `a_killed_test_leaves_nothing_behind` runs and kills.
#[tokio::test]
#[ignore = "runs until it is killed, by the test below"]
async fn victim() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    println!("victim: {}", redis.pid());
    redis.sigstop().await.unwrap();
    std::future::pending::<()>().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_test_leaves_nothing_behind() {
    let this_test = std::env::current_exe().unwrap();
    let mut test = Child::program(this_test)
        .args(["--exact", "child::victim", "--ignored", "--nocapture"])
        .start()
        .unwrap();
    let line = test.wait_for_line("victim: ", SOON).await.unwrap();
    let pid: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let dir = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert!(dir.exists());
    test.sigkill().await.unwrap();
    let gone = || async { (matches!(state(pid), '-' | 'Z') && !dir.exists()).then_some(()) };
    eventually("the undertaker", SOON, Duration::from_millis(5), gone)
        .await
        .unwrap();
}

/// The first letter of ps' state; `-` if there is no such process.
fn state(pid: u32) -> char {
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .chars()
        .next()
        .unwrap_or('-')
}
