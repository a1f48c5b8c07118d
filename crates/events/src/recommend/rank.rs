//! From a taste to a list: every event that lies ahead is scored, the best are made a varied list, each with its reason.
//!
//! | part | is, between 0 and 1 | weight |
//! | --- | --- | --- |
//! | alike | likeness to what the user likes, by what others like (`similar.rs`), the best event at 1 | 0.46 |
//! | words | cosine between its words and those of what the user likes (`text.rs`), the best event at 1 | 0.12 |
//! | category | the share that its category has in what the user likes | 0.05 |
//! | near | 1 where something the user likes was, a half 25 km away | 0.04 |
//! | popular | the root of its share of what the most popular event has | 0.29 |
//! | soon | 1 now, a half in two weeks | 0.04 |
//!
//! A cosine favours what few know: whoever likes one obscure event likes the other. So *alike* is tempered by how popular the
//! event is, to the power of [`TEMPER`]. What is disliked counts against what is like it, in the first two parts.
//! The weights are those that did best on generated data of several shapes (`evaluate`), within what makes no difference.
//! Where there is little to learn from (five visits of a user, five of an event) the lists are about as good as popularity
//! alone, and worse where circles of taste are wide: they need some ten visits of a user to be better. Somebody of whom nothing is known gets what is popular
//! (0.8) and soon (0.2), and the list says so.
//!
//! The list takes the best [`POOL`] and picks one after another by maximal marginal relevance: score against likeness to
//! what was picked already, [`RELEVANCE`] to the rest. A reason is the part that contributed most.
//!
//! Costs one pass over the events that lie ahead, without an allocation for each; the bench asserts 20 ms over 100,000.

use super::model::{Model, NO_CATEGORY, NOWHERE};
use super::taste::Taste;
use crate::place::kilometres_squared;

const ALIKE: f32 = 0.46;
const WORDS: f32 = 0.12;
const CATEGORY: f32 = 0.05;
const NEAR: f32 = 0.04;
const POPULAR: f32 = 0.29;
const SOON: f32 = 0.04;

/// How much likeness counts for less where few know the event.
const TEMPER: f32 = 0.35;

/// For an unknown user.
const COLD_POPULAR: f32 = 0.8;
const COLD_SOON: f32 = 0.2;

/// Candidates of which the list is made.
const POOL: usize = 200;

/// How much the score counts against variety.
const RELEVANCE: f32 = 0.9;

/// Where an event is half as near, in kilometres.
const HALF_NEAR: f32 = 25.0;

/// When an event is half as soon, in seconds.
const HALF_SOON: f32 = 14.0 * 86_400.0;

/// Liked events whose places are looked at: those that are liked most.
const PLACES: usize = 8;

/// Liked events that a reason is looked for among.
const WITNESSES: usize = 50;

/// Why an event is in a list; events by their place in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RankReason {
    /// Those who like that event like this one.
    Alike(usize),
    /// It has much in common with that event.
    Words(usize),
    Category,
    /// It is near to that event.
    Near(usize),
    Popular,
    Soon,
}

/// One event of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RankedEvent {
    pub(crate) event: usize,
    /// 0 to 1.
    pub(crate) score: f32,
    pub(crate) why: RankReason,
}

/// A list, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ranking {
    /// Made of what the user likes, and not of what everybody does.
    pub(crate) personal: bool,
    pub(crate) items: Vec<RankedEvent>,
}

/// The best `count` events for a taste, of those that begin after `now` (seconds since the epoch).
pub(crate) fn rank(model: &Model, taste: &Taste, now: i64, count: usize) -> Ranking {
    let profile = Profile::of(model, taste, now);
    let mut pool: Vec<(u32, f32)> = (profile.first..model.events())
        .map(|event| (event as u32, profile.score(event)))
        .collect();
    for settled in &taste.settled {
        if let Some(place) = model
            .place(*settled)
            .and_then(|place| place.checked_sub(profile.first))
        {
            pool[place].1 = f32::NEG_INFINITY;
        }
    }
    super::matrix::keep_largest(&mut pool, POOL.max(count));
    pool.retain(|(_, score)| score.is_finite());
    let items = varied(model, pool, count)
        .into_iter()
        .map(|(event, score)| RankedEvent {
            event,
            score: score.clamp(0.0, 1.0),
            why: profile.why(event),
        });
    Ranking {
        personal: profile.personal,
        items: items.collect(),
    }
}

