//! The settings of points.

use std::time::Duration;

use holdfast_core::config::declare::{count, flag, seconds};
use holdfast_core::settings;

settings! {
    ["points"]
    /// Points: bulk ingest over POST /v1/points.
    #[derive(Debug, Clone)]
    pub struct PointsSettings {
        /// Whether accepted points wait in Redis until they are flushed to SQL, within a second or so. If Redis loses its memory,
        /// points that were not flushed are lost. Off: every point is written to SQL before it is accepted, which is slower.
        buffer: bool = flag(true);
        /// Largest number of points that wait in Redis, {range}; further ones are written to SQL. A million take 150 MB.
        max_buffered: u64 = count(1_000_000, 1_000..=100_000_000);
        /// How long points whose track does not exist are stored, in seconds, {range}. Thirty days.
        retain_letters: Duration = seconds(2_592_000.0, 3600.0..=315_360_000.0);
    }
}
