//! A model as bytes: a head, then each array as its length and its values, little-endian.
//!
//! What is read is checked as if a stranger had written it: lengths against what is left before anything is allocated,
//! then every invariant of [`super::model`]. Bytes that fail are no model, whichever process stored them.

use super::matrix::Matrix;
use super::model::{Arrays, Model};

/// "HFRM", and the version of the format. A process that does not know the version keeps to what it has.
const HEAD: [u8; 6] = *b"HFRM\x01\x00";

/// Longest name of a category, in bytes; longer ones do not come in.
const NAME: usize = 1_024;

/// Bytes that are no model of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stored model cannot be read: another version wrote it, or it is damaged; the next `ml.train` replaces it"
)]
pub struct Unreadable;

impl Model {
    pub fn to_bytes(&self) -> Vec<u8> {
        let Arrays {
            ids,
            starts,
            categories,
            names,
            positions,
            popularity,
            neighbours,
            terms,
            vocabulary,
        } = &self.arrays;
        let mut out = HEAD.to_vec();
        put(&mut out, ids, |id| id.to_le_bytes());
        put(&mut out, starts, |at| at.to_le_bytes());
        put(&mut out, categories, |category| category.to_le_bytes());
        out.extend((names.len() as u32).to_le_bytes());
        for name in names {
            put(&mut out, name.as_bytes(), |byte| [*byte]);
        }
        for axis in 0..3 {
            put(&mut out, positions, |position| position[axis].to_le_bytes());
        }
        put(&mut out, popularity, |value| value.to_le_bytes());
        for matrix in [neighbours, terms] {
            let (starts, columns, values) = matrix.arrays();
            put(&mut out, starts, |at| at.to_le_bytes());
            put(&mut out, columns, |column| column.to_le_bytes());
            put(&mut out, values, |value| value.to_le_bytes());
        }
        out.extend((*vocabulary as u32).to_le_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes.strip_prefix(&HEAD).ok_or(Unreadable)?);
        read(&mut reader).map(Self::new).ok_or(Unreadable)
    }
}

fn put<T, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes: impl Fn(&T) -> [u8; N]) {
    out.reserve(4 + values.len() * N);
    out.extend((values.len() as u32).to_le_bytes());
    for value in values {
        out.extend(bytes(value));
    }
}

fn read(reader: &mut Reader<'_>) -> Option<Arrays> {
    let ids = reader.array(u128::from_le_bytes)?;
    let events = ids.len();
    let starts = reader.array(i64::from_le_bytes)?;
    let categories = reader.array(u16::from_le_bytes)?;
    let names = reader.names()?;
    let (x, y, z) = (reader.floats()?, reader.floats()?, reader.floats()?);
    let popularity = reader.floats()?;
    let neighbours = reader.matrix()?;
    let terms = reader.matrix()?;
    let vocabulary = reader.count()?;
    let even = [
        starts.len(),
        categories.len(),
        x.len(),
        y.len(),
        z.len(),
        popularity.len(),
    ];
    let sound = reader.0.is_empty()
        && even.iter().all(|length| *length == events)
        && starts.is_sorted()
        && categories
            .iter()
            .all(|category| usize::from(*category) < names.len())
        && x.iter()
            .chain(&y)
            .chain(&z)
            .chain(&popularity)
            .all(|value| value.is_finite());
    let positions = x.iter().zip(&y).zip(&z).map(|((x, y), z)| [*x, *y, *z]);
    sound.then_some(())?;
    Some(Arrays {
        positions: positions.collect(),
        neighbours: Matrix::checked(neighbours.0, neighbours.1, neighbours.2, (events, events))?,
        terms: Matrix::checked(terms.0, terms.1, terms.2, (events, vocabulary))?,
        ids,
        starts,
        categories,
        names,
        popularity,
        vocabulary,
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        let (count, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*count)).ok()
    }

    fn array<T, const N: usize>(&mut self, value: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
        let count = self.count()?;
        let bytes = self.take(count.checked_mul(N)?)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Some(chunks.iter().map(|chunk| value(*chunk)).collect())
    }

    fn floats(&mut self) -> Option<Vec<f32>> {
        self.array(f32::from_le_bytes)
    }

    fn names(&mut self) -> Option<Vec<String>> {
        let count = self.count().filter(|count| *count <= usize::from(u16::MAX) + 1)?;
        (0..count)
            .map(|_| {
                let length = self.count().filter(|length| *length <= NAME)?;
                String::from_utf8(self.take(length)?.to_vec()).ok()
            })
            .collect()
    }

    fn matrix(&mut self) -> Option<(Vec<u32>, Vec<u32>, Vec<f32>)> {
        Some((
            self.array(u32::from_le_bytes)?,
            self.array(u32::from_le_bytes)?,
            self.floats()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::recommend::model::{Catalogue, EventFeatures, Ratings};

    fn model(events: usize) -> Model {
        let mut catalogue = Catalogue::default();
        for at in 0..events {
            let title = format!("event of kind{} in hall{}", at % 3, at % 5);
            catalogue.push(&EventFeatures {
                id: Ulid(at as u128 * 7_919),
                starts_at: 1_000 + (at as i64 * 37) % 100,
                category: (at % 4 > 0).then_some(["", "music", "code", "Täuschung"][at % 4]),
                title: &title,
                description: "",
                place: (at % 2 == 0).then_some((at as f64, -(at as f64))),
            });
        }
        let mut model = catalogue.ordered();
        let mut ratings = Ratings::default();
        for user in 0..events {
            let liked = (0..events).filter(|at| (at * at + user) % 5 < 2);
            ratings.push(&model, liked.map(|at| (Ulid(at as u128 * 7_919), 1.5)));
        }
        model.learn(&ratings, 0);
        model
    }

    #[test]
    fn a_model_is_read_as_it_was_written() {
        for events in [0, 1, 2, 30] {
            let model = model(events);
            assert_eq!(Model::from_bytes(&model.to_bytes()), Ok(model));
        }
    }

    #[test]
    fn a_model_that_was_cut_short_or_lengthened_is_none() {
        let bytes = model(12).to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(Model::from_bytes(&bytes[..length]), Err(Unreadable));
        }
        assert_eq!(Model::from_bytes(&[&bytes[..], &[0]].concat()), Err(Unreadable));
    }

    proptest! {
        /// What still reads as a model after a change can be used without a panic.
        #[test]
        fn a_damaged_model_is_none_or_sound(at in 6_usize..2_000, byte in any::<u8>()) {
            let mut bytes = model(12).to_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(model) = Model::from_bytes(&bytes) {
                let taste = crate::recommend::taste::Taste::default();
                let _ranked = crate::recommend::rank::rank(&model, &taste, 0, 10);
                for place in 0..model.events() {
                    let liked = [(model.id(place), 1.0)];
                    let taste = crate::recommend::taste::Taste::of(&liked, &[]);
                    let _ranked = crate::recommend::rank::rank(&model, &taste, 0, 10);
                }
            }
        }
    }
}
