//! Which events the same people like: item-item cosine over implicit feedback.
//!
//! Each row of the ratings is a user, each value how much the user likes the event (decayed by age, see
//! [`super::taste`]). Two corrections make few and busy users count for what they are:
//!
//! - A user with many events says less by each of them: a row counts `1 / (1 + ln n)`.
//! - A likeness that rests on few users in common is shrunk by `n / (n + SHRINK)`.
//!
//! Decay does not disturb any of it: a later training multiplies every value by the same factor, and a cosine forgets it.

use super::matrix::{Matrix, keep_largest};

/// Neighbours kept for one event.
pub(crate) const NEIGHBOURS: usize = 50;

/// Users in common at which a likeness counts half.
const SHRINK: f32 = 3.0;

/// For each of `items` events those that are most like it, of those from `first` on: what cannot be recommended any more
/// need not be found. Costs the sum of the squared lengths of the rows.
pub(crate) fn neighbours(ratings: &Matrix, items: usize, first: usize) -> Matrix {
    let weighted = toned_down(ratings);
    let by_item = weighted.transposed(items);
    let norms: Vec<f32> = (0..items).map(|item| by_item.dot(item, item).sqrt()).collect();
    let mut products = vec![0.0_f32; items];
    let mut common = vec![0_u32; items];
    let mut touched: Vec<u32> = Vec::new();
    let mut row = Vec::new();
    let mut matrix = Matrix::new();
    for item in 0..items {
        for (user, liked) in by_item.entries(item) {
            for (other, also) in weighted.entries(user) {
                if other >= first && other != item {
                    if common[other] == 0 {
                        touched.push(other as u32);
                    }
                    common[other] += 1;
                    products[other] += liked * also;
                }
            }
        }
        row.clear();
        for other in touched.drain(..) {
            let at = other as usize;
            let users = common[at] as f32;
            let cosine = products[at] / (norms[item] * norms[at]);
            let likeness = cosine.min(1.0) * users / (users + SHRINK);
            (products[at], common[at]) = (0.0, 0);
            if likeness > 0.0 && likeness.is_finite() {
                row.push((other, likeness));
            }
        }
        keep_largest(&mut row, NEIGHBOURS);
        matrix.push(&mut row);
    }
    matrix
}

fn toned_down(ratings: &Matrix) -> Matrix {
    let mut weighted = Matrix::new();
    for user in 0..ratings.rows() {
        let (columns, _) = ratings.row(user);
        // The root, because it comes into each product twice.
        let factor = (1.0 / (1.0 + (columns.len().max(1) as f32).ln())).sqrt();
        let mut row: Vec<_> = ratings
            .entries(user)
            .map(|(item, value)| (item as u32, value * factor))
            .collect();
        weighted.push(&mut row);
    }
    weighted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ratings(rows: &[&[(u32, f32)]]) -> Matrix {
        let mut matrix = Matrix::new();
        for row in rows {
            matrix.push(&mut row.to_vec());
        }
        matrix
    }

    #[test]
    fn what_the_same_people_like_is_alike() {
        let found = neighbours(
            &ratings(&[
                &[(0, 1.0), (1, 1.0)],
                &[(0, 1.0), (1, 1.0), (2, 0.1)],
                &[(2, 1.0), (3, 1.0)],
                &[(2, 1.0), (3, 1.0)],
            ]),
            5,
            0,
        );
        assert!(found.get(0, 1) > 0.3);
        assert!(found.get(0, 2) < 0.1 * found.get(0, 1));
        assert_eq!(found.row(4).0.len(), 0);
    }

    #[test]
    fn what_has_begun_is_nobodys_neighbour_but_has_some() {
        let found = neighbours(&ratings(&[&[(0, 1.0), (1, 1.0)], &[(0, 1.0), (1, 1.0)]]), 2, 1);
        assert_eq!((found.row(0).0, found.row(1).0.len()), (&[1][..], 0));
    }

    #[test]
    fn a_row_is_bounded() {
        let everything: Vec<(u32, f32)> = (0..200).map(|item| (item, 1.0)).collect();
        let found = neighbours(&ratings(&[&everything, &everything]), 200, 0);
        assert!((0..200).all(|item| found.row(item).0.len() == NEIGHBOURS));
    }

    proptest! {
        #[test]
        fn a_likeness_is_symmetric_between_zero_and_one_and_blind_to_the_age_of_all(
            rows in prop::collection::vec(prop::collection::btree_map(0_u32..10, 0.01_f32..5.0, 1..6), 1..12),
            decay in 0.01_f32..1.0,
        ) {
            let as_matrix = |factor: f32| {
                let mut matrix = Matrix::new();
                for row in &rows {
                    let row: &BTreeMap<u32, f32> = row;
                    matrix.push(&mut row.iter().map(|(c, v)| (*c, v * factor)).collect::<Vec<_>>());
                }
                matrix
            };
            let (now, later) = (neighbours(&as_matrix(1.0), 10, 0), neighbours(&as_matrix(decay), 10, 0));
            for a in 0..10 {
                for b in 0..10 {
                    let likeness = now.get(a, b);
                    prop_assert!((0.0..=1.0).contains(&likeness));
                    prop_assert!((likeness - now.get(b, a)).abs() < 1e-5);
                    prop_assert!((likeness - later.get(a, b)).abs() < 1e-4);
                }
            }
        }
    }
}
