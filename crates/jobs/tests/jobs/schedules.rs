//! One contract: every test here runs on PostgreSQL, on PostgreSQL behind PgBouncer in transaction mode, and on SQLite.
//! Rows are moved in time, not the clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta};
use holdfast_core::config::ScheduleSettings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter, action};
use holdfast_jobs::ledger::{JobFilter, JobRecord};
use holdfast_jobs::schedules::{
    Definition, Note, ScheduleError, ScheduleRecord, Schedules, Source, Step, Ticker,
};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry};
use holdfast_testkit::eventually;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use support::{Fixture, raw};

/// Writes each test once for each way to a database.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::support::postgres().await).await; })+
        }
        mod behind_pgbouncer {
            $(#[tokio::test] async fn $name() { super::$name(super::support::pgbouncer().await).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::support::sqlite().await).await; })+
        }
    };
}

contract!(
    a_step_is_taken_once_whoever_asks_and_however_late,
    missed_ticks_are_caught_up_with_as_the_schedule_says,
    beats_side_by_side_make_one_job_of_each_tick,
    a_thousand_schedules_due_in_the_same_second_tick_within_a_second,
    an_edit_keeps_the_tick_unless_the_rhythm_changes,
    a_disabled_schedule_does_not_tick_and_has_nothing_to_catch_up_with,
    the_configuration_owns_its_schedules,
    a_schedule_of_the_configuration_stays_paused_however_often_beats_start,
    a_tick_that_cannot_become_a_job_waits_for_a_beat_that_can_make_it,
    a_run_by_hand_is_shown_and_is_no_tick,
    every_fault_of_a_definition_is_told_with_its_field,
    a_jitter_moves_the_job_and_not_the_tick,
    beats_are_known_while_they_live,
);

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Greet {
    to: String,
}

