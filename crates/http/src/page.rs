//! Pages of a list: which one a request asks for, and how it is cut.

use std::str::FromStr;

use utoipa::IntoParams;

use crate::params::Params;
use crate::problem::{Problem, bad_cursor};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// The two parameters of a route that answers in pages, for its document.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// The `next` of the previous page
    pub after: Option<String>,
    /// 1 to 1000; default 100
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<usize>,
}

/// The page that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The cursor, as the client gave it.
    pub after: Option<String>,
    /// Most items of the page.
    pub limit: usize,
}

impl Params {
    /// The parameters `after` and `limit`, as [`PageParams`] documents them.
    pub fn page(&mut self) -> PageRequest {
        self.page_of(DEFAULT_LIMIT, MAX_LIMIT)
    }

    /// The same, with other limits.
    pub fn page_of(&mut self, default: usize, most: usize) -> PageRequest {
        PageRequest {
            after: self.text("after").map(ToOwned::to_owned),
            limit: self.count("limit", 1, most).unwrap_or(default),
        }
    }
}

impl PageRequest {
    /// The cursor, parsed.
    pub fn cursor<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        self.cursor_of(|text| text.parse().ok())
    }

    /// The cursor, as `parse` understands it.
    pub fn cursor_of<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let after = self.after.as_deref();
        after
            .map(|text| parse(text).ok_or_else(|| bad_cursor(text)))
            .transpose()
    }

    /// How many items to read: one more than fits tells whether there is a next page.
    pub fn wanted(&self) -> usize {
        self.limit + 1
    }

    /// Cuts what was read for [`wanted`](Self::wanted): the items as they are shown, and the cursor of the next page.
    pub fn cut<T, V, C>(
        &self,
        mut found: Vec<T>,
        view: impl FnMut(T) -> V,
        cursor: impl FnOnce(&T) -> C,
    ) -> (Vec<V>, Option<C>) {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().filter(|_| more).map(cursor);
        (found.into_iter().map(view).collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_where_its_limit_is_and_names_the_next_one() {
        let page = PageRequest {
            after: None,
            limit: 2,
        };
        let cut = |found: Vec<u32>| page.cut(found, |number| number * 10, |last| *last);
        assert_eq!(page.wanted(), 3);
        assert_eq!(cut(vec![1, 2, 3]), (vec![10, 20], Some(2)));
        assert_eq!(cut(vec![1, 2]), (vec![10, 20], None));
        assert_eq!(cut(Vec::new()), (Vec::new(), None));
    }

    #[test]
    fn a_cursor_that_cannot_be_parsed_is_a_problem() {
        let page = |after: &str| PageRequest {
            after: Some(after.to_owned()),
            limit: 1,
        };
        assert_eq!(page("7").cursor::<u32>().ok(), Some(Some(7)));
        assert!(page("seven").cursor::<u32>().is_err());
    }
}
