//! Data with a structure that is known: events in circles of taste, users at home in two of them, and noise.

use super::{DataSet, DatasetEvent, Draws, Visit};

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    pub events: usize,
    pub users: usize,
    pub visits: usize,
    /// Circles of taste.
    pub circles: usize,
    /// The share of visits that no taste explains: they go to what is popular with everybody.
    pub noise: f64,
    /// The share of events whose words say nothing of their circle.
    pub silent: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            events: 10_000,
            users: 5_000,
            visits: 100_000,
            circles: 40,
            noise: 0.3,
            silent: 0.4,
        }
    }
}

/// Words of a circle, and words that everybody uses.
const CIRCLE_WORDS: usize = 12;
const COMMON_WORDS: usize = 200;

/// Categories and towns are shared by circles.
const CATEGORIES: usize = 12;
const TOWNS: usize = 25;

/// From one visit of a user to the next, in seconds, at most.
const PAUSE: usize = 5 * 86_400;

impl Shape {
    /// The same for the same seed.
    pub fn generate(&self, seed: u64) -> DataSet {
        let mut draws = Draws(seed);
        let circles = self.circles.clamp(1, self.events.max(1));
        let events = (0..self.events)
            .map(|event| self.event(event % circles, &mut draws))
            .collect();
        let users = (0..self.users).map(|user| {
            // Most are seldom seen, some often; the sum comes out at about what was asked for.
            let share = 0.25 + 1.5 * draws.share();
            let visits = (self.visits as f64 / self.users.max(1) as f64 * share).round() as usize;
            self.user(user, visits.max(2), circles, &mut draws)
        });
        DataSet {
            users: users.collect(),
            events,
        }
    }

    fn event(&self, circle: usize, draws: &mut Draws) -> DatasetEvent {
        let told = if draws.share() < self.silent {
            draws.below(self.circles.max(1))
        } else {
            circle
        };
        let mut words: Vec<_> = (0..3)
            .map(|_| format!("theme{told}x{}", draws.below(CIRCLE_WORDS)))
            .collect();
        words.extend((0..3).map(|_| format!("word{}", draws.below(COMMON_WORDS))));
        let town = draws.below(TOWNS);
        let place = (
            40.0 + (town / 5) as f64 * 2.0 + draws.share() * 0.1,
            5.0 + (town % 5) as f64 * 3.0 + draws.share() * 0.1,
        );
        DatasetEvent {
            category: Some(format!("category {}", told % CATEGORIES)),
            title: words.join(" "),
            place: Some(place),
        }
    }

    fn user(&self, user: usize, visits: usize, circles: usize, draws: &mut Draws) -> Vec<Visit> {
        let homes = [draws.below(circles), draws.below(circles)];
        let mut at = user as i64 % 86_400;
        let mut known: Vec<Visit> = Vec::with_capacity(visits);
        for _ in 0..visits {
            at += draws.below(PAUSE) as i64;
            let home = homes[usize::from(draws.share() < 0.3)];
            let event = if draws.share() < self.noise {
                skewed(self.events, 3, draws)
            } else {
                let of_circle = (self.events - home).div_ceil(circles);
                skewed(of_circle, 2, draws) * circles + home
            };
            let event = event as u32;
            if known.iter().all(|visit| visit.event != event) {
                let weight = [1.0, 3.0, 5.0][draws.below(3)];
                known.push(Visit { event, at, weight });
            }
        }
        known
    }
}

/// Below `bound`, small numbers more often: some events are more popular than others.
fn skewed(bound: usize, power: i32, draws: &mut Draws) -> usize {
    ((draws.share().powi(power) * bound as f64) as usize).min(bound.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all() {
        let shape = Shape {
            events: 300,
            users: 100,
            visits: 2_000,
            ..Shape::default()
        };
        let data = shape.generate(7);
        assert_eq!(data, shape.generate(7));
        assert_ne!(data, shape.generate(8));
        assert_eq!((data.events.len(), data.users.len()), (300, 100));
        assert!((1_200..=2_400).contains(&data.visits()), "{}", data.visits());
        let ordered = |visits: &Vec<Visit>| visits.is_sorted_by_key(|visit| visit.at);
        assert!(data.users.iter().all(ordered));
        assert!(
            data.users
                .iter()
                .flatten()
                .all(|visit| (visit.event as usize) < 300)
        );
    }
}
