//! Interactions: who did what with which event, when. They teach the model ([`crate::recommend`]).
//!
//! # Users
//! A user is a text of the application's own, up to [`holdfast_product::MAX_USER`] bytes; to us it means nothing. An application that uses
//! Holdfast's users (`holdfast users`) sends their ids, and then their sessions may read their own recommendations. No
//! foreign key holds the two together: the deletion of a user deletes them with their user; an application that deletes a user
//! of its own calls [`Interactions::forget`] (or [`Interactions::anonymise`], which keeps what the model learns from and nothing that says who it was), and may do so
//! again after a failure.
//!
//! # Invariants
//! - An interaction is (user, event, action, time to the millisecond): the same again changes nothing.
//! - It names an event that exists; one that does not is told by its index, and the others are stored.
//! - It is kept for `recommend.retain_interactions_seconds` from when it happened, and goes with its event.
//!
//! # When things fail
//! All of it is SQL: while that is away nothing is accepted. A batch is stored in transactions of [`BATCH`]; the same batch
//! again doubles nothing.

mod export;
mod forget;
mod store;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::sql::Sql;
use holdfast_product::UserName;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::RecommendSettings;

pub(crate) use self::export::Cursor;
pub use self::store::InteractionReport;

/// Most interactions that one statement writes.
pub const BATCH: usize = 1_000;

/// What a user did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    View,
    Save,
    Attend,
    /// The user does not want to see it again.
    Dismiss,
}

impl Action {
    pub const ALL: [Self; 4] = [Self::View, Self::Save, Self::Attend, Self::Dismiss];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Save => "save",
            Self::Attend => "attend",
            Self::Dismiss => "dismiss",
        }
    }

    const fn number(self) -> i16 {
        match self {
            Self::View => 1,
            Self::Save => 2,
            Self::Attend => 3,
            Self::Dismiss => 4,
        }
    }

    pub(crate) fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.number() == number)
    }
}

/// The text names no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be view, save, attend or dismiss")]
pub struct UnknownAction;

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or(UnknownAction)
    }
}

/// One thing that a user did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interaction {
    pub user: UserName,
    pub event: Ulid,
    pub action: Action,
    /// To the millisecond.
    pub at: DateTime<Utc>,
}

/// The same, where it is known who the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UserInteraction {
    pub event: Ulid,
    pub action: Action,
    pub at: DateTime<Utc>,
}

/// The interactions of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interactions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    retain: Duration,
}

impl Interactions {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            retain: settings.section::<RecommendSettings>().retain_interactions,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_read_back_from_its_number_and_its_name() {
        for action in Action::ALL {
            assert_eq!(Action::from_number(action.number()), Some(action));
            assert_eq!(action.as_str().parse(), Ok(action));
        }
        assert_eq!(Action::from_number(0), None);
        assert_eq!("like".parse::<Action>(), Err(UnknownAction));
    }
}
