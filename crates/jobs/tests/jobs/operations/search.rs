//! Searches: what each condition finds, and how far a call goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_jobs::enqueue::FaultCode;
use holdfast_jobs::ledger::{ErrorRecord, JobFilter, NewJob, Outcome, Priority, RunAt};
use holdfast_jobs::search::{CALL_ROWS, Certainty, CountBy, CountedJobs, FoundJobs, JobSearch, SearchFrom};
use holdfast_jobs::{JobId, Jobs, State};

use crate::operations::audit::jobs_of;
use crate::support::{Fixture, LOST_AFTER, new_job, raw};

contract!(
    each_condition_finds_its_jobs_and_its_opposite_the_others,
    a_search_goes_on_where_a_call_ended_and_finds_each_job_once,
    a_page_ends_at_its_limit_in_either_direction,
    a_payload_is_searched_as_it_is_shown,
    large_payloads_are_searched_in_parts,
    counts_are_exact_where_every_job_was_looked_at,
    a_queue_is_known_by_its_rows,
);

fn search(query: &str) -> JobSearch {
    JobSearch {
        query: query.parse().unwrap(),
        from: SearchFrom::Newest,
        limit: 1_000,
        shown: None,
    }
}

async fn found(jobs: &Jobs, query: &str) -> FoundJobs {
    jobs.search(&search(query)).await.unwrap()
}

/// Ids of one millisecond have no order: these have one each.
fn id(number: u64) -> JobId {
    JobId::first_of_ms(clock::unix_millis() - 3_600_000 + number)
}

