//! The model: flat arrays over the events, nothing of any user.
//!
//! An event is its place in the arrays, a `u32`; places ascend by start and id, so what lies ahead is the end of each
//! array. 100,000 events take about 60 MB: 40 for the neighbours, 13 for the terms.
//!
//! # Invariants
//! Every array has one entry (every matrix one row) for each event; columns of `neighbours` are events, columns of `terms`
//! are below `vocabulary`, categories are below the number of names. `codec.rs` refuses bytes that say otherwise, so
//! the readers of the arrays need not.

use std::collections::HashMap;

use ulid::Ulid;

use super::matrix::Matrix;
use super::similar::neighbours;
use super::text::Texts;
use crate::place::on_sphere;

/// Where no category or place is known.
pub(crate) const NO_CATEGORY: u16 = 0;
pub(crate) const NOWHERE: [f32; 3] = [0.0; 3];

/// Most categories that are told apart.
const CATEGORIES: usize = u16::MAX as usize;

/// What is known of an event, to train on.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventFeatures<'a> {
    pub id: Ulid,
    /// Seconds since the epoch.
    pub starts_at: i64,
    pub category: Option<&'a str>,
    pub title: &'a str,
    pub description: &'a str,
    /// Degrees.
    pub place: Option<(f64, f64)>,
}

/// The events to train on, one after another, in any order.
#[derive(Debug, Default)]
pub struct Catalogue {
    ids: Vec<u128>,
    starts: Vec<i64>,
    categories: Vec<u16>,
    names: HashMap<Box<str>, u16>,
    positions: Vec<[f32; 3]>,
    texts: Texts,
}

impl Catalogue {
    pub fn push(&mut self, event: &EventFeatures<'_>) {
        self.ids.push(event.id.0);
        self.starts.push(event.starts_at);
        let category = event.category.map_or(NO_CATEGORY, |name| self.category(name));
        self.categories.push(category);
        let position = event
            .place
            .map_or(NOWHERE, |(lat, lon)| on_sphere(lat, lon).map(|part| part as f32));
        self.positions.push(position);
        self.texts.push(event.title, event.description);
    }

    fn category(&mut self, name: &str) -> u16 {
        if let Some(known) = self.names.get(name) {
            return *known;
        }
        let next = self.names.len() + 1;
        if next >= CATEGORIES {
            return NO_CATEGORY;
        }
        self.names.insert(name.into(), next as u16);
        next as u16
    }

    /// The events in their places, with all that comes of their own words. Of an id that was pushed twice both remain.
    pub fn ordered(self) -> Model {
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_unstable_by_key(|at| (self.starts[*at as usize], self.ids[*at as usize]));
        let (terms, vocabulary) = self.texts.vectors(&order);
        let mut names = vec![String::new(); self.names.len() + 1];
        for (name, at) in self.names {
            names[usize::from(at)] = name.into();
        }
        let count = order.len();
        Model::new(Arrays {
            ids: picked(&order, &self.ids),
            starts: picked(&order, &self.starts),
            categories: picked(&order, &self.categories),
            names,
            positions: picked(&order, &self.positions),
            popularity: vec![0.0; count],
            neighbours: empty(count),
            terms,
            vocabulary,
        })
    }
}

fn picked<T: Copy>(order: &[u32], from: &[T]) -> Vec<T> {
    order.iter().map(|at| from[*at as usize]).collect()
}

fn empty(rows: usize) -> Matrix {
    let mut matrix = Matrix::new();
    for _ in 0..rows {
        matrix.push(&mut []);
    }
    matrix
}

/// What a model consists of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arrays {
    pub(crate) ids: Vec<u128>,
    /// Seconds since the epoch, ascending.
    pub(crate) starts: Vec<i64>,
    pub(crate) categories: Vec<u16>,
    /// The first stands for none.
    pub(crate) names: Vec<String>,
    /// On the unit sphere; [`NOWHERE`] if there is none.
    pub(crate) positions: Vec<[f32; 3]>,
    /// 0 to 1; the root of the share that the most popular has, so that ages cancel out.
    pub(crate) popularity: Vec<f32>,
    /// See [`super::similar`].
    pub(crate) neighbours: Matrix,
    /// Of unit length, or empty.
    pub(crate) terms: Matrix,
    pub(crate) vocabulary: usize,
}

/// A trained model.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub(crate) arrays: Arrays,
    /// Places by id, to find one.
    by_id: Vec<u32>,
}

/// What the users of a training like: one row each, of events and how much.
#[derive(Debug)]
pub struct Ratings {
    rows: Matrix,
    entries: usize,
}

impl Default for Ratings {
    fn default() -> Self {
        Self {
            rows: Matrix::new(),
            entries: 0,
        }
    }
}

impl Ratings {
    /// One user's liked events, each once, all weights above zero; by their places in `model`. Unknown ids are left out.
    pub fn push(&mut self, model: &Model, liked: impl IntoIterator<Item = (Ulid, f32)>) {
        let known = liked.into_iter().filter_map(|(id, weight)| {
            let place = model.place(id)?;
            (weight > 0.0 && weight.is_finite()).then_some((place as u32, weight))
        });
        let mut row: Vec<_> = known.collect();
        self.entries += row.len();
        if !row.is_empty() {
            self.rows.push(&mut row);
        }
    }

