use holdfast_core::clock;
use serde_json::value::RawValue;

use super::sweep::WHOLE_AGAIN;
use super::*;
use crate::id::JobId;
use crate::ledger::Options;

const QUEUE: &str = "default";
const QUICK: Duration = Duration::from_millis(1);

fn job(priority: Priority, run_at: DateTime<Utc>) -> ClaimedJob {
    ClaimedJob {
        id: JobId::generate(),
        kind: "test".to_owned(),
        payload: RawValue::NULL.to_owned(),
        attempt: 0,
        crashes: 0,
        max_attempts: 1,
        timeout: QUICK,
        options: Options::default(),
        batch: None,
        priority,
        run_at,
        snoozes: 0,
        doubtful: false,
        unreadable: None,
        expired: false,
    }
}

fn ago(seconds: i64) -> DateTime<Utc> {
    clock::now() - chrono::Duration::seconds(seconds)
}

fn found(jobs: &[ClaimedJob], is_full: bool, took: Duration) -> LookResult<'_> {
    LookResult::Ended(SpanResult {
        jobs,
        is_full,
        at: clock::now(),
        took,
    })
}

fn frontiers() -> Frontiers {
    Frontiers::new(LOOK_BOUND)
}

fn from_of(frontiers: &Frontiers) -> From {
    frontiers.with(QUEUE, |frontier| frontier.from)
}

fn position(job: &ClaimedJob) -> Position {
    Position::of(job.run_at, job.id)
}

/// A queue with a frontier, whose whole looks take too long from then on.
fn sweeping() -> Frontiers {
    let frontiers = frontiers();
    frontiers.looked_at_whole(QUEUE, found(&[], false, QUICK), clock::now());
    frontiers.looked_at_whole(QUEUE, LookResult::TimedOut { took: LOOK_BOUND }, clock::now());
    frontiers
}