async fn each_condition_finds_its_jobs_and_its_opposite_the_others(f: Fixture) {
    let jobs = jobs_of(&f);
    let error =
        |class: &'static str, message: &str| vec![ErrorRecord::new(clock::now(), 1, class, message, "w")];
    let plain = NewJob {
        id: id(0),
        ..new_job()
    };
    let keyed = NewJob {
        id: id(1),
        limit_key: Some("cust,7".to_owned()),
        unique_key: Some("u1".to_owned()),
        priority: Priority::High,
        tags: vec!["vip".to_owned(), "eu, west".to_owned()],
        enqueued_by: Some(Arc::from("key/01J")),
        ..new_job()
    };
    let later = NewJob {
        id: id(2),
        run_at: RunAt::In(Duration::from_hours(1)),
        queue: Arc::from("mail"),
        kind: Arc::from("mail.send"),
        payload: Arc::from(raw(r#"{"customer":{"id":42},"note":"Zürich \u0041"}"#)),
        ..new_job()
    };
    let retried = NewJob {
        id: id(3),
        attempt: 2,
        run_at: RunAt::In(Duration::from_hours(1)),
        errors: error("timeout", "the peer TIMED out"),
        ..new_job()
    };
    let dead = NewJob {
        id: id(4),
        attempt: 4,
        crashes: 1,
        discarded: true,
        errors: error("permanent", "no such 100%_thing"),
        payload: Arc::from(raw(r#"{"customer":{"id":"42"}}"#)),
        ..new_job()
    };
    let recent = NewJob {
        queue: Arc::from("events"),
        ..new_job()
    };
    let all = [plain, keyed, later, retried, dead, recent];
    f.ledger.insert(&all).await.unwrap();
    let worker = f.worker().await;
    let claimed = f.ledger.claim("events", worker, 1, LOST_AFTER).await.unwrap();
    let ids: Vec<JobId> = all.iter().map(|job| job.id).collect();
    let worker_term = format!("worker:{worker}");
    let id_term = format!("id:{}", &ids[1].to_string()[..26]);
    for (query, expected) in [
        ("", &[0, 1, 2, 3, 4, 5][..]),
        ("kind:mail.send", &[2]),
        ("kind:mail.send,test.kind", &[0, 1, 2, 3, 4, 5]),
        ("queue:mail,events", &[2, 5]),
        ("queue:default state:available", &[0, 1]),
        ("state:available", &[0, 1]),
        ("state:scheduled", &[2]),
        ("state:retryable", &[3]),
        ("state:running", &[5]),
        ("state:discarded", &[4]),
        ("state:discarded,running queue:events,default", &[4, 5]),
        ("state:completed", &[]),
        ("state:completed state:running", &[]),
        ("priority:high", &[1]),
        (r#"key:"cust,7""#, &[1]),
        ("unique:u1,u2", &[1]),
        ("tag:vip", &[1]),
        (r#"tag:new,"eu, west""#, &[1]),
        ("tag:vi", &[]),
        ("by:key/01J", &[1]),
        ("by:key/01K", &[]),
        (&worker_term, &[5]),
        (&id_term, &[1]),
        ("attempt:2", &[3]),
        ("attempt:>=2", &[3, 4]),
        ("attempt:<2", &[0, 1, 2, 5]),
        ("crashes:>0", &[4]),
        ("age:>10m", &[0, 1, 2, 3, 4]),
        ("age:<10m", &[5]),
        (r#"error:"timed out""#, &[3]),
        ("error:permanent", &[4]),
        ("error:100%_t", &[4]),
        ("payload.customer.id:42", &[2, 4]),
        ("payload.customer.id:42 state:discarded", &[4]),
        ("payload.customer.id:7,42 -state:discarded", &[2]),
        ("payload.a:1 queue:events", &[5]),
        ("payload:zürich", &[2]),
        (r#"payload.note:"Zürich A""#, &[2]),
    ] {
        let expected: BTreeSet<JobId> = expected.iter().map(|place| ids[*place]).collect();
        let page = found(&jobs, query).await;
        assert_eq!(
            page.ids.iter().copied().collect::<BTreeSet<_>>(),
            expected,
            "{query}"
        );
        assert!(page.ids.is_sorted_by(|a, b| a > b), "{query}: newest first");
        assert_eq!(page.next, None, "{query}");
        if query.split_once(' ').is_none() && !query.is_empty() {
            let rest: BTreeSet<JobId> = ids.iter().copied().filter(|id| !expected.contains(id)).collect();
            let page = found(&jobs, &format!("-{query}")).await;
            assert_eq!(
                page.ids.iter().copied().collect::<BTreeSet<_>>(),
                rest,
                "-{query}"
            );
        }
    }

    let outcome = Outcome::Completed {
        fence: claimed[0].fence(),
        result: None,
    };
    f.ledger.finish(worker, &[outcome]).await.unwrap();
    let done = found(&jobs, "state:completed").await;
    assert_eq!((done.ids, done.searched, done.of), (vec![ids[5]], 6, Some(6)));
    let summaries = jobs
        .summaries(&[ids[4], ids[5], JobId::generate(), ids[2]])
        .await
        .unwrap();
    let seen: Vec<_> = summaries
        .iter()
        .map(|summary| (summary.id, summary.state))
        .collect();
    assert_eq!(
        seen,
        [
            (ids[4], State::Discarded),
            (ids[5], State::Completed),
            (ids[2], State::Scheduled)
        ]
    );
    assert_eq!(
        summaries[0].last_error.as_ref().unwrap().message,
        "no such 100%_thing"
    );
    assert_eq!(summaries[1].last_error, None);
}

/// Calls until there is nothing more to look at: the calls, and all jobs that were found.
async fn to_the_end(jobs: &Jobs, mut search: JobSearch) -> (Vec<FoundJobs>, Vec<JobId>) {
    let (mut calls, mut ids) = (Vec::new(), Vec::new());
    loop {
        let call = jobs.search(&search).await.unwrap();
        ids.extend(call.ids.iter().copied());
        let next = call.next;
        calls.push(call);
        match next {
            Some(next) => search.from = SearchFrom::OlderThan(next),
            None => return (calls, ids),
        }
    }
}

async fn a_search_goes_on_where_a_call_ended_and_finds_each_job_once(f: Fixture) {
    const JOBS: u64 = 30_000;
    let jobs = jobs_of(&f);
    let numbers: Vec<u64> = (0..JOBS).collect();
    for part in numbers.chunks(1_000) {
        let part: Vec<NewJob> = part
            .iter()
            .map(|number| NewJob {
                id: id(*number),
                payload: Arc::from(raw(&format!(r#"{{"n":{number}}}"#))),
                kind: Arc::from(if number % 10_000 == 5 {
                    "rare.kind"
                } else {
                    "test.kind"
                }),
                ..new_job()
            })
            .collect();
        f.ledger.insert(&part).await.unwrap();
    }
    for query in [
        "kind:rare.kind",
        "payload.n:5,10005,20005",
        "kind:rare.kind state:available",
    ] {
        let (calls, ids) = to_the_end(&jobs, search(query)).await;
        assert_eq!(ids.len(), 3, "{query}");
        assert!(ids.is_sorted_by(|a, b| a > b), "{query}");
        assert_eq!(
            calls.iter().map(|call| call.searched).sum::<u64>(),
            JOBS,
            "{query}"
        );
        assert!(calls.len() > 1, "{query}");
        assert!(
            calls.iter().all(|call| call.searched <= CALL_ROWS as u64),
            "{query}"
        );
    }
    // What a partial index has is found with one call, however many other jobs there are.
    let worker = f.worker().await;
    f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    let running = found(&jobs, "state:running").await;
    assert_eq!((running.ids.len(), running.searched, running.of), (3, 3, Some(3)));
    assert_eq!(running.next, None);
    // The list for Rust code has no end before its limit.
    let filter = JobFilter {
        kind: Some("rare.kind".to_owned()),
        limit: 3,
        ..JobFilter::default()
    };
    assert_eq!(jobs.list(&filter).await.unwrap().len(), 3);
}

async fn a_page_ends_at_its_limit_in_either_direction(f: Fixture) {
    let jobs = jobs_of(&f);
    let all: Vec<NewJob> = (0..10)
        .map(|number| NewJob {
            id: id(number),
            kind: Arc::from(if number % 2 == 0 { "even.kind" } else { "odd.kind" }),
            ..new_job()
        })
        .collect();
    f.ledger.insert(&all).await.unwrap();
    let page = async |query: &str, from, limit| {
        let search = JobSearch {
            from,
            limit,
            ..search(query)
        };
        let found = jobs.search(&search).await.unwrap();
        let places: Vec<usize> = found
            .ids
            .iter()
            .map(|id| all.iter().position(|job| job.id == *id).unwrap())
            .collect();
        (places, found.next.is_some())
    };
    for set in ["", " state:available"] {
        let query = |text: &str| format!("{text}{set}");
        let newest = SearchFrom::Newest;
        assert_eq!(page(&query(""), newest, 3).await, (vec![9, 8, 7], true), "{set}");
        assert_eq!(
            page(&query("kind:odd.kind"), newest, 5).await,
            (vec![9, 7, 5, 3, 1], false),
            "{set}"
        );
        assert_eq!(
            page(&query("kind:odd.kind"), newest, 2).await,
            (vec![9, 7], true),
            "{set}"
        );
        let older = SearchFrom::OlderThan(all[7].id);
        assert_eq!(
            page(&query("kind:odd.kind"), older, 2).await,
            (vec![5, 3], true),
            "{set}"
        );
        let newer = SearchFrom::NewerThan(all[3].id);
        assert_eq!(
            page(&query("kind:odd.kind"), newer, 2).await,
            (vec![5, 7], true),
            "{set}"
        );
        assert_eq!(
            page(&query(""), newer, 6).await,
            (vec![4, 5, 6, 7, 8, 9], false),
            "{set}"
        );
    }
    let counted = jobs
        .search(&JobSearch {
            limit: 2,
            ..search("kind:odd.kind")
        })
        .await
        .unwrap();
    assert_eq!(counted.searched, 3, "from the newest to the last one of the page");
}

async fn a_payload_is_searched_as_it_is_shown(f: Fixture) {
    let jobs = jobs_of(&f);
    f.ledger.insert(&[new_job()]).await.unwrap();
    let hidden = JobSearch {
        shown: Some(Arc::new(|kind, _| {
            (kind == "test.kind").then(|| raw(r#"{"a":"[redacted]"}"#))
        })),
        ..search("payload.a:1")
    };
    assert!(jobs.search(&hidden).await.unwrap().ids.is_empty());
    assert_eq!(found(&jobs, "payload.a:1").await.ids.len(), 1);
    let opposite = JobSearch {
        query: "-payload.a:1".parse().unwrap(),
        ..hidden
    };
    assert_eq!(jobs.search(&opposite).await.unwrap().ids.len(), 1);
}

async fn large_payloads_are_searched_in_parts(f: Fixture) {
    let jobs = jobs_of(&f);
    let letters: String = (0..600_000_u32)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 20) as u8 % 26))
        .collect();
    let all: Vec<NewJob> = (0..20)
        .map(|number| NewJob {
            id: id(number),
            payload: Arc::from(raw(&format!(r#"{{"text":"{letters}","n":{number}}}"#))),
            ..new_job()
        })
        .collect();
    for job in &all {
        f.ledger.insert(std::slice::from_ref(job)).await.unwrap();
    }
    let (calls, ids) = to_the_end(&jobs, search("payload.n:0,19")).await;
    assert_eq!(ids, [all[19].id, all[0].id]);
    assert_eq!(calls.iter().map(|call| call.searched).sum::<u64>(), 20);
}

fn groups(counted: &CountedJobs) -> Vec<(&str, u64, Certainty)> {
    let groups = counted.groups.iter();
    groups
        .map(|group| (&*group.value, group.count, group.certainty))
        .collect()
}

async fn counts_are_exact_where_every_job_was_looked_at(f: Fixture) {
    use Certainty::{AtLeast, Exact};
    let jobs = jobs_of(&f);
    let mut all: Vec<NewJob> = (0..5)
        .map(|number| NewJob {
            id: id(number),
            ..new_job()
        })
        .collect();
    all[0].queue = Arc::from("mail");
    all[1].run_at = RunAt::In(Duration::from_hours(1));
    (all[2].attempt, all[2].run_at) = (1, RunAt::In(Duration::from_hours(1)));
    all[3].discarded = true;
    f.ledger.insert(&all).await.unwrap();
    let count = async |query: &str, by| jobs.count_jobs(&search(query), by).await.unwrap();
    let by_state = count("", CountBy::State).await;
    assert_eq!(
        groups(&by_state),
        [
            ("available", 2, Exact),
            ("discarded", 1, Exact),
            ("retryable", 1, Exact),
            ("scheduled", 1, Exact)
        ]
    );
    assert_eq!(
        (by_state.searched, by_state.of, by_state.is_complete),
        (5, Some(5), true)
    );
    let by_queue = count("payload.a:1", CountBy::Queue).await;
    assert_eq!(groups(&by_queue), [("default", 4, Exact), ("mail", 1, Exact)]);
    assert_eq!(
        groups(&count("state:available", CountBy::Kind).await),
        [("test.kind", 2, Exact)]
    );
    assert_eq!(groups(&count("kind:none", CountBy::State).await), []);

    // More than one call looks at: what has not ended is exact all the same, and the rest says what it is.
    for part in 0..25_u64 {
        let part: Vec<NewJob> = (0..1_000)
            .map(|number| NewJob {
                id: id(100 + part * 1_000 + number),
                ..new_job()
            })
            .collect();
        f.ledger.insert(&part).await.unwrap();
    }
    f.sql(
        "update holdfast_jobs set state = 'completed', finished_at = now() where state = 'available' and attempt = 0 and run_at <= now()",
        "update holdfast_jobs set state = 'completed', finished_at = 0 where state = 'available' and attempt = 0 and run_at <= unixepoch('subsec') * 1000",
    )
    .await;
    let many = count("", CountBy::State).await;
    assert!(!many.is_complete && many.searched <= CALL_ROWS as u64, "{many:?}");
    let of = |value: &str| {
        let group = many.groups.iter().find(|group| group.value == value);
        group.map(|group| (group.count, group.certainty))
    };
    assert_eq!(of("scheduled"), Some((1, Exact)));
    assert_eq!(of("discarded"), Some((1, Exact)));
    let (completed, certainty) = of("completed").unwrap();
    assert!(certainty != Exact && completed >= many.searched, "{many:?}");
    assert!(certainty != AtLeast || many.of.is_none(), "{many:?}");
}

async fn a_queue_is_known_by_its_rows(f: Fixture) {
    let jobs = jobs_of(&f);
    let on = |queue: &str, discarded: bool| NewJob {
        queue: Arc::from(queue),
        discarded,
        ..new_job()
    };
    let rows = [
        on("waits", false),
        on("runs", false),
        on("dead", true),
        on("ended", false),
    ];
    let unknown = async |names: &[&str]| jobs.unknown_queue("q", names).await.unwrap();
    for row in &rows {
        let fault = unknown(&["default", &row.queue]).await.unwrap();
        assert_eq!((fault.code, &*fault.field), (FaultCode::UnknownQueue, "q"));
        assert!(fault.reason.contains(&*row.queue), "{fault}");
        assert!(fault.reason.contains("default"), "it lists the queues: {fault}");
    }
    f.ledger.insert(&rows).await.unwrap();
    let worker = f.worker().await;
    for queue in ["runs", "ended"] {
        let claimed = f.ledger.claim(queue, worker, 1, LOST_AFTER).await.unwrap();
        assert_eq!(claimed.len(), 1);
        if queue == "ended" {
            let outcome = Outcome::Completed {
                fence: claimed[0].fence(),
                result: None,
            };
            f.ledger.finish(worker, &[outcome]).await.unwrap();
        }
    }
    assert_eq!(
        unknown(&["waits", "runs", "dead", "ended", "default"]).await,
        None
    );
    f.ledger.set_paused("paused", true).await.unwrap();
    assert_eq!(unknown(&["paused"]).await, None);

    // Its jobs are gone, and its statistics are there.
    assert!(unknown(&["past"]).await.is_some());
    let row = "insert into holdfast_stats (span, slot, queue, kind, process, enqueued, completed, retried, discarded, cancelled)
        values (1440, 0, 'past', 'a', '', 1, 1, 0, 0, 0)";
    f.sql(row, row).await;
    assert_eq!(unknown(&["past"]).await, None);
}