    pub fn users(&self) -> usize {
        self.rows.rows()
    }

    /// Users times their events.
    pub fn entries(&self) -> usize {
        self.entries
    }
}

impl Model {
    pub(crate) fn new(arrays: Arrays) -> Self {
        let mut by_id: Vec<u32> = (0..arrays.ids.len() as u32).collect();
        by_id.sort_unstable_by_key(|at| arrays.ids[*at as usize]);
        Self { arrays, by_id }
    }

    pub fn events(&self) -> usize {
        self.arrays.ids.len()
    }

    pub(crate) fn place(&self, id: Ulid) -> Option<usize> {
        self.by_id
            .binary_search_by_key(&id.0, |at| self.arrays.ids[*at as usize])
            .ok()
            .map(|found| self.by_id[found] as usize)
    }

    pub(crate) fn id(&self, place: usize) -> Ulid {
        Ulid(self.arrays.ids[place])
    }

    /// The first event that begins after `now`, in seconds since the epoch.
    pub(crate) fn first_ahead(&self, now: i64) -> usize {
        self.arrays.starts.partition_point(|starts| *starts <= now)
    }

    /// Learns from what users like. Takes the place of what was learned before.
    pub fn learn(&mut self, ratings: &Ratings, now: i64) {
        let mut sums = vec![0.0_f32; self.events()];
        for user in 0..ratings.rows.rows() {
            for (event, weight) in ratings.rows.entries(user) {
                sums[event] += weight;
            }
        }
        let most = sums.iter().copied().fold(0.0, f32::max);
        if most > 0.0 {
            for sum in &mut sums {
                *sum = (*sum / most).sqrt();
            }
        }
        self.arrays.popularity = sums;
        let first = self.first_ahead(now);
        self.arrays.neighbours = neighbours(&ratings.rows, self.events(), first);
    }

    /// Takes over what `older` learned, for the events that both know: where only events have changed since, this is what
    /// learning anew would find, but that a neighbour which has begun leaves its place to nobody.
    pub fn inherit(&mut self, older: &Self) {
        let here: Vec<Option<u32>> = (0..older.events())
            .map(|place| self.place(older.id(place)).map(|at| at as u32))
            .collect();
        let mut matrix = Matrix::new();
        let mut row = Vec::new();
        for place in 0..self.events() {
            row.clear();
            if let Some(there) = older.place(self.id(place)) {
                self.arrays.popularity[place] = older.arrays.popularity[there];
                let known = older.arrays.neighbours.entries(there);
                row.extend(known.filter_map(|(other, value)| Some((here[other]?, value))));
            }
            matrix.push(&mut row);
        }
        self.arrays.neighbours = matrix;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(events: &[u128]) -> Catalogue {
        let mut catalogue = Catalogue::default();
        for id in events {
            let title = format!("event {}", id % 3);
            catalogue.push(&EventFeatures {
                id: Ulid(*id),
                starts_at: 1_000 - *id as i64,
                category: Some(["music", "code"][*id as usize % 2]),
                title: &title,
                ..EventFeatures::default()
            });
        }
        catalogue
    }

    fn trained(events: &[u128], users: &[&[u128]]) -> Model {
        let mut model = catalogue(events).ordered();
        let mut ratings = Ratings::default();
        for user in users {
            ratings.push(&model, user.iter().map(|id| (Ulid(*id), 1.0)));
        }
        model.learn(&ratings, 0);
        model
    }

    #[test]
    fn events_are_ordered_by_their_start_and_found_by_their_id() {
        let model = catalogue(&[1, 5, 3]).ordered();
        assert_eq!(model.arrays.ids, [5, 3, 1]);
        assert_eq!(model.place(Ulid(3)), Some(1));
        assert_eq!(model.place(Ulid(2)), None);
        assert_eq!(model.first_ahead(995), 1, "one that begins now has begun");
        assert_eq!(model.first_ahead(994), 0);
    }

    #[test]
    fn ratings_of_events_that_are_gone_are_left_out() {
        let model = catalogue(&[1, 2]).ordered();
        let mut ratings = Ratings::default();
        ratings.push(&model, [(Ulid(1), 1.0), (Ulid(9), 1.0), (Ulid(2), -1.0)]);
        ratings.push(&model, [(Ulid(9), 1.0)]);
        assert_eq!((ratings.users(), ratings.entries()), (1, 1));
    }

    #[test]
    fn inheriting_finds_what_learning_anew_would() {
        let users: &[&[u128]] = &[&[1, 2], &[1, 2, 3], &[3, 4], &[1, 2, 4]];
        let older = trained(&[1, 2, 3, 4], users);
        let anew = trained(&[7, 4, 3, 2, 1, 8], users);
        let mut heir = catalogue(&[8, 1, 2, 3, 4, 7]).ordered();
        heir.inherit(&older);
        assert_eq!(heir.arrays.neighbours, anew.arrays.neighbours);
        assert_eq!(heir.arrays.popularity, anew.arrays.popularity);
        let mut fewer = catalogue(&[1, 2]).ordered();
        fewer.inherit(&older);
        assert_eq!(
            fewer.arrays.neighbours.len(),
            2,
            "neighbours that are gone are left out"
        );
    }
}
