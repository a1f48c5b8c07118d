//! Which services a process runs.

use std::str::FromStr;

use holdfast_core::config;

/// What a process runs when its command line names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
    Beat,
    /// All three, for development.
    Dev,
}

/// `HOLDFAST_ROLE` names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HOLDFAST_ROLE is {0:?}: set it to api, worker, beat or dev, or unset it")]
pub struct UnknownRole(String);

impl UnknownRole {
    /// 64, as of every fault of the configuration.
    pub const EXIT_CODE: u8 = 64;
}

impl Role {
    /// What `HOLDFAST_ROLE` says; `None`: it is not set.
    ///
    /// # Errors
    /// It names no role.
    pub fn from_env() -> Result<Option<Self>, UnknownRole> {
        config::role().map(|text| text.parse()).transpose()
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "api" => Ok(Self::Api),
            "worker" => Ok(Self::Worker),
            "beat" => Ok(Self::Beat),
            "dev" => Ok(Self::Dev),
            _ => Err(UnknownRole(text.chars().take(80).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_one_of_four_words() {
        assert_eq!("beat".parse(), Ok(Role::Beat));
        let error = "Worker".parse::<Role>().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("HOLDFAST_ROLE is \"Worker\": set it to api")
        );
    }
}
