use chrono::NaiveDateTime;
use proptest::prelude::*;

use super::*;
use crate::discovery::parse::ical::when::{Clock, clock};

fn at(text: &str) -> NaiveDateTime {
    match clock(text).unwrap() {
        Clock::Local(at) => at,
        other => panic!("{other:?}"),
    }
}

fn dates(rule: &str, start: &str, from: &str, until: &str) -> Result<RuleDates, String> {
    dates_of(rule, start, from, until, &Meter::new(&Stop::default()))
}

fn dates_of(
    rule: &str,
    start: &str,
    from: &str,
    until: &str,
    meter: &Meter<'_>,
) -> Result<RuleDates, String> {
    let start = Start {
        local: at(start),
        whole_day: false,
    };
    let window = Window {
        from: at(from),
        until: at(until),
    };
    follow(rule, start, &|moment| moment, window, meter)
}

fn days(rule: &str) -> Vec<String> {
    let followed = dates(rule, "20300501T180000", "20300501T000000", "20310501T000000").unwrap();
    followed
        .dates
        .iter()
        .map(|at| at.format("%m%d").to_string())
        .collect()
}

#[test]
fn rules_are_followed() {
    assert_eq!(days("FREQ=DAILY;COUNT=3"), ["0501", "0502", "0503"]);
    assert_eq!(
        days("freq=weekly;until=20300515T180000Z"),
        ["0501", "0508", "0515"]
    );
    assert_eq!(days("FREQ=WEEKLY;UNTIL=20300515"), ["0501", "0508", "0515"]);
    assert_eq!(days("FREQ=MONTHLY;BYDAY=-1FR;COUNT=2"), ["0531", "0628"]);
    assert_eq!(days("FREQ=MONTHLY;BYMONTHDAY=31;COUNT=2"), ["0531", "0731"]);
    assert_eq!(
        days("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;COUNT=2"),
        ["0531", "0628"]
    );
    assert_eq!(days("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29"), Vec::<String>::new());
    assert_eq!(days("FREQ=DAILY;UNTIL=20290101"), Vec::<String>::new());
}

#[test]
fn a_rule_without_end_ends_with_the_window_and_its_limits() {
    let daily = dates(
        "FREQ=DAILY",
        "19700101T080000",
        "20300101T000000",
        "20300110T000000",
    )
    .unwrap();
    assert_eq!((daily.dates.len(), daily.cut), (9, false));
    let hourly = dates(
        "FREQ=HOURLY",
        "20300101T000000",
        "20300101T000000",
        "20310101T000000",
    )
    .unwrap();
    assert_eq!((hourly.dates.len(), hourly.cut), (MAX_OCCURRENCES, true));
    let secondly = dates(
        "FREQ=SECONDLY;COUNT=999999999999",
        "19700101T000000",
        "20300101T000000",
        "20310101T000000",
    )
    .unwrap();
    assert_eq!((secondly.dates.len(), secondly.cut), (MAX_OCCURRENCES, true));
    assert_eq!(
        secondly.dates[0],
        at("20300101T000000"),
        "the past is passed over by arithmetic"
    );
    let error = dates(
        "FREQ=SECONDLY;BYSECOND=1,3,5,7,9;COUNT=999999999",
        "20000101T000000",
        "20300101T000000",
        "20310101T000000",
    )
    .unwrap_err();
    assert!(error.contains("250000 steps"), "{error}");
    let never = dates(
        "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
        "20300101T000000",
        "20300101T000000",
        "20310101T000000",
    );
    assert_eq!(never, Ok(RuleDates::default()));
}

#[test]
fn all_rules_share_a_budget() {
    let stop = Stop::default();
    let meter = Meter::with(50, &stop);
    let ten = || {
        dates_of(
            "FREQ=DAILY",
            "20300101T000000",
            "20300101T000000",
            "20300110T000000",
            &meter,
        )
    };
    assert_eq!(ten().unwrap().dates.len(), 10);
    assert!(ten().unwrap_err().contains("5000000 steps together"));
}

