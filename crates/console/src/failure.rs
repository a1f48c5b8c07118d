//! What the API refuses or cannot do, as a page says it.

use actix_web::http::StatusCode;

use crate::json::Json;

/// Why there is no document.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) title: String,
    pub(crate) detail: String,
    /// Its last part, such as `job-not-found`.
    pub(crate) slug: String,
    pub(crate) request_id: String,
}

impl Failure {
    fn ours(status: StatusCode, title: &str, detail: &str) -> Self {
        Self {
            status,
            title: title.to_owned(),
            detail: detail.to_owned(),
            slug: String::new(),
            request_id: String::new(),
        }
    }

    /// The API's problem (RFC 9457).
    pub(crate) fn refused(status: StatusCode, problem: &Json) -> Self {
        let title = match problem.text("title") {
            "" => status.canonical_reason().unwrap_or("The API refused"),
            title => title,
        };
        Self {
            status,
            title: title.to_owned(),
            detail: problem.text("detail").to_owned(),
            slug: problem
                .text("type")
                .rsplit(':')
                .next()
                .unwrap_or_default()
                .to_owned(),
            request_id: problem.text("request_id").to_owned(),
        }
    }

    pub(crate) fn unreadable() -> Self {
        Self::ours(
            StatusCode::BAD_GATEWAY,
            "The API's answer cannot be read",
            "It is not a document of this version of Holdfast.",
        )
    }

    pub(crate) fn too_long() -> Self {
        Self::ours(
            StatusCode::BAD_GATEWAY,
            "The API's answer is too long",
            "Ask for less: a narrower filter, or one job.",
        )
    }

    pub(crate) fn unreachable() -> Self {
        Self::ours(
            StatusCode::BAD_GATEWAY,
            "The API cannot be reached",
            "The page tries again by itself.",
        )
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::ours(StatusCode::NOT_FOUND, "Not found", what)
    }

    pub(crate) fn bad_form(detail: &str) -> Self {
        Self::ours(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The form cannot be used",
            detail,
        )
    }

    pub(crate) fn forbidden(detail: &str) -> Self {
        Self::ours(StatusCode::FORBIDDEN, "Not allowed", detail)
    }

    /// The person has to log in.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// The API is of a version that does not have the route.
    pub(crate) fn is_missing_route(&self) -> bool {
        self.slug == "route-not-found"
    }
}
