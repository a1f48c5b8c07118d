//! Texts as sparse vectors: TF-IDF, cut down to what tells an event from the others.

use std::collections::HashMap;

use super::matrix::{Matrix, keep_largest};
use crate::words::words;

/// Terms of one event; the weightiest. What is beyond hardly changes a cosine.
pub(crate) const TERMS: usize = 16;

/// Most different terms; the rarest go first.
const VOCABULARY: usize = 65_536;

/// Words of one event that are looked at.
const LOOKED_AT: usize = 400;

/// A word in more than this share of the events says nothing about any of them.
const TOO_COMMON: f32 = 0.3;

/// How much more a word of the title counts than one of the description.
const TITLE: f32 = 3.0;

/// Texts, one after another.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    ids: HashMap<Box<str>, u32>,
    /// In how many texts each term is.
    documents: Vec<u32>,
    /// Of all texts: term, weighted frequency.
    counts: Vec<(u32, f32)>,
    ends: Vec<u32>,
}

impl Texts {
    pub(crate) fn push(&mut self, title: &str, description: &str) {
        let mut counted: HashMap<u32, f32> = HashMap::new();
        let of_title = words(title).map(|word| (word, TITLE));
        let of_rest = words(description).map(|word| (word, 1.0));
        for (word, weight) in of_title.chain(of_rest).take(LOOKED_AT) {
            let next = self.ids.len() as u32;
            let id = *self.ids.entry(word.into_boxed_str()).or_insert(next);
            *counted.entry(id).or_insert(0.0) += weight;
        }
        self.documents.resize(self.ids.len(), 0);
        let mut counted: Vec<_> = counted.into_iter().collect();
        counted.sort_unstable_by_key(|(term, _)| *term);
        for (term, _) in &counted {
            self.documents[*term as usize] += 1;
        }
        self.counts.extend(counted);
        self.ends.push(self.counts.len() as u32);
    }

    /// One row of unit length for each text, in the order given; and how many terms there are.
    pub(crate) fn vectors(mut self, order: &[u32]) -> (Matrix, usize) {
        self.ids = HashMap::new();
        let (kept, terms) = self.vocabulary();
        let total = self.ends.len() as f32;
        let mut matrix = Matrix::new();
        let mut row = Vec::new();
        for text in order {
            let text = *text as usize;
            let begin = text.checked_sub(1).map_or(0, |before| self.ends[before]) as usize;
            row.clear();
            row.extend(
                self.counts[begin..self.ends[text] as usize]
                    .iter()
                    .filter_map(|(term, count)| {
                        let id = kept[*term as usize]?;
                        let idf = (total / self.documents[*term as usize] as f32).ln();
                        Some((id, (1.0 + count.ln()) * idf))
                    }),
            );
            keep_largest(&mut row, TERMS);
            let length = row.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
            if length > 0.0 {
                for (_, value) in &mut row {
                    *value /= length;
                }
            } else {
                row.clear();
            }
            matrix.push(&mut row);
        }
        (matrix, terms)
    }

    /// The new number of each term that is kept. One that a single event has can make no two alike.
    fn vocabulary(&self) -> (Vec<Option<u32>>, usize) {
        let common = (self.ends.len() as f32 * TOO_COMMON).max(2.0);
        let useful = |count: u32| count >= 2 && count as f32 <= common;
        let mut counts: Vec<u32> = self.documents.iter().copied().filter(|c| useful(*c)).collect();
        let least = match counts.len().checked_sub(VOCABULARY) {
            Some(rare) if rare > 0 => *counts.select_nth_unstable(rare).1,
            _ => 0,
        };
        let mut next = 0;
        let kept = self.documents.iter().map(|count| {
            let keep = useful(*count) && *count >= least && (next as usize) < VOCABULARY;
            keep.then(|| {
                next += 1;
                next - 1
            })
        });
        (kept.collect(), next as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(texts: &[(&str, &str)]) -> (Matrix, usize) {
        let mut all = Texts::default();
        for (title, description) in texts {
            all.push(title, description);
        }
        let order: Vec<u32> = (0..texts.len() as u32).collect();
        all.vectors(&order)
    }

    #[test]
    fn events_about_the_same_are_alike_and_others_are_not() {
        let (matrix, terms) = vectors(&[
            ("Jazz trio", "an evening of swing"),
            ("Jazz quartet", "swing and bebop"),
            ("Rust meetup", "an evening of compilers"),
            ("Rust workshop", "compilers for all"),
            ("", ""),
            ("Chess", "alone"),
            ("Go", "board"),
        ]);
        assert!(matrix.dot(0, 1) > 0.5, "{}", matrix.dot(0, 1));
        assert!(matrix.dot(0, 1) > 2.0 * matrix.dot(0, 2));
        assert!((matrix.dot(0, 0) - 1.0).abs() < 1e-5);
        for empty in [4, 5] {
            assert_eq!(matrix.row(empty).0.len(), 0, "what nobody shares is left out");
        }
        assert_eq!(terms, 7, "jazz an evening of swing rust compilers");
    }

    #[test]
    fn a_long_text_is_cut_down_to_its_weightiest_terms() {
        let long: Vec<String> = (0..300).map(|n| format!("word{n}")).collect();
        let long = long.join(" ");
        let other = "something quite different";
        let (matrix, _) = vectors(&[
            ("", &long),
            ("", &long),
            ("", other),
            ("", other),
            ("x", ""),
            ("y", ""),
            ("z", ""),
        ]);
        assert_eq!(matrix.row(0).0.len(), TERMS);
        assert_eq!(matrix.row(0), matrix.row(1));
        assert!(matrix.dot(0, 2).abs() < 1e-6);
    }
}