/// What a taste amounts to in the model's terms.
struct Profile<'m> {
    model: &'m Model,
    now: i64,
    first: usize,
    personal: bool,
    /// Liked and disliked events by their places, most liked first.
    liked: Vec<(usize, f32)>,
    /// For each event from `first` on, the best at 1.
    alike: Vec<f32>,
    words: Vec<f32>,
    categories: Vec<f32>,
    /// Places of what is liked most.
    near: Vec<(usize, [f32; 3])>,
}

impl<'m> Profile<'m> {
    fn of(model: &'m Model, taste: &Taste, now: i64) -> Self {
        let mut liked: Vec<_> = taste
            .liked
            .iter()
            .filter(|(_, weight)| weight.is_finite())
            .filter_map(|(id, weight)| Some((model.place(*id)?, *weight)))
            .collect();
        liked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let personal = liked.first().is_some_and(|(_, weight)| *weight > 0.0);
        let mut profile = Self {
            model,
            now,
            first: model.first_ahead(now),
            personal,
            liked,
            alike: Vec::new(),
            words: Vec::new(),
            categories: Vec::new(),
            near: Vec::new(),
        };
        if personal {
            profile.alike = profile.alike();
            profile.words = profile.words();
            profile.categories = profile.categories();
            profile.near = profile.near();
        }
        profile
    }

    fn alike(&self) -> Vec<f32> {
        let mut sums = vec![0.0_f32; self.model.events() - self.first];
        for (event, weight) in &self.liked {
            for (other, likeness) in self.model.arrays.neighbours.entries(*event) {
                if let Some(place) = other.checked_sub(self.first) {
                    sums[place] += weight * likeness;
                }
            }
        }
        let popularity = &self.model.arrays.popularity[self.first..];
        for (sum, popular) in sums.iter_mut().zip(popularity) {
            if sum.abs() > 0.0 {
                *sum *= popular.powf(TEMPER);
            }
        }
        best_at_one(sums)
    }

    fn words(&self) -> Vec<f32> {
        let terms = &self.model.arrays.terms;
        let mut liked = vec![0.0; self.model.arrays.vocabulary];
        for (event, weight) in &self.liked {
            for (term, value) in terms.entries(*event) {
                liked[term] += weight * value;
            }
        }
        let common = (self.first..self.model.events()).map(|event| {
            let of_event = terms.entries(event);
            of_event.map(|(term, value)| value * liked[term]).sum()
        });
        best_at_one(common.collect())
    }

    fn categories(&self) -> Vec<f32> {
        let mut shares = vec![0.0_f32; self.model.arrays.names.len()];
        for (event, weight) in &self.liked {
            shares[usize::from(self.model.arrays.categories[*event])] += weight.max(0.0);
        }
        let total: f32 = shares.iter().sum();
        if total > 0.0 {
            for share in &mut shares {
                *share /= total;
            }
        }
        if let Some(none) = shares.get_mut(usize::from(NO_CATEGORY)) {
            *none = 0.0;
        }
        shares
    }

    fn near(&self) -> Vec<(usize, [f32; 3])> {
        let positions = &self.model.arrays.positions;
        let placed = self
            .liked
            .iter()
            .filter(|(event, weight)| *weight > 0.0 && positions[*event] != NOWHERE);
        placed
            .take(PLACES)
            .map(|(event, _)| (*event, positions[*event]))
            .collect()
    }

    fn score(&self, event: usize) -> f32 {
        let (popular, soon) = (self.model.arrays.popularity[event], self.soon(event));
        if !self.personal {
            return COLD_POPULAR * popular + COLD_SOON * soon;
        }
        self.parts(event).iter().sum()
    }

