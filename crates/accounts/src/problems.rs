//! From the errors of this crate to problems.

use holdfast_http::authentication::unauthenticated;
use holdfast_http::problem::{Problem, ProblemKind, RETRY_AFTER};

use crate::keys::{AuthError, KeyError};
use crate::sessions::SessionError;
use crate::users::UserError;

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unknown => unauthenticated("the API key is unknown or revoked", true),
            AuthError::Unavailable => Self::unavailable(
                "the API key cannot be looked up while the database is away; try again",
                RETRY_AFTER,
            ),
        }
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Off => Self::new(
                ProblemKind::LoginOff,
                "logins are disabled: set JWT_SECRET_KEY to a long random text (openssl rand -hex 32), the same for \
                 every API process; API keys work without",
            ),
            SessionError::WrongLogin => Self::new(
                ProblemKind::LoginFailed,
                "no enabled user has this name and this password",
            ),
            SessionError::Invalid => unauthenticated("the token is not one of this server's", true),
            SessionError::Expired => unauthenticated(
                "the token has expired: get another with POST /v1/auth/refresh, or log in again",
                true,
            ),
            SessionError::Ended => unauthenticated("the session has ended: log in again", true),
            SessionError::User(error) => error.into(),
            SessionError::Failed(source) => Self::internal(source),
        }
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Busy => Self::unavailable(
                "more passwords are to be checked than this server can; try again",
                RETRY_AFTER,
            ),
            UserError::Unavailable(source) => {
                Self::unavailable("the database does not answer now; try again", RETRY_AFTER)
                    .caused_by(source)
            }
            UserError::InvalidName => Self::field(ProblemKind::InvalidField, "name", error.to_string()),
            UserError::InvalidPassword => {
                Self::field(ProblemKind::InvalidField, "password", error.to_string())
            }
            UserError::NameTaken => Self::field(ProblemKind::NameTaken, "name", error.to_string()),
            UserError::TooMany => Self::new(ProblemKind::InvalidField, error.to_string()),
            UserError::Failed(source) => Self::internal(source),
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let reason = error.to_string();
        match error {
            KeyError::InvalidName => Self::field(ProblemKind::InvalidField, "name", reason),
            KeyError::NameTaken => Self::field(ProblemKind::NameTaken, "name", reason),
            KeyError::GraceTooLong => Self::field(ProblemKind::InvalidField, "grace_seconds", reason),
            KeyError::InvalidBinding { field, reason } => {
                Self::field(ProblemKind::InvalidField, field, reason)
            }
            KeyError::Revoked => Self::new(ProblemKind::KeyRevoked, reason),
            KeyError::TooMany => Self::new(ProblemKind::InvalidField, reason),
            KeyError::Unavailable(source) => {
                Self::unavailable("the database does not answer now; try again", RETRY_AFTER)
                    .caused_by(source)
            }
            KeyError::Failed(source) => Self::internal(source),
        }
    }
}