#[test]
fn a_rule_that_names_too_much_is_refused_before_it_is_expanded() {
    let list = |to: u32| (0..to).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let (hours, sixty) = (list(24), list(60));
    let stop = Stop::default();
    let meter = Meter::new(&stop);
    for rule in [
        format!("FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR={hours};BYMINUTE={sixty};BYSECOND={sixty}"),
        format!("FREQ=DAILY;BYHOUR={hours};BYMINUTE={sixty};BYSECOND={sixty}"),
        format!("FREQ=MONTHLY;BYMONTHDAY=1,2,3,4,5,6,7,8;BYHOUR={hours};BYMINUTE={sixty};BYSETPOS=-1"),
        format!("FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR={hours};BYMINUTE={sixty}"),
        format!("FREQ=YEARLY;BYWEEKNO=1,2,3,4,5,6,7,8;BYHOUR={hours};BYMINUTE={sixty}"),
        format!("FREQ=YEARLY;BYMINUTE={sixty};BYDAY=1MO,2TU,3WE;BYSECOND={sixty}"),
    ] {
        let refused = dates_of(
            &rule,
            "20300101T000000",
            "20300101T000000",
            "20310101T000000",
            &meter,
        );
        let reason = refused.unwrap_err();
        assert!(
            reason.contains("moments in one period, more than 10000"),
            "{reason}"
        );
    }
    assert_eq!(meter.left.get(), MAX_ALL_STEPS, "nothing was walked");
    let minutes = format!("FREQ=DAILY;BYHOUR={hours};BYMINUTE={sixty}");
    let allowed = dates_of(
        &minutes,
        "20300101T000000",
        "20300101T000000",
        "20310101T000000",
        &meter,
    );
    assert!(allowed.unwrap().cut);
    let long = format!("FREQ=DAILY;BYHOUR={}", "1,".repeat(20_000));
    assert!(dates(&long, "20300101T000000", "20300101T000000", "20310101T000000").is_err());
}

#[test]
fn a_walk_ends_when_it_is_cancelled_or_late() {
    let stop = Stop::default();
    let meter = Meter::new(&stop);
    stop.cancel();
    let rule = "FREQ=SECONDLY;BYSECOND=1,3;COUNT=99999999";
    let cancelled = dates_of(
        rule,
        "20000101T000000",
        "20300101T000000",
        "20310101T000000",
        &meter,
    );
    assert!(cancelled.unwrap_err().contains("too long to read"));
    assert!(meter.left.get() > MAX_ALL_STEPS - 2 * STEPS_PER_LOOK);
    let late = Stop::after(std::time::Duration::ZERO);
    let meter = Meter::new(&late);
    assert!(
        dates_of(
            rule,
            "20000101T000000",
            "20300101T000000",
            "20310101T000000",
            &meter
        )
        .is_err()
    );
}

#[test]
fn every_hostile_rule_is_bounded_by_its_steps() {
    for rule in [
        "FREQ=SECONDLY",
        "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=SECONDLY;BYHOUR=3;BYMINUTE=3;BYSECOND=3;BYSETPOS=2",
        "FREQ=MINUTELY;INTERVAL=7;BYHOUR=1;BYMINUTE=1",
        "FREQ=HOURLY;INTERVAL=9223372036854775807",
        "FREQ=YEARLY;INTERVAL=99999999999999999999999999",
        "FREQ=DAILY;INTERVAL=4294967295;COUNT=18446744073709551615",
        "FREQ=MONTHLY;INTERVAL=9223372036854775807",
        "FREQ=WEEKLY;INTERVAL=9223372036854775807;WKST=SU",
        "FREQ=DAILY;UNTIL=99991231T235959Z",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=31",
        "FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO;COUNT=1000000000",
        "FREQ=MINUTELY;BYSETPOS=60",
        "FREQ=DAILY;COUNT=1000000000",
        "FREQ=SECONDLY;BYYEARDAY=366;COUNT=1000000000",
    ] {
        for start in [
            "00010101T000000",
            "19700101T000000",
            "20300615T123456",
            "99991231T235959",
        ] {
            let stop = Stop::default();
            let meter = Meter::new(&stop);
            let result = dates_of(rule, start, "20300101T000000", "20310101T000000", &meter);
            let spent = MAX_ALL_STEPS - meter.left.get();
            assert!(spent <= MAX_STEPS + 10_000, "{rule} from {start}: {spent} steps");
            if let Ok(followed) = result {
                assert!(followed.dates.len() <= MAX_OCCURRENCES, "{rule} from {start}");
            }
        }
    }
}

#[test]
fn positions_are_counted_in_the_whole_first_week() {
    // Tuesday the 8th is the first of its week, and before the start: Friday the 11th is the second.
    let dates = dates(
        "FREQ=WEEKLY;BYDAY=FR,TU;BYSETPOS=1;COUNT=2",
        "20300109T000000",
        "20300101T000000",
        "20300301T000000",
    );
    assert_eq!(
        dates.unwrap().dates,
        [at("20300115T000000"), at("20300122T000000")]
    );
}

#[test]
fn rules_of_no_use_are_refused() {
    for odd in [
        "",
        "FREQ",
        "FREQ=OFTEN",
        "COUNT=3",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;UNTIL=soon",
        "FREQ=DAILY;BYMONTH=13",
    ] {
        let refused = dates(odd, "20300101T000000", "20300101T000000", "20310101T000000");
        assert!(refused.is_err(), "{odd}: {refused:?}");
    }
}

