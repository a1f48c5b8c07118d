//! Texts as words: one way to cut them, for the search and for the model.
//!
//! A word is a run of letters and digits in lower case, of [`SHORTEST`] to [`LONGEST`] characters. A script that parts no
//! words is one word to us up to that length, and is found by it whole.

/// In characters.
pub(crate) const SHORTEST: usize = 2;

/// In characters.
pub(crate) const LONGEST: usize = 40;

/// The words of a text in their order, repetitions included.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        // Lower case may be longer than upper case, and hold marks that are no letters.
        .map(|word| {
            let lower = word.chars().flat_map(char::to_lowercase);
            lower
                .filter(|letter| letter.is_alphanumeric())
                .collect::<String>()
        })
        .filter(|word| (SHORTEST..=LONGEST).contains(&word.chars().count()))
}

/// Each word once, in its first place; `most` of them at most.
pub(crate) fn distinct(texts: &[&str], most: usize) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts
        .iter()
        .flat_map(|text| words(text))
        .filter(|word| seen.insert(word.clone()))
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_cut_where_no_letter_is() {
        let cut: Vec<_> = words("Jazz-Nacht: ÄRGER im Café, 20.30h! a").collect();
        assert_eq!(cut, ["jazz", "nacht", "ärger", "im", "café", "20", "30h"]);
        assert_eq!(distinct(&["Jazz jazz", "JAZZ blues rock"], 2), ["jazz", "blues"]);
    }

    proptest! {
        #[test]
        fn a_word_holds_nothing_that_sql_reads_otherwise(text in ".{0,200}") {
            for word in words(&text) {
                prop_assert!(word.chars().all(char::is_alphanumeric), "{word:?}");
                prop_assert!((SHORTEST..=LONGEST).contains(&word.chars().count()));
            }
        }

        #[test]
        fn cutting_again_changes_nothing(text in ".{0,200}") {
            let once: Vec<_> = words(&text).collect();
            let again: Vec<_> = words(&once.join(" ")).collect();
            prop_assert_eq!(once, again);
        }
    }
}
