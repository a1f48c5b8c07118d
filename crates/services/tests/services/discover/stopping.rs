//! A run that times out or is cancelled leaves no reader behind: a parse runs on a thread that the end of its job does not reach.

use super::*;

/// The name of the threads that are measured. Other tests may run in this process.
const THREADS: &str = "given-up";
const POLL: Duration = Duration::from_millis(5);

/// The CPU time of these threads.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let spent = threads.filter_map(|thread| {
        // A thread may have ended meanwhile.
        let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        // utime and stime, in hundredths of a second.
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        name.ends_with(THREADS).then_some(ticks * 10)
    });
    Duration::from_millis(spent.sum())
}

/// Returns once the threads do nothing any more.
async fn idle() {
    loop {
        let before = cpu();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if cpu().saturating_sub(before) <= Duration::from_millis(20) {
            return;
        }
    }
}

async fn gives_up() {
    let rule = "DTSTART:19700101T000000Z\r\nRRULE:FREQ=SECONDLY;BYSECOND=1,2,3;COUNT=1000000000";
    let events: Vec<String> = (0..400)
        .map(|uid| format!("BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:x\r\n{rule}\r\nEND:VEVENT\r\n"))
        .collect();
    let body = format!("BEGIN:VCALENDAR\r\n{}END:VCALENDAR\r\n", events.concat());
    assert!(body.len() <= MAX_BYTES);
    let server = Server::start(move |_: &Request| Reply::new(200, &[], &body)).await;
    let f = Fixture::start(None, None).await;
    let id = f.source("rules", SourceKind::Ical, &server.url("/")).await;

    // What the whole body takes.
    let began = cpu();
    f.discover(id).await;
    let whole = cpu().saturating_sub(began);
    assert!(
        whole >= Duration::from_millis(100),
        "the body is too easy: {whole:?}"
    );
    idle().await;

    let began = cpu();
    let in_the_middle = async {
        while cpu().saturating_sub(began) < whole / 5 {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        ended = f.discoverer.discover(id) => panic!("it is not given up: {ended:?}"),
        () = in_the_middle => {}
    }
    tokio::time::timeout(Duration::from_secs(60), idle())
        .await
        .unwrap();
    let spent = cpu().saturating_sub(began);
    assert!(
        spent < whole * 3 / 5,
        "the reader went on: {spent:?} of {whole:?}"
    );
}

#[test]
fn a_run_that_is_given_up_ends_its_reader() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.thread_name(THREADS).enable_all().build().unwrap();
    runtime.block_on(gives_up());
}