/// What the `rrule` crate makes of a rule; `None`: it refuses it. Of rules by the minute it passes over hours that match
/// (`FREQ=MINUTELY;BYDAY=FR,TU;BYHOUR=1,11`), so it is not asked about them; Python's libraries are, in others.rs.
fn by_crate(rule: &str, start: NaiveDateTime, window: Window) -> Option<Vec<NaiveDateTime>> {
    let zoned = start.and_utc().with_timezone(&rrule::Tz::UTC);
    let parsed: rrule::RRule<rrule::Unvalidated> = rule.parse().ok()?;
    let set = rrule::RRuleSet::new(zoned).rrule(parsed.validate(zoned).ok()?);
    let dates = set.into_iter().map(|at| at.naive_utc()).take(20_000);
    Some(
        dates
            .take_while(|at| *at <= window.until)
            .filter(|at| *at >= window.from)
            .take(MAX_OCCURRENCES)
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn rules_lead_where_the_rrule_crate_says(
        day in 0..700_u64, hour in 0..24_u32, minute in 0..60_u32, interval in 1..5_u16,
        freq in "(YEARLY|MONTHLY|WEEKLY|DAILY|HOURLY)",
        month in "(|;BYMONTH=[1-9]|;BYMONTH=1[0-2],[2-5])",
        month_day in "(|;BYMONTHDAY=-?[1-9]|;BYMONTHDAY=31,-1,[12][0-9])",
        week_day in "(|;BYDAY=MO|;BYDAY=SU,WE|;BYDAY=-?[1-4]MO|;BYDAY=-1FR,1TU)",
        year_day in "(||;BYYEARDAY=-?[1-9]{2}|;BYYEARDAY=366,1)", week in "(||;BYWEEKNO=[1-9]|;BYWEEKNO=-1,53,[1-4][0-9])",
        time in "(|;BYHOUR=[0-9],1[0-9]|;BYMINUTE=[1-5][0-9],[0-9]|;BYHOUR=8,20;BYMINUTE=0,30)",
        position in "(||;BYSETPOS=[1-3]|;BYSETPOS=-1,2)", end in "(||;COUNT=[1-9][0-9]?|;UNTIL=20310[1-9]01T000000Z)",
        week_start in "(|;WKST=SU)",
    ) {
        let start = (at("20290101T000000").date() + chrono::Days::new(day)).and_hms_opt(hour, minute, 0).unwrap();
        let by_time = freq == "HOURLY";
        // Where the crate and the RFC's table of limits part ways, or the crate does not look at all.
        let (year_day, week) = if freq == "YEARLY" { (year_day, week) } else { Default::default() };
        let week_day = if (freq == "YEARLY" || freq == "MONTHLY") && week.is_empty() {
            week_day
        } else {
            week_day.replace(|c: char| c.is_ascii_digit() || c == '-', "")
        };
        let month_day = if freq == "WEEKLY" { String::new() } else { month_day };
        let parts = format!("{month}{month_day}{week_day}{year_day}{week}{time}");
        // The crate's first week begins at DTSTART, so its first position is another one; RFC 5545 counts in the whole week.
        let position = if parts.is_empty() || by_time || freq == "WEEKLY" { String::new() } else { position };
        let rule = format!("FREQ={freq};INTERVAL={interval}{parts}{position}{end}{week_start}");
        let window = Window { from: at("20300101T000000"), until: at("20300601T000000") };
        let start_of = Start { local: start, whole_day: false };
        let stop = Stop::default();
        let ours = follow(&rule, start_of, &|moment| moment, window, &Meter::new(&stop));
        // The crate refuses an end before the beginning, and some rules that lead nowhere.
        if let (Ok(ours), Some(theirs)) = (ours, by_crate(&rule, start, window)) {
            let reached = theirs.len() < MAX_OCCURRENCES && !by_time;
            if reached {
                prop_assert_eq!(ours.dates, theirs, "{} from {}", rule, start);
            } else {
                let common = ours.dates.len().min(theirs.len());
                prop_assert_eq!(&ours.dates[..common], &theirs[..common], "{} from {}", rule, start);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_rule_ends(
        freq in "(YEARLY|MONTHLY|WEEKLY|DAILY|HOURLY|MINUTELY)", interval in 1..400_u16,
        by in "(|;BYMONTH=[1-9]|;BYMONTHDAY=-?[1-9]|;BYDAY=-?[1-5]?MO|;BYYEARDAY=-?[1-9]{2}|;BYSETPOS=[1-9]|;BYHOUR=[1-9])",
    ) {
        let rule = format!("FREQ={freq};INTERVAL={interval}{by}");
        if let Ok(followed) = dates(&rule, "20290101T000000", "20300101T000000", "20310101T000000") {
            prop_assert!(followed.dates.len() <= MAX_OCCURRENCES);
            prop_assert!(followed.dates.is_sorted());
        }
    }
}
