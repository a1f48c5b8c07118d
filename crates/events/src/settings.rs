//! The settings of events, of their discovery, and of recommendations.

use std::time::Duration;

use holdfast_core::config::declare::{bytes, count, seconds, secret, text};
use holdfast_core::config::{Reader, Settings};
use holdfast_core::settings;
use secrecy::SecretString;

settings! {
    ["events"]
    /// Events: what POST /v1/events stores and GET /v1/events finds.
    #[derive(Debug, Clone)]
    pub struct EventsSettings {
        /// How long an event is stored after its end, in seconds, {range}; longer while interactions with it are stored, from which
        /// recommendations are learned. Ninety days.
        retain_past: Duration = seconds(7_776_000.0, 3600.0..=315_360_000.0);
    }
}

settings! {
    ["discovery"]
    /// Discovery: how the sources of /v1/sources are read, the kind `events.discover`.
    #[derive(Debug, Clone)]
    pub struct DiscoverySettings {
        /// Longest time that a source may take to answer, redirects included, in seconds, {range}.
        timeout: Duration = seconds(30.0, 0.1..=300.0);
        /// Largest response that is read, compressed and uncompressed, in bytes, {range}. 16 MiB.
        max_bytes: usize = bytes(16_777_216, 65_536..=268_435_456);
        /// Largest number of entries of one run, {range}. A recurring event counts with every occurrence.
        max_entries: usize = count(50_000, 1..=1_000_000);
        /// Entries that ended longer ago are skipped, in seconds, {range}; not more than `events.retain_past_seconds`. Thirty days.
        past: Duration = seconds(2_592_000.0, 0.0..=315_360_000.0);
        /// How far ahead recurring events are expanded, in seconds, {range}. A year.
        ahead: Duration = seconds(31_536_000.0, 86_400.0..=315_360_000.0);
        /// Shortest interval that a source may have, in seconds, {range}.
        min_interval: Duration = seconds(60.0, 1.0..=86_400.0);
        /// Longest pause of a failing source, which is its interval, twice that, four times that, and so on, in seconds, {range}. A
        /// day.
        max_backoff: Duration = seconds(86_400.0, 1.0..=2_592_000.0);
    }
    check = check_discovery;
}

settings! {
    ["reddit"]
    /// The application that Holdfast is registered as at Reddit, for sources of the kind `reddit`
    /// (<https://www.reddit.com/prefs/apps>).
    #[derive(Debug, Clone)]
    pub struct RedditSettings {
        /// The application's id, a secret. Empty: no source of that kind can be read.
        client_id: Option<SecretString> = secret().variables(&["REDDIT_CLIENT_ID"]);
        /// The application's secret.
        client_secret: Option<SecretString> = secret().variables(&["REDDIT_CLIENT_SECRET"]);
        /// URL of Reddit's tokens.
        auth_url: String = text("https://www.reddit.com").then(check_base);
        /// URL of Reddit's listings.
        api_url: String = text("https://oauth.reddit.com").then(check_base);
    }
}

settings! {
    ["recommend"]
    /// Recommendations: POST /v1/interactions, the kinds `ml.train` and `ml.recommend`.
    #[derive(Debug, Clone)]
    pub struct RecommendSettings {
        /// Half-life of an interaction's weight, in seconds, {range}. Sixty days.
        half_life: Duration = seconds(5_184_000.0, 3600.0..=315_360_000.0);
        /// How long interactions are stored, from when they happened, in seconds, {range}. Two years.
        retain_interactions: Duration = seconds(63_072_000.0, 3600.0..=315_360_000.0);
        /// Longest time that a request waits for its user's recommendations before it gets popular events, in seconds, {range}. The
        /// computation continues, and the next request gets its result.
        deadline: Duration = seconds(0.5, 0.01..=30.0);
    }
}

fn check_discovery(discovery: &DiscoverySettings, reader: &mut Reader<'_>, settings: &Settings) {
    reader.require(
        discovery.past <= settings.section::<EventsSettings>().retain_past,
        "discovery.past_seconds",
        "events.retain_past_seconds",
        "more than",
        "lower it: what is pruned would be found again",
    );
}

fn check_base(reader: &mut Reader<'_>, path: &str, base: String) -> String {
    let is_url = url::Url::parse(&base).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if !is_url {
        let fix = "give a base URL such as \"https://oauth.reddit.com\"".to_owned();
        reader.fault_once(path, || (format!("{base:?} is not an http or https URL"), fix));
    }
    base
}
