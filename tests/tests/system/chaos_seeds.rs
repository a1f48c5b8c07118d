//! A few seeds of the storm in every run of the suite; `scripts/torture` runs as many as there is time for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use holdfast_tests::chaos::{self, Pace, Schedule};

async fn survives(seed: u64) {
    let schedule = Schedule::draw(seed, Pace::SHORT);
    println!("{schedule}");
    let report = chaos::run(&schedule).await.unwrap();
    if !report.broken.is_empty() {
        println!("to see it again: scripts/torture --short --seed {seed} --runs 1");
    }
    report.assert();
}

macro_rules! seeds {
    ($($name:ident = $seed:literal),+ $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            survives($seed).await;
        })+
    };
}

seeds! {
    the_system_survives_seed_1 = 1,
    the_system_survives_seed_2 = 2,
    the_system_survives_seed_3 = 3,
    the_system_survives_seed_4 = 4,
}
