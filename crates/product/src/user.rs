//! How products name the user that their data is about.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use holdfast_jobs::NO_CONTROL_PATTERN;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Longest name of a user, in bytes.
pub const MAX_USER: usize = 128;

/// A user's name: 1 to [`MAX_USER`] bytes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(!try_from, !into, inline, extend("minLength" = 1, "maxLength" = MAX_USER, "pattern" = NO_CONTROL_PATTERN))]
pub struct UserName(#[schemars(with = "String")] Arc<str>);

/// The text is no user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_USER} bytes, and no control characters")]
pub struct InvalidUser;

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The account of this id, if the name has the form of one: there may be no such account.
    pub fn account(&self) -> Option<AccountId> {
        self.0.parse().ok()
    }
}

impl From<AccountId> for UserName {
    fn from(account: AccountId) -> Self {
        Self(account.to_string().into())
    }
}

impl FromStr for UserName {
    type Err = InvalidUser;

    fn from_str(text: &str) -> Result<Self, InvalidUser> {
        let sound = (1..=MAX_USER).contains(&text.len()) && !text.chars().any(char::is_control);
        sound.then(|| Self(text.into())).ok_or(InvalidUser)
    }
}

impl TryFrom<String> for UserName {
    type Error = InvalidUser;

    fn try_from(text: String) -> Result<Self, InvalidUser> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(user: UserName) -> Self {
        user.0.as_ref().to_owned()
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

holdfast_core::ids! {
    /// Names an account: a ULID in its one spelling, 26 large letters and digits.
    AccountId = one_spelling => InvalidAccount;
}

/// Statements find a user's jobs by this text: a second spelling would hide some.
fn one_spelling(text: &str) -> Result<Ulid, InvalidAccount> {
    let id = Ulid::from_string(text).map_err(|_| InvalidAccount)?;
    (id.to_string() == text).then_some(id).ok_or(InvalidAccount)
}

/// What jobs name instead of a user who is deleted: no account has this id.
pub const DELETED_ACCOUNT: &str = "00000000000000000000000000";

/// The text names no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a user's id: expected a ULID, 26 large letters and digits")]
pub struct InvalidAccount;

/// Who sets an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressAuthority {
    /// An admin: the address is the user's without a confirmation.
    Admin,
    /// Any other caller: the owner of the address is asked by mail.
    User,
}

impl AddressAuthority {
    /// Of a caller who may do everything, or not.
    pub fn of(is_admin: bool) -> Self {
        if is_admin { Self::Admin } else { Self::User }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_any_short_text_of_one_line() {
        for good in ["a", "user 17", "ä@example.com", &"x".repeat(MAX_USER)] {
            assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "\0", &"x".repeat(MAX_USER + 1)] {
            assert_eq!(bad.parse::<UserName>(), Err(InvalidUser));
        }
    }

    #[test]
    fn an_account_has_one_spelling() {
        let text = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
        assert_eq!(text.parse::<AccountId>().unwrap().to_string(), text);
        for other in [&*text.to_lowercase(), "01JD3V0S7W8Q4M2XKZC5T9R6B", "", "ada"] {
            assert_eq!(other.parse::<AccountId>(), Err(InvalidAccount), "{other}");
        }
    }
}