#[tokio::test(start_paused = true)]
async fn each_priority_goes_on_from_its_last_claim_and_stays_behind_the_clock() {
    let frontiers = frontiers();
    assert_eq!(frontiers.next_look(QUEUE), Some(Look::Whole));
    let now = clock::now();
    let jobs = [
        job(Priority::High, ago(90)),
        job(Priority::High, ago(100)),
        job(Priority::Normal, now),
    ];
    frontiers.claimed(QUEUE, &jobs, true, Some(now), QUICK);
    let expected = [Some(position(&jobs[0])), Some(Position::at(now - MARGIN)), None];
    assert_eq!(from_of(&frontiers), expected);
    frontiers.claimed(QUEUE, &jobs[..1], false, Some(now), QUICK);
    assert_eq!(
        from_of(&frontiers),
        [Some(Position::at(now - MARGIN)); 3],
        "that was all that was due"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_claim_moves_nothing_and_a_slow_empty_one_goes_on_in_slices() {
    let frontiers = frontiers();
    let jobs = [job(Priority::Low, ago(50))];
    frontiers.claimed(QUEUE, &jobs, true, Some(clock::now()), QUICK);
    frontiers.claimed(QUEUE, &[], false, None, QUICK);
    let from = [None, None, Some(position(&jobs[0]))];
    assert_eq!(frontiers.onward(QUEUE), Onward::Plain(from));
    frontiers.claimed(QUEUE, &[], false, None, LOOK_BOUND * 2);
    let Onward::Slice(spans) = frontiers.onward(QUEUE) else {
        panic!("not in slices")
    };
    assert_eq!(spans.map(|span| span.since), from);
    assert_eq!(frontiers.look_again_in(QUEUE), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_way_onward_ends_at_the_servers_now_and_is_never_left_out() {
    let frontiers = frontiers();
    let begin = position(&job(Priority::Normal, ago(3_600)));
    let jobs = [job(Priority::Normal, begin.time())];
    frontiers.claimed(QUEUE, &jobs, true, Some(clock::now()), QUICK);
    frontiers.stalled(QUEUE, From::default(), clock::now());
    let mut reached = from_of(&frontiers)[1];
    for step in 0.. {
        assert!(step < 100, "it does not end");
        let Onward::Slice(spans) = frontiers.onward(QUEUE) else {
            break;
        };
        assert_eq!(spans[1].since, reached, "without a gap");
        if step % 5 == 4 {
            frontiers.went_on(QUEUE, spans, LookResult::TimedOut { took: LOOK_BOUND });
            continue;
        }
        frontiers.went_on(QUEUE, spans, found(&[], false, QUICK));
        reached = from_of(&frontiers)[1];
    }
    assert!(reached.unwrap().time() >= ago(3));
}

#[tokio::test(start_paused = true)]
async fn the_whole_queue_is_looked_at_again_and_again_while_that_is_cheap() {
    let frontiers = frontiers();
    frontiers.looked_at_whole(QUEUE, found(&[], false, QUICK), clock::now());
    assert_eq!(
        frontiers.look_again_in(QUEUE),
        None,
        "it has looked at everything"
    );
    assert_eq!(frontiers.next_look(QUEUE), None);
    tokio::time::advance(PAUSE / 2).await;
    frontiers.claimed(QUEUE, &[], false, None, QUICK);
    assert_eq!(frontiers.look_again_in(QUEUE), Some(PAUSE / 2));
    tokio::time::advance(PAUSE / 2).await;
    assert_eq!(frontiers.next_look(QUEUE), Some(Look::Whole));
    assert_eq!(frontiers.peek_from(QUEUE), From::default());
    // The dearer, the seldomer; and in the end all the same.
    for (took, pause) in [
        (PAUSE * 2 / SHARE, PAUSE * 2),
        (Duration::from_hours(1), LONGEST_PAUSE),
    ] {
        frontiers.looked_at_whole(QUEUE, found(&[], false, took), clock::now());
        tokio::time::advance(pause / 10 * 9).await;
        assert_eq!(frontiers.next_look(QUEUE), None);
        tokio::time::advance(pause / 10).await;
        assert_eq!(frontiers.next_look(QUEUE), Some(Look::Whole));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peek_at_the_whole_queue_counts_unless_it_found_something() {
    let frontiers = frontiers();
    frontiers.looked_at_whole(QUEUE, found(&[], false, QUICK), clock::now());
    let from = frontiers.peek_from(QUEUE);
    assert_ne!(from, From::default());
    frontiers.peeked(QUEUE, from, true, QUICK);
    assert_eq!(frontiers.peek_from(QUEUE), from, "the claim finds it there");
    tokio::time::advance(PAUSE).await;
    frontiers.peeked(QUEUE, From::default(), false, QUICK);
    assert_eq!(
        (frontiers.next_look(QUEUE), frontiers.look_again_in(QUEUE)),
        (None, None)
    );
    tokio::time::advance(PAUSE).await;
    frontiers.peeked(QUEUE, From::default(), true, QUICK);
    assert_eq!(frontiers.next_look(QUEUE), Some(Look::Whole));
}

#[tokio::test(start_paused = true)]
async fn a_full_whole_look_sets_the_frontier_back_to_what_it_found() {
    let frontiers = frontiers();
    frontiers.looked_at_whole(QUEUE, found(&[], false, QUICK), clock::now());
    let late = [job(Priority::Normal, ago(500))];
    frontiers.looked_at_whole(QUEUE, found(&late, true, QUICK), clock::now());
    assert_eq!(from_of(&frontiers)[1], Some(position(&late[0])));
    frontiers.looked_at_whole(QUEUE, found(&late, false, QUICK), clock::now());
    assert!(from_of(&frontiers)[1].unwrap().time() > ago(5), "that was all");
}

#[tokio::test(start_paused = true)]
async fn a_whole_look_that_takes_too_long_keeps_the_frontier_and_the_next_that_does_not_ends_the_sweep() {
    let frontiers = frontiers();
    frontiers.looked_at_whole(QUEUE, found(&[], false, QUICK), clock::now());
    let from = from_of(&frontiers);
    frontiers.looked_at_whole(QUEUE, LookResult::TimedOut { took: LOOK_BOUND }, clock::now());
    assert_eq!(frontiers.onward(QUEUE), Onward::Plain(from));
    assert!(matches!(frontiers.next_look(QUEUE), Some(Look::Slice(_))));
    tokio::time::advance(WHOLE_AGAIN).await;
    assert_eq!(frontiers.next_look(QUEUE), Some(Look::Whole));
    frontiers.looked_at_whole(QUEUE, found(&[], false, QUICK), clock::now());
    assert_eq!(
        (frontiers.next_look(QUEUE), frontiers.look_again_in(QUEUE)),
        (None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_frontier_and_a_whole_look_the_walk_goes_back_from_now_and_ends() {
    let frontiers = frontiers();
    let now = clock::now();
    frontiers.looked_at_whole(QUEUE, LookResult::TimedOut { took: LOOK_BOUND }, now);
    assert_eq!(from_of(&frontiers), [Some(Position::at(now - MARGIN)); 3]);
    let mut below = from_of(&frontiers);
    let mut slices = 0;
    while frontiers.with(QUEUE, |frontier| {
        frontier.sweep.as_ref().unwrap().unknown.is_some()
    }) {
        slices += 1;
        assert!(slices < 500, "it does not end");
        tokio::time::advance(LOOK_BOUND).await;
        frontiers.with(QUEUE, |frontier| {
            frontier.whole_due = Instant::now() + WHOLE_AGAIN;
        });
        let Some(Look::Slice(spans)) = frontiers.next_look(QUEUE) else {
            panic!("it is put off")
        };
        assert_eq!(spans.map(|span| span.until), below, "without a gap");
        // What is denser than its bound allows has to be cut.
        let is_dense = slices % 3 == 0;
        let looked = if is_dense {
            LookResult::TimedOut { took: LOOK_BOUND }
        } else {
            below = spans.map(|span| span.since);
            found(&[], false, QUICK)
        };
        frontiers.looked_behind(QUEUE, spans, looked);
    }
    assert_eq!(below, From::default(), "down to the beginning");
}

/// What lies at a place comes to light at any moment of a sweep, while the frontier moves on with the clock.
#[tokio::test(start_paused = true)]
async fn a_job_behind_the_frontier_is_in_a_slice_after_about_as_long_as_it_lies_behind() {
    for (behind, within) in [(1, 10), (7, 40), (100, 600), (1_500, 9_000)] {
        let frontiers = sweeping();
        let epoch = (clock::now(), Instant::now());
        let now = || epoch.0 + chrono::Duration::from_std(epoch.1.elapsed()).unwrap();
        let look = |take: &dyn Fn(Levels<Span>)| {
            let at = now();
            let newest = [Some(Position::at(at - MARGIN)); 3];
            frontiers.with(QUEUE, |frontier| {
                frontier.from = newest;
                frontier.whole_due = Instant::now() + WHOLE_AGAIN;
            });
            if let Some(Look::Slice(spans)) = frontiers.next_look(QUEUE) {
                take(spans);
                let ended = LookResult::Ended(SpanResult {
                    jobs: &[],
                    is_full: false,
                    at,
                    took: QUICK * 20,
                });
                frontiers.looked_behind(QUEUE, spans, ended);
            }
        };
        let step = Duration::from_millis(100);
        for _ in 0..6_000 {
            look(&|_| {});
            tokio::time::advance(step).await;
        }
        let place = Position::at(now() - MARGIN - chrono::Duration::seconds(behind));
        let appeared = Instant::now();
        let is_found = std::cell::Cell::new(false);
        while !is_found.get() {
            look(&|spans| {
                let lies_in = spans[1].since.is_none_or(|since| since <= place)
                    && spans[1].until.is_none_or(|until| place < until);
                is_found.set(is_found.get() || lies_in);
            });
            tokio::time::advance(step).await;
            assert!(
                appeared.elapsed() < Duration::from_secs(within),
                "{behind} s behind and not found after {within} s"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn looks_take_a_twenty_fifth_of_the_time_and_no_level_starves() {
    let frontiers = sweeping();
    let (began, mut spent) = (Instant::now(), Duration::ZERO);
    let took = LOOK_BOUND / 3;
    for _ in 0..8_000 {
        frontiers.with(QUEUE, |frontier| {
            frontier.whole_due = Instant::now() + WHOLE_AGAIN;
        });
        let wait = frontiers.look_again_in(QUEUE).unwrap();
        tokio::time::advance(wait).await;
        frontiers.with(QUEUE, |frontier| {
            frontier.whole_due = Instant::now() + WHOLE_AGAIN;
        });
        if let Some(Look::Slice(spans)) = frontiers.next_look(QUEUE) {
            tokio::time::advance(took).await;
            spent += took;
            frontiers.looked_behind(QUEUE, spans, found(&[], false, took));
        }
    }
    assert!(
        spent * 25 <= began.elapsed() + LOOK_BOUND * 50,
        "{spent:?} of {:?}",
        began.elapsed()
    );
    frontiers.with(QUEUE, |frontier| {
        let sweep = frontier.sweep.as_ref().unwrap();
        for level in &sweep.levels {
            assert!(level.served > 0, "{level:?}");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn what_a_full_slice_has_left_is_next_after_one_claim_from_the_frontier() {
    let frontiers = sweeping();
    let Some(Look::Slice(spans)) = frontiers.next_look(QUEUE) else {
        panic!("no look")
    };
    let middle = spans[1]
        .until
        .unwrap()
        .minus(Width::of_seconds(1).divided(2))
        .unwrap();
    let jobs = [job(Priority::Normal, middle.time())];
    frontiers.looked_behind(QUEUE, spans, found(&jobs, true, QUICK));
    assert_eq!(frontiers.look_again_in(QUEUE), Some(Duration::ZERO));
    assert_eq!(
        frontiers.next_look(QUEUE),
        None,
        "what is due beyond has its turn"
    );
    frontiers.claimed(QUEUE, &[], false, None, QUICK);
    let Some(Look::Slice(rest)) = frontiers.next_look(QUEUE) else {
        panic!("no look")
    };
    assert_eq!(rest[1].since, Some(position(&jobs[0])));
    assert_eq!(rest[1].until, spans[1].until);
}

#[tokio::test(start_paused = true)]
async fn a_frontier_is_published_when_it_has_moved_and_taken_over_when_it_is_further() {
    let frontiers = frontiers();
    assert!(frontiers.is_new(QUEUE));
    let theirs = [None, Some(Position::at(ago(60))), None];
    frontiers.load(QUEUE, theirs);
    assert!(!frontiers.is_new(QUEUE));
    assert_eq!(from_of(&frontiers), theirs);
    frontiers.load(QUEUE, [None, Some(Position::at(ago(90))), None]);
    assert_eq!(from_of(&frontiers), theirs, "theirs is behind");
    tokio::time::advance(PUBLISH_EVERY).await;
    assert_eq!(frontiers.to_publish(QUEUE), Some(theirs));
    tokio::time::advance(PUBLISH_EVERY).await;
    assert_eq!(frontiers.to_publish(QUEUE), None, "it has not moved");
    frontiers.claimed(
        QUEUE,
        &[job(Priority::Normal, ago(9))],
        false,
        Some(clock::now()),
        QUICK,
    );
    assert!(frontiers.to_publish(QUEUE).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_is_not_taken_for_one_that_was_walked() {
    let frontiers = sweeping();
    let Some(Look::Slice(spans)) = frontiers.next_look(QUEUE) else {
        panic!("no look")
    };
    frontiers.looked_behind(QUEUE, spans, LookResult::Refused);
    tokio::time::advance(PAUSE).await;
    assert_eq!(frontiers.next_look(QUEUE), Some(Look::Slice(spans)));
}
