//! A run that times out or is cancelled leaves no reader behind: a parse runs on a thread that the end of its job does not reach.

use std::time::Instant;

use super::*;

/// The CPU time of this process: the tests run in one process each.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime and stime, in hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

/// Returns once the process does nothing any more.
async fn idle() {
    loop {
        let before = cpu();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if cpu().saturating_sub(before) <= Duration::from_millis(20) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_given_up_ends_its_reader() {
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
    let (began, at) = (cpu(), Instant::now());
    f.discover(id).await;
    let (whole, took) = (cpu().saturating_sub(began), at.elapsed());
    assert!(
        whole >= Duration::from_millis(300),
        "the body is too easy: {whole:?}"
    );
    idle().await;

    let began = cpu();
    let given_up = tokio::time::timeout(took / 5, f.discoverer.discover(id)).await;
    assert!(given_up.is_err(), "it is given up in the middle");
    tokio::time::timeout(Duration::from_secs(60), idle())
        .await
        .unwrap();
    let spent = cpu().saturating_sub(began);
    assert!(
        spent < whole * 3 / 5,
        "the reader went on: {spent:?} of {whole:?}"
    );
}
