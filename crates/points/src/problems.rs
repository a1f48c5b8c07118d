//! From the errors of this crate to problems.

use holdfast_http::problem::{Problem, RETRY_AFTER};

use crate::PointsError;

/// The types of problems of this product alone.
#[derive(Debug)]
pub(crate) struct PointsProblem;

holdfast_http::problems!(PointsProblem {
    TrackNotFound = NOT_FOUND "track-not-found", "There is no such track",
        "Create the track first.";
    TrackExists = CONFLICT "track-exists", "Another track has this id",
        "Choose another id for the track.";
});

impl From<PointsError> for Problem {
    fn from(PointsError::Sql(error): PointsError) -> Self {
        if error.is_transient() {
            let detail = "neither Redis nor the database can take the points now; some may have been taken: send all of \
                          them again, which doubles none";
            return Self::unavailable(detail, RETRY_AFTER).caused_by(error);
        }
        error.into()
    }
}
