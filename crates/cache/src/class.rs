//! Classes of values: how long they live.

use std::fmt;
use std::time::Duration;

use holdfast_core::config::CacheSettings;
use serde::Serialize;

/// What a value is, and with it how long it is fresh (`[cache]` sets the times).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 30 minutes. Never served stale, and not copied into the process while Redis serves.
    Session,
    /// 5 minutes.
    ApiResponse,
    /// 1 hour.
    Recommendation,
    /// 24 hours.
    Static,
}

impl Class {
    pub const ALL: [Self; 4] = [
        Self::Session,
        Self::ApiResponse,
        Self::Recommendation,
        Self::Static,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::ApiResponse => "api_response",
            Self::Recommendation => "recommendation",
            Self::Static => "static",
        }
    }

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    fn ttl(self, settings: &CacheSettings) -> Duration {
        match self {
            Self::Session => settings.session_ttl,
            Self::ApiResponse => settings.api_response_ttl,
            Self::Recommendation => settings.recommendation_ttl,
            Self::Static => settings.static_ttl,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long one value is used, counted from when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) fresh: Duration,
    /// What follows: served while a newer one is loaded.
    pub(crate) while_revalidate: Duration,
    /// Counted from the end of `fresh` too: served if loading fails.
    pub(crate) if_error: Duration,
}

impl Lifetime {
    /// How long it is kept at all.
    pub(crate) fn kept(&self) -> Duration {
        self.fresh + self.if_error.max(self.while_revalidate)
    }
}

/// What a namespace says otherwise than its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overrides {
    pub(crate) ttl: Option<Duration>,
    pub(crate) while_revalidate: Option<Duration>,
    pub(crate) if_error: Option<Duration>,
}

/// The lifetime of a value that is made now; every draw of the jitter is another.
pub(crate) fn lifetime(class: Class, overrides: Overrides, settings: &CacheSettings) -> Lifetime {
    let ttl = overrides.ttl.unwrap_or_else(|| class.ttl(settings));
    let (while_revalidate, if_error) = match class {
        Class::Session => (Duration::ZERO, Duration::ZERO),
        _ => (settings.stale_while_revalidate, settings.stale_if_error),
    };
    Lifetime {
        fresh: jittered(ttl, settings.ttl_jitter),
        while_revalidate: overrides.while_revalidate.unwrap_or(while_revalidate),
        if_error: overrides.if_error.unwrap_or(if_error),
    }
}

fn jittered(ttl: Duration, share: f64) -> Duration {
    if share <= 0.0 {
        return ttl;
    }
    ttl.mul_f64(rand::random_range(1.0 - share..=1.0 + share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_share_and_reaches_both_sides() {
        let ttl = Duration::from_secs(100);
        let draws: Vec<Duration> = (0..200).map(|_| jittered(ttl, 0.1)).collect();
        assert!(draws.iter().all(|draw| (90..=110).contains(&draw.as_secs())));
        assert!(draws.iter().any(|draw| *draw < ttl) && draws.iter().any(|draw| *draw > ttl));
        assert_eq!(jittered(ttl, 0.0), ttl);
    }

    #[test]
    fn every_class_stands_where_its_index_says() {
        for (place, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), place);
        }
    }
}