    /// Alike, words, category, near, popular, soon, each with its weight.
    fn parts(&self, event: usize) -> [f32; 6] {
        [
            ALIKE * self.alike[event - self.first],
            WORDS * self.words[event - self.first],
            CATEGORY * self.categories[usize::from(self.model.arrays.categories[event])],
            NEAR * self.nearness(event),
            POPULAR * self.model.arrays.popularity[event],
            SOON * self.soon(event),
        ]
    }

    fn soon(&self, event: usize) -> f32 {
        let ahead = (self.model.arrays.starts[event] - self.now) as f32;
        1.0 / (1.0 + ahead.max(0.0) / HALF_SOON)
    }

    fn nearness(&self, event: usize) -> f32 {
        let here = &self.model.arrays.positions[event];
        if *here == NOWHERE {
            return 0.0;
        }
        let distances = self.near.iter().map(|(_, there)| kilometres_squared(here, there));
        1.0 / (1.0 + distances.fold(f32::INFINITY, f32::min) / (HALF_NEAR * HALF_NEAR))
    }

    /// The liked event that is nearest.
    fn nearest(&self, event: usize) -> Option<usize> {
        let here = &self.model.arrays.positions[event];
        let distances = self
            .near
            .iter()
            .map(|(liked, there)| (*liked, kilometres_squared(here, there)));
        distances
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(liked, _)| liked)
    }

    fn why(&self, event: usize) -> RankReason {
        if !self.personal {
            let popular = COLD_POPULAR * self.model.arrays.popularity[event];
            return if popular >= COLD_SOON * self.soon(event) {
                RankReason::Popular
            } else {
                RankReason::Soon
            };
        }
        let parts = self.parts(event);
        let largest = (0..parts.len()).max_by(|a, b| parts[*a].total_cmp(&parts[*b]));
        let arrays = &self.model.arrays;
        let found = match largest {
            Some(0) => self
                .witness(|liked| arrays.neighbours.get(liked, event))
                .map(RankReason::Alike),
            Some(1) => self
                .witness(|liked| arrays.terms.dot(liked, event))
                .map(RankReason::Words),
            Some(2) => Some(RankReason::Category),
            Some(3) => self.nearest(event).map(RankReason::Near),
            Some(4) => Some(RankReason::Popular),
            _ => None,
        };
        found.unwrap_or(RankReason::Soon)
    }

    /// The liked event that says most.
    fn witness(&self, says: impl Fn(usize) -> f32) -> Option<usize> {
        self.liked
            .iter()
            .take(WITNESSES)
            .map(|(liked, weight)| (*liked, weight * says(*liked)))
            .filter(|(_, said)| *said > 0.0)
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(liked, _)| liked)
    }
}

fn best_at_one(mut values: Vec<f32>) -> Vec<f32> {
    let best = values.iter().copied().fold(0.0, f32::max);
    if best > 0.0 {
        for value in &mut values {
            *value /= best;
        }
    }
    values
}

/// Picks a list by maximal marginal relevance. Each pick costs a look at each candidate, and only at the last pick.
fn varied(model: &Model, pool: Vec<(u32, f32)>, count: usize) -> Vec<(usize, f32)> {
    let mut pool: Vec<_> = pool
        .into_iter()
        .map(|(event, score)| (event as usize, score, 0.0_f32))
        .collect();
    // Equal ones in one order, always.
    pool.sort_unstable_by_key(|(event, ..)| *event);
    let mut picked = Vec::with_capacity(count.min(pool.len()));
    while picked.len() < count && !pool.is_empty() {
        let merit = |(_, score, alike): &(usize, f32, f32)| RELEVANCE * score - (1.0 - RELEVANCE) * alike;
        let mut best = 0;
        for at in 1..pool.len() {
            if merit(&pool[at]).total_cmp(&merit(&pool[best])).is_gt() {
                best = at;
            }
        }
        let (event, score, _) = pool.swap_remove(best);
        picked.push((event, score));
        for (other, _, alike) in &mut pool {
            *alike = alike.max(likeness(model, event, *other));
        }
    }
    picked
}

