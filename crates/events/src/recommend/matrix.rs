//! A sparse matrix: for each row some columns, each with a value, in three flat arrays.

/// Rows of (column, value), the columns of a row ascending and each once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    /// Where each row begins, and the end; one longer than there are rows.
    starts: Vec<u32>,
    columns: Vec<u32>,
    values: Vec<f32>,
}

impl Matrix {
    pub(crate) fn new() -> Self {
        Self {
            starts: vec![0],
            columns: Vec::new(),
            values: Vec::new(),
        }
    }

    /// From its arrays, if they are those of a matrix with `rows` rows whose columns are all below `columns`.
    pub(crate) fn checked(
        starts: Vec<u32>,
        columns: Vec<u32>,
        values: Vec<f32>,
        (rows, width): (usize, usize),
    ) -> Option<Self> {
        let framed = starts.len() == rows + 1
            && starts.first() == Some(&0)
            && starts.last().map(|end| *end as usize) == Some(columns.len())
            && columns.len() == values.len()
            && starts.is_sorted();
        let sound = framed
            && values.iter().all(|value| value.is_finite())
            && columns.iter().all(|column| (*column as usize) < width);
        let matrix = Self {
            starts,
            columns,
            values,
        };
        let ascending = || {
            (0..rows).all(|row| {
                let (columns, _) = matrix.row(row);
                columns.windows(2).all(|pair| pair[0] < pair[1])
            })
        };
        (sound && ascending()).then_some(matrix)
    }

    pub(crate) fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// All entries.
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Appends a row; sorts it.
    pub(crate) fn push(&mut self, row: &mut [(u32, f32)]) {
        row.sort_unstable_by_key(|(column, _)| *column);
        debug_assert!(row.windows(2).all(|pair| pair[0].0 < pair[1].0), "a column twice");
        self.columns.extend(row.iter().map(|(column, _)| *column));
        self.values.extend(row.iter().map(|(_, value)| *value));
        self.starts.push(self.columns.len() as u32);
    }

    pub(crate) fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.starts[row] as usize..self.starts[row + 1] as usize;
        (&self.columns[range.clone()], &self.values[range])
    }

    pub(crate) fn entries(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        let (columns, values) = self.row(row);
        columns
            .iter()
            .map(|column| *column as usize)
            .zip(values.iter().copied())
    }

    /// The value at a place; zero where there is none.
    pub(crate) fn get(&self, row: usize, column: usize) -> f32 {
        let (columns, values) = self.row(row);
        columns
            .binary_search(&(column as u32))
            .map_or(0.0, |place| values[place])
    }

    /// The product of two rows.
    pub(crate) fn dot(&self, one: usize, other: usize) -> f32 {
        let (columns, values) = self.row(one);
        let (others, weights) = self.row(other);
        let (mut at, mut there, mut sum) = (0, 0, 0.0);
        while at < columns.len() && there < others.len() {
            match columns[at].cmp(&others[there]) {
                std::cmp::Ordering::Less => at += 1,
                std::cmp::Ordering::Greater => there += 1,
                std::cmp::Ordering::Equal => {
                    sum += values[at] * weights[there];
                    (at, there) = (at + 1, there + 1);
                }
            }
        }
        sum
    }

    /// Columns as rows.
    pub(crate) fn transposed(&self, width: usize) -> Self {
        let mut starts = vec![0_u32; width + 1];
        for column in &self.columns {
            starts[*column as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut free = starts.clone();
        let (mut columns, mut values) = (vec![0; self.len()], vec![0.0; self.len()]);
        for row in 0..self.rows() {
            for (column, value) in self.entries(row) {
                let place = &mut free[column];
                columns[*place as usize] = row as u32;
                values[*place as usize] = value;
                *place += 1;
            }
        }
        Self {
            starts,
            columns,
            values,
        }
    }

    pub(crate) fn arrays(&self) -> (&[u32], &[u32], &[f32]) {
        (&self.starts, &self.columns, &self.values)
    }
}

/// The `most` largest of these, in any order; the earlier column of two that are equal.
pub(crate) fn keep_largest(entries: &mut Vec<(u32, f32)>, most: usize) {
    if entries.len() > most && most > 0 {
        entries.select_nth_unstable_by(most - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    entries.truncate(most);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Rows = Vec<BTreeMap<u32, f32>>;

    fn rows() -> impl Strategy<Value = Rows> {
        prop::collection::vec(prop::collection::btree_map(0_u32..12, 0.1_f32..9.0, 0..8), 0..12)
    }

    fn matrix(rows: &Rows) -> Matrix {
        let mut matrix = Matrix::new();
        for row in rows {
            matrix.push(&mut row.iter().rev().map(|(c, v)| (*c, *v)).collect::<Vec<_>>());
        }
        matrix
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_found_and_turned_over(rows in rows()) {
            let made = matrix(&rows);
            let turned = made.transposed(12);
            for (at, row) in rows.iter().enumerate() {
                for column in 0..12 {
                    let value = row.get(&column).copied().unwrap_or(0.0);
                    prop_assert_eq!(made.get(at, column as usize).to_bits(), value.to_bits());
                    prop_assert_eq!(turned.get(column as usize, at).to_bits(), value.to_bits());
                }
                for (other, entries) in rows.iter().enumerate() {
                    let dot: f32 = row.iter().filter_map(|(c, v)| Some(v * entries.get(c)?)).sum();
                    prop_assert!((made.dot(at, other) - dot).abs() < 1e-3);
                }
            }
            let (starts, columns, values) = made.arrays();
            let parts = (starts.to_vec(), columns.to_vec(), values.to_vec());
            let again = Matrix::checked(parts.0, parts.1, parts.2, (rows.len(), 12));
            prop_assert_eq!(again, Some(made));
        }

        #[test]
        fn the_largest_are_kept(values in prop::collection::vec(0.0_f32..1.0, 0..40), most in 0_usize..10) {
            let mut entries: Vec<_> = values.iter().enumerate().map(|(at, value)| (at as u32, *value)).collect();
            keep_largest(&mut entries, most);
            prop_assert_eq!(entries.len(), most.min(values.len()));
            let least = entries.iter().map(|(_, value)| *value).fold(f32::INFINITY, f32::min);
            let larger = values.iter().filter(|value| **value > least).count();
            prop_assert!(larger < most.max(1));
        }
    }

    #[test]
    fn arrays_that_are_no_matrix_are_refused() {
        let good = (vec![0, 1, 2], vec![0, 1], vec![1.0, 2.0]);
        assert!(Matrix::checked(good.0, good.1, good.2, (2, 2)).is_some());
        for (starts, columns, values) in [
            (vec![0, 2, 1], vec![0, 1], vec![1.0, 2.0]),
            (vec![0, 1, 3], vec![0, 1], vec![1.0, 2.0]),
            (vec![0, 1, 2], vec![0, 2], vec![1.0, 2.0]),
            (vec![0, 2, 2], vec![1, 0], vec![1.0, 2.0]),
            (vec![0, 2, 2], vec![1, 1], vec![1.0, 2.0]),
            (vec![0, 1, 2], vec![0, 1], vec![1.0, f32::NAN]),
            (vec![0, 2], vec![0, 1], vec![1.0, 2.0]),
            (vec![], vec![], vec![]),
        ] {
            assert_eq!(Matrix::checked(starts, columns, values, (2, 2)), None);
        }
    }
}