impl Job for Greet {
    const KIND: &'static str = "test.greet";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

fn schedules_knowing(f: &Fixture, registry: Registry) -> Schedules {
    let gate = RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap();
    let jobs = Jobs::new(&f.settings, registry, &f.database, &gate);
    Schedules::new(jobs, &f.database, &f.settings.database)
}

fn by() -> AuditContext {
    AuditContext::new(Actor::user("operator"))
}

fn schedules(f: &Fixture) -> Schedules {
    schedules_knowing(f, Registry::new().register::<Greet>())
}

fn hourly(name: &str) -> Definition {
    Definition {
        name: name.to_owned(),
        cron: Some("0 * * * *".to_owned()),
        every: None,
        time_zone: None,
        kind: Greet::KIND.to_owned(),
        payload: raw(r#"{"to":"you"}"#),
        queue: None,
        catch_up: None,
        catch_up_max: None,
        jitter: None,
        enabled: true,
    }
}

async fn jobs(f: &Fixture) -> Vec<JobRecord> {
    let filter = JobFilter {
        limit: 5_000,
        ..JobFilter::default()
    };
    f.list(&filter).await
}

/// Lets every schedule wait for a tick `hours` before the one it waits for.
async fn set_back(f: &Fixture, hours: i32) {
    let postgres = format!("update holdfast_schedules set next_tick = next_tick - interval '{hours} hours'");
    let sqlite = format!("update holdfast_schedules set next_tick = next_tick - {hours} * 3600000");
    let done = match &f.database {
        Database::Postgres(pool) => sqlx::raw_sql(AssertSqlSafe(postgres))
            .execute(pool)
            .await
            .map(drop),
        Database::Sqlite(database) => {
            let writer = &database.writer;
            sqlx::raw_sql(AssertSqlSafe(sqlite))
                .execute(writer)
                .await
                .map(drop)
        }
    };
    done.unwrap();
}

/// A beat in this process, until it is dropped.
struct Beat {
    stop: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl Beat {
    fn start(f: &Fixture, schedules: &Schedules) -> Self {
        let stop = Shutdown::new();
        let mut settings = f.settings.beat.clone();
        settings.poll = Duration::from_millis(100);
        let ticker = Ticker::new(schedules.clone(), settings, stop.clone());
        Self {
            stop,
            task: tokio::spawn(ticker.run()),
        }
    }

    async fn stop(self) {
        self.stop.trigger();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

/// Waits until no schedule is due any more.
async fn caught_up(schedules: &Schedules) {
    let what = "nothing to be due any more";
    eventually(what, DEADLINE, POLL, async || {
        schedules
            .store()
            .due(1, &[])
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await
    .unwrap();
}

/// The next tick with a job of its own: two beats make different jobs of the same tick.
fn step(record: &ScheduleRecord) -> Step {
    let next = record.next_tick.unwrap();
    let mut job = support::new_job();
    job.idempotency_key = Some(format!("schedule:{}:{}", record.schedule.name, next.timestamp()));
    Step {
        name: record.schedule.name.clone(),
        revision: record.revision,
        from: next,
        to: Some(next + TimeDelta::hours(1)),
        ticked: Some(next),
        jobs: vec![job],
        observed: Vec::new(),
    }
}

async fn a_step_is_taken_once_whoever_asks_and_however_late(f: Fixture) {
    let schedules = schedules(&f);
    let record = schedules.create(&by(), hourly("once")).await.unwrap();
    let steps: Vec<Step> = (0..8).map(|_| step(&record)).collect();
    let asked = steps
        .iter()
        .map(|one| schedules.store().advance(std::slice::from_ref(one)));
    let answers: Vec<_> = futures::future::join_all(asked).await;
    let taken = answers
        .into_iter()
        .map(|answer| answer.unwrap().len())
        .sum::<usize>();
    assert_eq!((taken, jobs(&f).await.len()), (1, 1));
    let after = schedules.get("once").await.unwrap();
    assert_eq!(after.last_job, Some(jobs(&f).await[0].id));
    assert_eq!(after.last_tick, record.next_tick);
    // Even once the job is no longer kept.
    f.sql("delete from holdfast_jobs", "delete from holdfast_jobs")
        .await;
    assert!(schedules.store().advance(&steps).await.unwrap().is_empty());
    assert!(jobs(&f).await.is_empty());
}

async fn missed_ticks_are_caught_up_with_as_the_schedule_says(f: Fixture) {
    let schedules = schedules(&f);
    // Not in the moments around a full hour, when "how many were missed" has two answers.
    let mut now = schedules.store().now().await.unwrap();
    while !(15..3_480).contains(&now.timestamp().rem_euclid(3_600)) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        now = schedules.store().now().await.unwrap();
    }
    let with = |name: &str, catch_up: &str, max| Definition {
        catch_up: Some(catch_up.to_owned()),
        catch_up_max: max,
        ..hourly(name)
    };
    for definition in [
        with("skip", "skip", None),
        with("latest", "latest", None),
        with("all", "all", None),
        with("some", "all", Some(3)),
    ] {
        schedules.create(&by(), definition).await.unwrap();
    }
    set_back(&f, 10).await;
    let beat = Beat::start(&f, &schedules);
    caught_up(&schedules).await;
    beat.stop().await;
    let ticks: Vec<_> = jobs(&f).await.iter().map(|job| job.run_at).collect();
    // latest 1, all 10, some 3.
    assert_eq!(ticks.len(), 14, "{ticks:?}");
    assert_eq!(schedules.get("skip").await.unwrap().last_job, None);
    let this_hour = DateTime::from_timestamp(now.timestamp() / 3_600 * 3_600, 0).unwrap();
    let of = |hours: i64| {
        ticks
            .iter()
            .filter(|tick| **tick == this_hour - TimeDelta::hours(hours))
            .count()
    };
    assert_eq!(
        (0..10).map(of).collect::<Vec<_>>(),
        [3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    );
    for name in ["skip", "latest", "all", "some"] {
        let record = schedules.get(name).await.unwrap();
        assert_eq!(record.next_tick, Some(this_hour + TimeDelta::hours(1)), "{name}");
    }
}

async fn beats_side_by_side_make_one_job_of_each_tick(f: Fixture) {
    const SCHEDULES: usize = 20;
    let all = schedules(&f);
    let mut firsts = Vec::new();
    for number in 0..SCHEDULES {
        let definition = Definition {
            cron: None,
            every: Some(Duration::from_secs(1)),
            catch_up: Some("all".to_owned()),
            catch_up_max: Some(1_000),
            ..hourly(&format!("s{number}"))
        };
        firsts.push(all.create(&by(), definition).await.unwrap().next_tick.unwrap());
    }
    let beats: Vec<Beat> = (0..3).map(|_| Beat::start(&f, &schedules(&f))).collect();
    let wanted = SCHEDULES * 4;
    eventually("four ticks of each", DEADLINE, POLL, async || {
        (jobs(&f).await.len() >= wanted).then_some(())
    })
    .await
    .unwrap();
    for beat in beats {
        beat.stop().await;
    }
    let mut expected = 0;
    for (number, first) in firsts.into_iter().enumerate() {
        let record = all.get(&format!("s{number}")).await.unwrap();
        let last = record.last_tick.unwrap();
        assert_eq!(record.next_tick, Some(last + TimeDelta::seconds(1)));
        // From the first tick that it waited for to the last one taken: each second once.
        expected += usize::try_from((last - first).num_seconds() + 1).unwrap();
    }
    let made = jobs(&f).await.len();
    assert_eq!(made, expected);
    let mut keys: Vec<_> = jobs(&f).await.into_iter().map(|job| job.id).collect();
    keys.dedup();
    assert_eq!(keys.len(), made);
}

async fn a_thousand_schedules_due_in_the_same_second_tick_within_a_second(f: Fixture) {
    let schedules = schedules(&f);
    let (store, now) = (schedules.store(), schedules.store().now().await.unwrap());
    let template = schedules.create(&by(), hourly("t")).await.unwrap().schedule;
    schedules.delete(&by(), "t").await.unwrap();
    let due = DateTime::from_timestamp(now.timestamp() / 3_600 * 3_600, 0).unwrap();
    let by = by();
    let note = Note {
        log: schedules.jobs().audit(),
        by: &by,
        action: action::SCHEDULE_CREATE,
        details: None,
    };
    for number in 0..1_000 {
        let schedule = holdfast_jobs::schedules::Schedule {
            name: format!("t{number}"),
            ..template.clone()
        };
        assert!(
            store
                .insert(&schedule, Source::Api, Some(due), &note)
                .await
                .unwrap()
        );
    }
    let began = Instant::now();
    let beat = Beat::start(&f, &schedules);
    caught_up(&schedules).await;
    let took = began.elapsed();
    beat.stop().await;
    println!(
        "figure | schedules | 1,000 due at once, taken after | {} ms",
        took.as_millis()
    );
    assert_eq!(jobs(&f).await.len(), 1_000);
    // The promise is a second; a loaded machine of two cores and a debug build get ten.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

async fn an_edit_keeps_the_tick_unless_the_rhythm_changes(f: Fixture) {
    let schedules = schedules(&f);
    let made = schedules.create(&by(), hourly("edited")).await.unwrap();
    set_back(&f, 2).await;
    let due = schedules.get("edited").await.unwrap().next_tick;
    assert_eq!(due, made.next_tick.map(|tick| tick - TimeDelta::hours(2)));
    let other_payload = Definition {
        payload: raw(r#"{"to":"them"}"#),
        ..hourly("edited")
    };
    let put = schedules.put(&by(), other_payload).await.unwrap().into_record();
    assert_eq!((put.next_tick, put.revision), (due, 2));
    // What was read before the edit is of no use any more.
    let stale = step(&made);
    assert!(schedules.store().advance(&[stale]).await.unwrap().is_empty());
    let other_rhythm = Definition {
        cron: Some("30 4 * * *".to_owned()),
        time_zone: Some("Asia/Tokyo".to_owned()),
        ..hourly("edited")
    };
    let put = schedules.put(&by(), other_rhythm).await.unwrap().into_record();
    assert!(put.next_tick.unwrap() > put.read_at);
    assert_eq!(put.next_ticks(5).len(), 5);
    assert_eq!(put.next_ticks(1)[0].format("%H:%M").to_string(), "19:30");
    assert!(matches!(
        schedules.create(&by(), hourly("edited")).await,
        Err(ScheduleError::Exists(_))
    ));
    schedules.delete(&by(), "edited").await.unwrap();
    let filter = AuditFilter {
        action: Some("schedule.".to_owned()),
        target: Some("edited".to_owned()),
        limit: 10,
        ..AuditFilter::default()
    };
    let entries = schedules.jobs().audit().list(&filter).await.unwrap();
    let said: Vec<_> = entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.actor.as_str()))
        .collect();
    let by_whom = "user/operator";
    assert_eq!(
        said,
        [
            (action::SCHEDULE_DELETE, by_whom),
            (action::SCHEDULE_UPDATE, by_whom),
            (action::SCHEDULE_UPDATE, by_whom),
            (action::SCHEDULE_CREATE, by_whom),
        ]
    );
    assert!(matches!(
        schedules.delete(&by(), "edited").await,
        Err(ScheduleError::Unknown(_))
    ));
    assert!(matches!(
        schedules.get("edited").await,
        Err(ScheduleError::Unknown(_))
    ));
}

async fn a_disabled_schedule_does_not_tick_and_has_nothing_to_catch_up_with(f: Fixture) {
    let schedules = schedules(&f);
    schedules.create(&by(), hourly("switched")).await.unwrap();
    set_back(&f, 5).await;
    let disabled = schedules.set_enabled(&by(), "switched", false).await.unwrap();
    assert_eq!((disabled.next_tick, disabled.next_ticks(5).len()), (None, 0));
    let beat = Beat::start(&f, &schedules);
    caught_up(&schedules).await;
    let enabled = schedules.set_enabled(&by(), "switched", true).await.unwrap();
    assert!(enabled.next_tick.unwrap() > enabled.read_at);
    // Enabling it again takes no tick away.
    let again = schedules.set_enabled(&by(), "switched", true).await.unwrap();
    assert_eq!(again.next_tick, enabled.next_tick);
    beat.stop().await;
    assert!(jobs(&f).await.is_empty());
}

fn configured(cron: &str) -> ScheduleSettings {
    ScheduleSettings {
        cron: Some(cron.to_owned()),
        every_seconds: None,
        time_zone: None,
        kind: Greet::KIND.to_owned(),
        payload: serde_json::json!({"to": "all"}),
        queue: None,
        catch_up: None,
        catch_up_max: None,
        jitter_seconds: None,
        enabled: true,
    }
}

async fn the_configuration_owns_its_schedules(f: Fixture) {
    let schedules = schedules(&f);
    schedules.create(&by(), hourly("taken-over")).await.unwrap();
    schedules.create(&by(), hourly("left-alone")).await.unwrap();
    let mut config = BTreeMap::from([
        ("nightly".to_owned(), configured("0 3 * * *")),
        ("taken-over".to_owned(), configured("0 4 * * *")),
    ]);
    let report = schedules.sync(&config).await.unwrap();
    assert_eq!(report.stored, ["nightly", "taken-over"]);
    // A beat that starts again changes nothing, not even a revision.
    let before = schedules.get("nightly").await.unwrap();
    assert_eq!(
        schedules.sync(&config).await.unwrap(),
        holdfast_jobs::schedules::SyncReport::default()
    );
    assert_eq!(schedules.get("nightly").await.unwrap().revision, before.revision);
    assert_eq!(schedules.get("taken-over").await.unwrap().source, Source::Config);
    for refused in [
        schedules.put(&by(), hourly("nightly")).await.map(drop),
        schedules.delete(&by(), "nightly").await,
    ] {
        assert!(
            matches!(refused, Err(ScheduleError::Configured(_))),
            "{refused:?}"
        );
    }
    config.remove("nightly");
    assert_eq!(schedules.sync(&config).await.unwrap().deleted, ["nightly"]);
    let left = schedules.list(None, 10).await.unwrap();
    let left: Vec<_> = left.iter().map(|record| record.schedule.name.as_str()).collect();
    assert_eq!(left, ["left-alone", "taken-over"]);
    assert_eq!(schedules.list(Some("left-alone"), 10).await.unwrap().len(), 1);
    let bad = BTreeMap::from([("bad".to_owned(), configured("61 * * * *"))]);
    let faults = schedules.faults_of_config(&bad);
    assert_eq!(faults[0].field, "schedules.bad.cron");
}

async fn a_schedule_of_the_configuration_stays_paused_however_often_beats_start(f: Fixture) {
    let schedules = schedules(&f);
    let mut config = BTreeMap::from([("nightly".to_owned(), configured("0 3 * * *"))]);
    schedules.sync(&config).await.unwrap();
    let paused = schedules.set_enabled(&by(), "nightly", false).await.unwrap();
    assert!(paused.schedule.paused && !paused.schedule.ticks());
    assert_eq!((paused.source, paused.next_tick), (Source::Config, None));
    let restarted = async |config: &BTreeMap<String, ScheduleSettings>| {
        schedules.sync(config).await.unwrap();
        schedules.get("nightly").await.unwrap()
    };
    assert_eq!(restarted(&config).await.revision, paused.revision);
    // An edit of the configuration changes what is paused and does not end the pause.
    config.insert("nightly".to_owned(), configured("0 4 * * *"));
    assert_eq!(restarted(&config).await.next_tick, None);
    let enabled = schedules.set_enabled(&by(), "nightly", true).await.unwrap();
    assert_eq!(enabled.next_tick.unwrap().format("%H:%M").to_string(), "04:00");
    // What the configuration disables is not enabled here, also if it was paused before.
    schedules.set_enabled(&by(), "nightly", false).await.unwrap();
    let disabled = ScheduleSettings {
        enabled: false,
        ..configured("0 4 * * *")
    };
    let off = BTreeMap::from([("nightly".to_owned(), disabled)]);
    assert!(!restarted(&off).await.schedule.paused);
    let refused = schedules.set_enabled(&by(), "nightly", true).await;
    assert!(
        matches!(refused, Err(ScheduleError::Configured(_))),
        "{refused:?}"
    );
    assert!(restarted(&config).await.next_tick.is_some());
}

async fn a_tick_that_cannot_become_a_job_waits_for_a_beat_that_can_make_it(f: Fixture) {
    let able = schedules(&f);
    let unable = schedules_knowing(&f, Registry::new());
    able.create(&by(), hourly("odd")).await.unwrap();
    set_back(&f, 1).await;
    let beat = Beat::start(&f, &unable);
    eventually("the refusal to be shown", DEADLINE, POLL, async || {
        able.get("odd").await.unwrap().last_error
    })
    .await
    .unwrap();
    assert!(jobs(&f).await.is_empty());
    assert_eq!(able.summary().await.unwrap().failing, 1);
    let other = Beat::start(&f, &able);
    caught_up(&able).await;
    other.stop().await;
    beat.stop().await;
    assert_eq!(jobs(&f).await.len(), 1);
    assert_eq!(able.get("odd").await.unwrap().last_error, None);
}

async fn a_run_by_hand_is_shown_and_is_no_tick(f: Fixture) {
    let schedules = schedules(&f);
    let made = schedules.create(&by(), hourly("by-hand")).await.unwrap();
    let (one, two) = (
        schedules.run(&by(), "by-hand").await.unwrap(),
        schedules.run(&by(), "by-hand").await.unwrap(),
    );
    assert_ne!(one.id, two.id);
    let shown = schedules.get("by-hand").await.unwrap();
    assert_eq!((shown.last_job, shown.next_tick), (Some(two.id), made.next_tick));
    assert_eq!(shown.last_tick, None);
    assert!(shown.last_run_at.is_some());
    assert!(matches!(
        schedules.run(&by(), "nobody").await,
        Err(ScheduleError::Unknown(_))
    ));
}

async fn every_fault_of_a_definition_is_told_with_its_field(f: Fixture) {
    let schedules = schedules(&f);
    let faults = async |definition: Definition| match schedules.create(&by(), definition).await {
        Err(ScheduleError::Invalid(faults)) => faults
            .into_iter()
            .map(|fault| (fault.field, fault.reason))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let every = |seconds: f64| Definition {
        cron: None,
        every: Some(Duration::from_secs_f64(seconds)),
        ..hourly("x")
    };
    let zone = |zone: &str| Definition {
        time_zone: Some(zone.to_owned()),
        ..hourly("x")
    };
    for (definition, field, says) in [
        (
            Definition {
                name: "No Name".to_owned(),
                ..hourly("x")
            },
            "name",
            "a-z",
        ),
        (
            Definition {
                cron: Some("0 25 * * *".to_owned()),
                ..hourly("x")
            },
            "cron",
            "the hour field \"25\"",
        ),
        (
            Definition {
                cron: None,
                ..hourly("x")
            },
            "cron",
            "every_seconds",
        ),
        (
            Definition {
                every: Some(DEADLINE),
                ..hourly("x")
            },
            "cron",
            "not both",
        ),
        (zone("Mars/Olympus"), "time_zone", "IANA"),
        (
            Definition {
                time_zone: Some("UTC".to_owned()),
                ..every(60.0)
            },
            "time_zone",
            "interval",
        ),
        (every(0.5), "every_seconds", "from 1 to"),
        (every(0.0), "every_seconds", "from 1 to"),
        (every(1e9), "every_seconds", "from 1 to"),
        (
            Definition {
                catch_up: Some("most".to_owned()),
                ..hourly("x")
            },
            "catch_up",
            "\"latest\"",
        ),
        (
            Definition {
                catch_up_max: Some(0),
                ..hourly("x")
            },
            "catch_up_max",
            "between 1 and 1000",
        ),
        (
            Definition {
                catch_up_max: Some(5),
                ..hourly("x")
            },
            "catch_up_max",
            "all",
        ),
        (
            Definition {
                jitter: Some(Duration::from_secs(3_600)),
                ..hourly("x")
            },
            "jitter_seconds",
            "not less than",
        ),
        (
            Definition {
                jitter: Some(Duration::from_secs(60)),
                ..every(60.0)
            },
            "jitter_seconds",
            "not less than",
        ),
        (
            Definition {
                kind: "no.kind".to_owned(),
                ..hourly("x")
            },
            "kind",
            "unknown kind",
        ),
        (
            Definition {
                queue: Some("no-queue".to_owned()),
                ..hourly("x")
            },
            "queue",
            "unknown queue",
        ),
        (
            Definition {
                payload: raw(r#"{"to":7}"#),
                ..hourly("x")
            },
            "payload.to",
            "string",
        ),
    ] {
        let found = faults(definition).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, field, "{found:?}");
        assert!(found[0].1.contains(says), "{found:?} does not say {says}");
    }
    let many = faults(Definition {
        name: String::new(),
        cron: Some("x".to_owned()),
        catch_up: Some("x".to_owned()),
        kind: "x".to_owned(),
        ..hourly("x")
    })
    .await;
    assert_eq!(many.len(), 4, "{many:?}");
    assert!(schedules.list(None, 10).await.unwrap().is_empty());
}

async fn a_jitter_moves_the_job_and_not_the_tick(f: Fixture) {
    let schedules = schedules(&f);
    let definition = Definition {
        jitter: Some(Duration::from_secs(3_000)),
        catch_up: Some("all".to_owned()),
        ..hourly("jittery")
    };
    schedules.create(&by(), definition).await.unwrap();
    set_back(&f, 20).await;
    let beat = Beat::start(&f, &schedules);
    caught_up(&schedules).await;
    beat.stop().await;
    let moved: Vec<i64> = jobs(&f)
        .await
        .iter()
        .map(|job| job.run_at.timestamp().rem_euclid(3_600))
        .collect();
    assert!(moved.len() >= 20, "{moved:?}");
    assert!(moved.iter().all(|seconds| *seconds <= 3_000), "{moved:?}");
    assert!(moved.iter().any(|seconds| *seconds > 300), "{moved:?}");
}

async fn beats_are_known_while_they_live(f: Fixture) {
    let schedules = schedules(&f);
    let beat = Beat::start(&f, &schedules);
    eventually("the beat to be known", DEADLINE, POLL, async || {
        (schedules.beats().await.unwrap().len() == 1).then_some(())
    })
    .await
    .unwrap();
    beat.stop().await;
    assert!(schedules.beats().await.unwrap().is_empty());
}

/// A beat that was stopped in the middle of its transaction holds a row's lock and says nothing.
#[tokio::test]
async fn a_lock_that_a_stopped_beat_holds_delays_one_tick_by_seconds_and_nothing_else() {
    let f = support::postgres().await;
    let schedules = schedules(&f);
    schedules.create(&by(), hourly("locked")).await.unwrap();
    schedules.create(&by(), hourly("free")).await.unwrap();
    set_back(&f, 1).await;
    let Database::Postgres(pool) = &f.database else {
        unreachable!("a PostgreSQL fixture");
    };
    let mut stopped = pool.begin().await.unwrap();
    sqlx::raw_sql(
        "select set_config('idle_in_transaction_session_timeout', '3000', true);
         select name from holdfast_schedules where name = 'locked' for update",
    )
    .execute(&mut *stopped)
    .await
    .unwrap();
    let beat = Beat::start(&f, &schedules);
    eventually("the free one to tick", DEADLINE, POLL, async || {
        schedules.get("free").await.unwrap().last_job
    })
    .await
    .unwrap();
    caught_up(&schedules).await;
    beat.stop().await;
    assert_eq!(jobs(&f).await.len(), 2);
    // It wakes up, and finds its transaction gone.
    assert!(sqlx::raw_sql("select 1").execute(&mut *stopped).await.is_err());
}
