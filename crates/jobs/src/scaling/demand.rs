//! How many places a queue needs: arithmetic over its figures, without a clock or a database.
//!
//! By Little's law jobs that arrive at a rate and run for a time occupy `rate × time` places. A backlog that is to be gone after the drain
//! time needs `backlog × time / drain time` more. Corrections:
//! - Running jobs keep their places: advice never takes a place from a job.
//! - A queue with a due job needs a place, whatever the rest says: it may have none.
//! - A queue whose oldest due job waits for longer than the drain time is behind, whatever its run time was estimated at: it needs one place
//!   more than are occupied.
//! - A paused queue needs what it runs. A limit of concurrent jobs is an upper bound.

use std::time::Duration;

/// What the jobs of a queue are taken to run for as long as none has ended.
pub const ASSUMED_RUN: Duration = Duration::from_secs(1);

/// The figures of a queue, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    pub arrivals_per_second: f64,
    pub completions_per_second: f64,
    /// Mean of an attempt; `None`: none has ended in the window.
    pub run_seconds: Option<f64>,
    /// Due jobs that wait.
    pub waiting: u64,
    pub running: u64,
    pub oldest_age_seconds: f64,
    /// A due job was found just now, after the depths were counted.
    pub has_due_job: bool,
    pub paused: bool,
    /// The largest number of its jobs that may run concurrently, where it is limited.
    pub limit: Option<u64>,
}

impl Demand {
    /// Places that keep up with the arrivals and work the backlog off within `drain`.
    pub fn desired_places(&self, drain: Duration) -> u64 {
        if self.paused {
            return self.running;
        }
        let drain = drain.as_secs_f64().max(1.0);
        let run = self.run_seconds.unwrap_or(ASSUMED_RUN.as_secs_f64());
        let steady = self.arrivals_per_second * run;
        let backlog = self.waiting as f64 * run / drain;
        // Of a sum that is whole but for the rounding of its parts, the whole number.
        let mut places = (steady + backlog - 1e-9).ceil().max(0.0) as u64;
        let waits = self.waiting > 0 || self.has_due_job;
        if waits {
            places = places.max(1);
        }
        if self.waiting > 0 && self.oldest_age_seconds > drain {
            places = places.max(self.running + 1);
        }
        let places = self.limit.map_or(places, |limit| places.min(limit));
        places.max(self.running)
    }
}

/// Replicas that have so many places. `places_each`: of one; at least one place is assumed.
pub fn replicas(places: u64, places_each: f64) -> u64 {
    (places as f64 / places_each.max(1.0) - 1e-9).ceil().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(60);

    fn demand(arrivals: f64, run: f64, waiting: u64, running: u64) -> Demand {
        Demand {
            arrivals_per_second: arrivals,
            run_seconds: Some(run),
            waiting,
            running,
            ..Demand::default()
        }
    }

    #[test]
    fn places_follow_the_arrivals_and_the_backlog() {
        for (name, demand, places) in [
            ("nothing", Demand::default(), 0),
            ("10/s of 0.5 s", demand(10.0, 0.5, 0, 5), 5),
            ("and a backlog of 1,200", demand(10.0, 0.5, 1_200, 5), 15),
            ("a millisecond each", demand(1_000.0, 0.001, 0, 0), 1),
            ("an hour each, all running", demand(0.0, 3_600.0, 0, 7), 7),
            ("a single job", demand(0.0, 0.001, 1, 0), 1),
        ] {
            assert_eq!(demand.desired_places(DRAIN), places, "{name}");
        }
    }

    #[test]
    fn a_due_job_needs_a_place_before_it_is_counted() {
        let found = Demand {
            has_due_job: true,
            ..Demand::default()
        };
        assert_eq!(found.desired_places(DRAIN), 1);
        let paused = Demand {
            paused: true,
            ..found
        };
        assert_eq!(paused.desired_places(DRAIN), 0);
    }

    #[test]
    fn jobs_of_unknown_length_get_more_places_while_they_wait_too_long() {
        let waiting = Demand {
            waiting: 30,
            running: 8,
            oldest_age_seconds: 59.0,
            ..Demand::default()
        };
        assert_eq!(waiting.desired_places(DRAIN), 8);
        let behind = Demand {
            oldest_age_seconds: 61.0,
            ..waiting
        };
        assert_eq!(behind.desired_places(DRAIN), 9);
    }

    #[test]
    fn a_limit_bounds_the_places_but_takes_none_from_running_jobs() {
        let limited = Demand {
            limit: Some(3),
            ..demand(100.0, 1.0, 10_000, 2)
        };
        assert_eq!(limited.desired_places(DRAIN), 3);
        let lowered = Demand {
            running: 5,
            ..limited
        };
        assert_eq!(lowered.desired_places(DRAIN), 5);
    }

    #[test]
    fn replicas_are_whole() {
        assert_eq!(
            [replicas(0, 50.0), replicas(1, 50.0), replicas(50, 50.0)],
            [0, 1, 1]
        );
        assert_eq!([replicas(51, 50.0), replicas(3, 0.0)], [2, 3]);
    }
}
