//! `holdfast-bench recommend`: on a file, and at a small size through SQL.

use std::fmt::Write as _;

use holdfast_testkit::place::Place;

/// The figure of a row, such as `recall@10`.
fn figure(text: &str, what: &str) -> f64 {
    let row = text.lines().find_map(|line| {
        let rest = line.strip_prefix("recommend")?.trim_start();
        rest.strip_prefix(what)?.strip_prefix("  ").map(str::trim_start)
    });
    let row = row.unwrap_or_else(|| panic!("no row {what}: {text}"));
    row.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_file_of_interactions_is_evaluated_against_popularity_and_chance() {
    let place = Place::of("holdfast-bench");
    // Ten circles of ten items; everybody goes to six of one circle, one of them last.
    let mut text = "user,item,time\n".to_owned();
    for user in 0..200 {
        for visit in 0..6 {
            let item = user % 10 * 10 + (user / 10 + visit * 3) % 10;
            writeln!(text, "u{user},i{item},{}", user * 10 + visit).unwrap();
        }
    }
    std::fs::write(place.path().join("visits.csv"), text).unwrap();
    let ended = place.run(&["recommend", "--csv", "visits.csv"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let recall = figure(&ended.text, "recall@10");
    assert!(recall > 0.9, "the circle has no more than ten: {}", ended.text);
    assert!(
        recall > 3.0 * figure(&ended.text, "recall@10 of popularity"),
        "{}",
        ended.text
    );
    assert!(
        recall > 3.0 * figure(&ended.text, "recall@10 of chance"),
        "{}",
        ended.text
    );
    assert!(figure(&ended.text, "coverage") > 0.9);

    std::fs::write(place.path().join("visits.csv"), "u,i,1\nu,i,soon\n").unwrap();
    let ended = place.run(&["recommend", "--csv", "visits.csv"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.text.contains("visits.csv: line 2: the time is neither"),
        "{}",
        ended.text
    );
    let ended = place.run(&["recommend", "--csv", "nowhere.csv"]).await;
    assert_eq!(ended.code, Some(1));
}

#[tokio::test]
async fn costs_are_measured_through_a_database_that_is_gone_afterwards() {
    let place = Place::of("holdfast-bench");
    let ended = place.run(&["recommend", "--scale", "0.01"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    for row in [
        "training, 2000 events",
        "again, nothing changed",
        "a user's list, p99",
        "nDCG@10",
    ] {
        assert!(ended.text.contains(row), "{row}: {}", ended.text);
    }
    assert!(!place.path().join(".holdfast/bench").exists());
}
