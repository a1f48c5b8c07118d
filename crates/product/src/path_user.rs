//! The user that a path names.

use actix_web::HttpRequest;
use holdfast_http::params::path_text;
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Allowed, Anyone};

use crate::user::UserName;

/// The user that the path names, if the caller may do as that user.
pub fn own_user(allowed: &Allowed<Anyone>, request: &HttpRequest) -> Result<UserName, Problem> {
    let id = path_text(request, "id");
    allowed.acts_for_user(&id)?;
    id.parse()
        .map_err(|fault| Problem::field(ProblemKind::InvalidId, "id", format!("{} {fault}", quote(&id))))
}
