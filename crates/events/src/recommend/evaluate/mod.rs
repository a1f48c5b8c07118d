//! How good the model is: leave-last-out against popularity and chance.
//!
//! Of each user with two events or more the last is hidden; the model learns from the others, and lists [`AT`] events that
//! the user has not been to. `recall` is the share of users whose hidden event is in the list, `ndcg` the same weighted by
//! its rank (1 for the first place, `1 / log2(1 + rank)` further down), `coverage` the share of all events that are in any
//! list. Popularity lists for everybody what most users of the others went to, chance draws. All three list nothing that
//! the user knows.
//!
//! Data come from a generator with a structure that is known (`generate.rs`), or from any CSV (`csv.rs`).

mod csv;
mod generate;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use ulid::Ulid;

pub use self::csv::{CsvFault, read_csv};
pub use self::generate::Shape;
use super::rank::rank;
use super::taste::decay;
use super::{Catalogue, EventFeatures, Model, Ratings, Taste};

/// Events in a list.
pub const AT: usize = 10;

/// What of a user's past is learned from, as in a training.
const LIKES: usize = 300;

/// Draws from a seed, the same on every machine and with every version of whatever else draws (SplitMix64).
#[derive(Debug, Clone)]
pub struct Draws(pub u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, without 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.share() * bound as f64) as usize).min(bound.saturating_sub(1))
    }
}

/// One event of a data set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DatasetEvent {
    pub category: Option<String>,
    pub title: String,
    pub place: Option<(f64, f64)>,
}

/// That a user was at an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visit {
    /// Its place among the events.
    pub event: u32,
    /// Seconds, from any beginning.
    pub at: i64,
    pub weight: f32,
}

/// Events, and what users did with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DataSet {
    pub events: Vec<DatasetEvent>,
    /// Each user's visits, by time.
    pub users: Vec<Vec<Visit>>,
}

/// How good lists are, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    pub recall: f64,
    pub ndcg: f64,
    pub coverage: f64,
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Users whose last event was looked for.
    pub users: usize,
    pub model: Scores,
    pub popularity: Scores,
    pub random: Scores,
    /// To learn from all but the last.
    pub training: Duration,
    /// Of each list, in milliseconds, in no order; what SQL takes is not in it.
    pub list_millis: Vec<f64>,
}

impl DataSet {
    /// All visits of all users.
    pub fn visits(&self) -> usize {
        self.users.iter().map(Vec::len).sum()
    }

    /// Hides the last event of each user, looks for those of `most` users drawn by the seed, with this half-life.
    pub fn leave_last_out(&self, most: usize, half_life: Duration, seed: u64) -> Evaluation {
        let hidden: Vec<_> = self.users.iter().map(|visits| split(visits)).collect();
        let newest = self
            .users
            .iter()
            .flatten()
            .map(|visit| visit.at)
            .max()
            .unwrap_or(0);
        let began = Instant::now();
        let model = self.learned(&hidden, newest, half_life);
        let training = began.elapsed();
        let mut draws = Draws(seed);
        let asked = asked(&hidden, most, &mut draws);
        let popular = by_popularity(&hidden, self.events.len());
        let mut tallies = [const { Tally::new() }; 3];
        let mut list_millis = Vec::with_capacity(asked.len());
        for user in &asked {
            let (known, last) = &hidden[*user];
            let seen: HashSet<u32> = known.iter().map(|visit| visit.event).collect();
            let taste = taste_of(known, newest, half_life);
            let began = Instant::now();
            let ranking = rank(&model, &taste, 0, AT);
            list_millis.push(began.elapsed().as_secs_f64() * 1_000.0);
            let ranked = ranking.items.iter().map(|item| event_of(model.id(item.event)));
            tallies[0].count(ranked.collect(), *last);
            let unseen = popular.iter().copied().filter(|event| !seen.contains(event));
            tallies[1].count(unseen.take(AT).collect(), *last);
            tallies[2].count(self.drawn(&seen, &mut draws), *last);
        }
        let [model, popularity, random] = tallies.map(|tally| tally.scores(asked.len(), self.events.len()));
        Evaluation {
            users: asked.len(),
            model,
            popularity,
            random,
            training,
            list_millis,
        }
    }

    fn learned(&self, hidden: &[(Vec<Visit>, Option<u32>)], newest: i64, half_life: Duration) -> Model {
        let mut catalogue = Catalogue::default();
        for (at, event) in self.events.iter().enumerate() {
            catalogue.push(&EventFeatures {
                id: id_of(at as u32),
                // All of them lie ahead, equally far.
                starts_at: 86_400,
                category: event.category.as_deref(),
                title: &event.title,
                description: "",
                place: event.place,
            });
        }
        let mut model = catalogue.ordered();
        let mut ratings = Ratings::default();
        for (known, _) in hidden {
            let mut likes: Vec<_> = taste_of(known, newest, half_life).likes().collect();
            likes.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            likes.truncate(LIKES);
            ratings.push(&model, likes);
        }
        model.learn(&ratings, 0);
        model
    }

    fn drawn(&self, seen: &HashSet<u32>, draws: &mut Draws) -> Vec<u32> {
        let left = self.events.len() - seen.len().min(self.events.len());
        let mut list = Vec::with_capacity(AT);
        while list.len() < AT.min(left) {
            let event = draws.below(self.events.len()) as u32;
            if !seen.contains(&event) && !list.contains(&event) {
                list.push(event);
            }
        }
        list
    }
}