/// How much of the same two events are, 0 to 1.
fn likeness(model: &Model, one: usize, other: usize) -> f32 {
    let arrays = &model.arrays;
    arrays
        .terms
        .dot(one, other)
        .max(arrays.neighbours.get(one, other))
        .max(arrays.neighbours.get(other, one))
        .min(1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::recommend::model::{Catalogue, EventFeatures, Ratings};

    const DAY: i64 = 86_400;

    struct Event(u128, i64, &'static str, &'static str, Option<(f64, f64)>);

    fn model(events: &[Event], users: &[&[u128]]) -> Model {
        let mut catalogue = Catalogue::default();
        for Event(id, starts_at, category, title, place) in events {
            catalogue.push(&EventFeatures {
                id: Ulid(*id),
                starts_at: *starts_at,
                category: (!category.is_empty()).then_some(*category),
                title,
                description: "",
                place: *place,
            });
        }
        let mut model = catalogue.ordered();
        let mut ratings = Ratings::default();
        for user in users {
            ratings.push(&model, user.iter().map(|id| (Ulid(*id), 1.0)));
        }
        model.learn(&ratings, 0);
        model
    }

    fn plain(ids: std::ops::Range<u128>) -> Vec<Event> {
        ids.map(|id| Event(id, DAY * 30, "", "", None)).collect()
    }

    fn ids(model: &Model, ranking: &Ranking) -> Vec<u128> {
        ranking.items.iter().map(|item| model.id(item.event).0).collect()
    }

    fn liking(ids: &[u128]) -> Taste {
        let liked: Vec<_> = ids.iter().map(|id| (Ulid(*id), 1.0)).collect();
        let settled: Vec<_> = ids.iter().map(|id| Ulid(*id)).collect();
        Taste::of(&liked, &settled)
    }

    #[test]
    fn what_people_of_the_same_taste_like_comes_first_with_that_reason() {
        let users: &[&[u128]] = &[&[1, 2, 3], &[1, 2, 3], &[4, 5, 6], &[4, 5, 6], &[6], &[6], &[6]];
        let model = model(&plain(1..8), users);
        let ranking = rank(&model, &liking(&[1]), 0, 3);
        assert!(ranking.personal);
        assert_eq!(ids(&model, &ranking), [2, 3, 6]);
        let here = model.place(Ulid(1)).unwrap();
        assert_eq!(ranking.items[0].why, RankReason::Alike(here));
        assert_eq!(ranking.items[2].why, RankReason::Popular);
    }

    #[test]
    fn an_unknown_user_gets_what_is_popular_and_the_list_says_so() {
        let model = model(&plain(1..5), &[&[2, 3], &[2], &[2, 4], &[3]]);
        for taste in [
            Taste::default(),
            liking(&[99]),
            Taste::of(&[(Ulid(1), -1.0)], &[Ulid(1)]),
        ] {
            let ranking = rank(&model, &taste, 0, 2);
            assert!(!ranking.personal);
            assert_eq!(ids(&model, &ranking), [2, 3]);
            assert_eq!(ranking.items[0].why, RankReason::Popular);
        }
    }

    #[test]
    fn what_has_begun_or_is_settled_is_not_recommended_but_says_something() {
        let mut events = plain(2..5);
        events.push(Event(1, -DAY, "", "", None));
        let users: &[&[u128]] = &[&[1, 2, 3], &[1, 2, 3], &[1, 2]];
        let model = model(&events, users);
        let taste = Taste::of(&[(Ulid(1), 1.0)], &[Ulid(1), Ulid(2)]);
        let ranking = rank(&model, &taste, 0, 9);
        assert_eq!(ids(&model, &ranking), [3, 4]);
        assert_eq!(
            ranking.items[0].why,
            RankReason::Alike(model.place(Ulid(1)).unwrap())
        );
    }

    #[test]
    fn a_new_event_is_found_by_its_words_its_category_and_its_place() {
        let (here, there) = (Some((47.27, 11.40)), Some((52.52, 13.40)));
        let events = [
            Event(1, -DAY, "music", "jazz swing trio", here),
            Event(2, DAY * 30, "talks", "swing jazz evening", there),
            Event(3, DAY * 30, "music", "choir", there),
            Event(4, DAY * 30, "talks", "garden plants", here),
            Event(5, DAY * 30, "talks", "garden evening plants", there),
        ];
        let model = model(&events, &[]);
        let ranking = rank(&model, &liking(&[1]), 0, 4);
        assert_eq!(ids(&model, &ranking), [2, 3, 4, 5]);
        let first = model.place(Ulid(1)).unwrap();
        let whys: Vec<_> = ranking.items.iter().map(|item| item.why).collect();
        assert_eq!(
            whys,
            [
                RankReason::Words(first),
                RankReason::Category,
                RankReason::Near(first),
                RankReason::Soon
            ]
        );
    }

    #[test]
    fn what_is_disliked_takes_from_what_is_like_it() {
        let users: &[&[u128]] = &[
            &[1, 2],
            &[1, 2],
            &[1, 3],
            &[1, 3],
            &[3, 4],
            &[3, 4],
            &[2, 5],
            &[2, 5],
        ];
        let model = model(&plain(1..6), users);
        let taste = |disliked| {
            Taste::of(
                &[(Ulid(1), 1.0), (Ulid(disliked), -1.0)],
                &[Ulid(1), Ulid(disliked)],
            )
        };
        assert_eq!(ids(&model, &rank(&model, &taste(4), 0, 1)), [2]);
        assert_eq!(ids(&model, &rank(&model, &taste(5), 0, 1)), [3]);
    }

    #[test]
    fn a_list_is_varied() {
        let same = "jazz swing trio night";
        let events = [
            Event(1, -DAY, "", "jazz swing trio night books authors", None),
            Event(2, DAY, "", same, None),
            Event(3, DAY, "", same, None),
            Event(4, DAY, "", "books authors", None),
            Event(5, DAY, "", "xylophone", None),
            Event(6, DAY, "", "yoga", None),
            Event(7, DAY, "", "zither", None),
            Event(8, DAY, "", "quiz", None),
            Event(9, DAY, "", "running", None),
            Event(10, DAY, "", "tango", None),
        ];
        let model = model(&events, &[]);
        let ranking = rank(&model, &liking(&[1]), 0, 3);
        let scores: Vec<_> = ranking.items.iter().map(|item| item.score).collect();
        assert_eq!(ids(&model, &ranking), [2, 4, 3], "{scores:?}");
        assert!(
            scores[2] > scores[1],
            "the second scores less than the third: {scores:?}"
        );
    }

    proptest! {
        #[test]
        fn a_list_has_no_event_twice_none_that_began_none_settled_and_no_more_than_asked_for(
            starts in prop::collection::vec(-5_i64..20, 1..40),
            users in prop::collection::vec(prop::collection::hash_set(0_u128..40, 1..8), 0..12),
            liked in prop::collection::vec((0_u128..50, -2.0_f32..2.0), 0..10),
            settled in prop::collection::vec(0_u128..50, 0..10),
            count in 0_usize..30,
        ) {
            let events: Vec<_> = starts
                .iter()
                .enumerate()
                .map(|(at, day)| Event(at as u128, day * DAY, ["", "a", "b"][at % 3], ["x y", "y z"][at % 2], None))
                .collect();
            let users: Vec<Vec<u128>> = users.into_iter().map(|user| user.into_iter().collect()).collect();
            let users: Vec<&[u128]> = users.iter().map(Vec::as_slice).collect();
            let model = model(&events, &users);
            let liked: Vec<_> = liked.into_iter().map(|(id, weight)| (Ulid(id), weight)).collect();
            let settled: Vec<_> = settled.into_iter().map(Ulid).collect();
            let ranking = rank(&model, &Taste::of(&liked, &settled), 0, count);
            let unsettled = (0..events.len())
                .filter(|at| starts[*at] > 0 && !settled.contains(&Ulid(*at as u128)))
                .count();
            prop_assert_eq!(ranking.items.len(), unsettled.min(count));
            let mut seen = HashSet::new();
            for item in &ranking.items {
                prop_assert!(seen.insert(item.event));
                prop_assert!((0.0..=1.0).contains(&item.score));
                prop_assert!(model.arrays.starts[item.event] > 0);
                prop_assert!(!settled.contains(&model.id(item.event)));
            }
        }
    }
}
