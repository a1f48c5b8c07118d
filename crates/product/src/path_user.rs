//! The user that a path names.

use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Anyone, Call};

use crate::user::UserName;

/// The user that the path names, if the caller may do as that user.
pub fn own_user<S, Q>(call: &Call<Anyone, S, Q>) -> Result<UserName, Problem> {
    let id = call.path("id");
    call.allowed.acts_for_user(&id)?;
    id.parse()
        .map_err(|fault| Problem::field(ProblemKind::InvalidId, "id", format!("{} {fault}", quote(&id))))
}