fn id_of(event: u32) -> Ulid {
    Ulid(u128::from(event))
}

fn event_of(id: Ulid) -> u32 {
    id.0 as u32
}

/// All but the last event, and that one if it is new to the user and not the only one.
fn split(visits: &[Visit]) -> (Vec<Visit>, Option<u32>) {
    let Some(last) = visits.last().map(|visit| visit.event) else {
        return (Vec::new(), None);
    };
    let known: Vec<_> = visits
        .iter()
        .copied()
        .filter(|visit| visit.event != last)
        .collect();
    if known.is_empty() {
        return (visits.to_vec(), None);
    }
    (known, Some(last))
}

/// As a training sees a user: weights decay, are summed and rooted.
fn taste_of(known: &[Visit], newest: i64, half_life: Duration) -> Taste {
    let mut sums: HashMap<u32, f32> = HashMap::with_capacity(known.len());
    for visit in known {
        let age = (newest - visit.at) as f32;
        *sums.entry(visit.event).or_insert(0.0) += visit.weight * decay(age, half_life);
    }
    let mut liked: Vec<_> = sums
        .into_iter()
        .map(|(event, sum)| (id_of(event), sum.max(0.0).sqrt()))
        .collect();
    liked.sort_unstable_by_key(|(event, _)| *event);
    let settled: Vec<_> = liked.iter().map(|(event, _)| *event).collect();
    Taste::of(&liked, &settled)
}

/// Users with a hidden event, `most` of them.
fn asked(hidden: &[(Vec<Visit>, Option<u32>)], most: usize, draws: &mut Draws) -> Vec<usize> {
    let mut users: Vec<_> = (0..hidden.len())
        .filter(|user| hidden[*user].1.is_some())
        .collect();
    let most = most.min(users.len());
    for at in 0..most {
        let other = at + draws.below(users.len() - at);
        users.swap(at, other);
    }
    users.truncate(most);
    users
}

/// Events by the number of their users, without the hidden ones.
fn by_popularity(hidden: &[(Vec<Visit>, Option<u32>)], events: usize) -> Vec<u32> {
    let mut counts = vec![0_usize; events];
    for (known, _) in hidden {
        let seen: HashSet<u32> = known.iter().map(|visit| visit.event).collect();
        for event in seen {
            counts[event as usize] += 1;
        }
    }
    let mut order: Vec<u32> = (0..events as u32).collect();
    order.sort_by_key(|event| std::cmp::Reverse(counts[*event as usize]));
    order
}

#[derive(Debug)]
struct Tally {
    found: usize,
    gain: f64,
    listed: Option<HashSet<u32>>,
}

impl Tally {
    const fn new() -> Self {
        Self {
            found: 0,
            gain: 0.0,
            listed: None,
        }
    }

    fn count(&mut self, list: Vec<u32>, last: Option<u32>) {
        if let Some(rank) = list.iter().position(|event| Some(*event) == last) {
            self.found += 1;
            self.gain += 1.0 / (rank as f64 + 2.0).log2();
        }
        self.listed.get_or_insert_default().extend(list);
    }

    fn scores(self, users: usize, events: usize) -> Scores {
        let listed = self.listed.map_or(0, |listed| listed.len());
        Scores {
            recall: self.found as f64 / users.max(1) as f64,
            ndcg: self.gain / users.max(1) as f64,
            coverage: listed as f64 / events.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_LIFE: Duration = Duration::from_hours(24 * 60);

    #[test]
    fn the_model_beats_popularity_and_chance_clearly_on_a_set_of_known_structure() {
        for seed in [1, 2, 3] {
            let shape = Shape {
                events: 2_000,
                users: 1_000,
                visits: 20_000,
                noise: 0.2,
                ..Shape::default()
            };
            let found = shape.generate(seed).leave_last_out(1_000, HALF_LIFE, seed);
            let Evaluation {
                model,
                popularity,
                random,
                ..
            } = &found;
            assert!(found.users > 950, "{}", found.users);
            assert!(model.recall > 0.10, "{seed}: {found:?}");
            for other in [popularity, random] {
                assert!(model.recall > 2.0 * other.recall, "{seed}: {model:?} {other:?}");
                assert!(model.ndcg > 2.0 * other.ndcg, "{seed}: {model:?} {other:?}");
            }
            assert!(model.coverage > 5.0 * popularity.coverage, "{seed}: {found:?}");
        }
    }

    #[test]
    fn without_structure_there_is_nothing_to_be_found() {
        let shape = Shape {
            events: 500,
            users: 500,
            visits: 5_000,
            noise: 1.0,
            ..Shape::default()
        };
        let found = shape.generate(5).leave_last_out(500, HALF_LIFE, 5);
        let best = found.popularity.recall.max(found.random.recall);
        assert!(
            found.model.recall < 1.5 * best + 0.02,
            "the measure itself gives something away: {found:?}"
        );
    }

    #[test]
    fn only_visits_before_the_last_are_known() {
        let visit = |event, at| Visit {
            event,
            at,
            weight: 1.0,
        };
        let visits = [visit(1, 0), visit(2, 1), visit(1, 2), visit(3, 3), visit(2, 4)];
        let (known, last) = split(&visits);
        assert_eq!(last, Some(2));
        assert!(known.iter().all(|visit| visit.event != 2));
        assert_eq!(split(&visits[..1]), (vec![visits[0]], None));
        assert_eq!(split(&[]), (Vec::new(), None));
    }
}
