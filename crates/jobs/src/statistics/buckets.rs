//! The buckets of wait and run times. They are the same in every row, so that ranges, queues and processes can be added up.

use std::time::Duration;

/// How many buckets there are.
pub const BUCKETS: usize = 20;

/// The largest time of each bucket but the last, in milliseconds: about two and a half times the one before, and coarser where jobs
/// wait rather than run. They must not change: stored rows do not say which bounds they were counted with.
pub const BOUNDS_MS: [u64; BUCKETS - 1] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000,
    3_600_000, 21_600_000,
];

/// Times by bucket.
pub type Buckets = [u64; BUCKETS];

pub(super) fn bucket_of(time: Duration) -> usize {
    let micros = time.as_micros();
    BOUNDS_MS.partition_point(|bound| u128::from(*bound) * 1_000 < micros)
}

/// The time that this share (0 to 1) of the counted ones does not exceed; `None`: nothing was counted.
///
/// Within a bucket times are taken as evenly spread over its logarithm, so that the answer is off by less than the bucket's width. Of
/// the last bucket only the lower bound is known: "at least six hours".
pub fn percentile(buckets: &Buckets, share: f64) -> Option<Duration> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = (share * total as f64).max(1.0);
    let mut below = 0;
    for (bucket, &count) in buckets.iter().enumerate() {
        if count > 0 && (below + count) as f64 >= rank {
            return Some(within(bucket, (rank - below as f64) / count as f64));
        }
        below += count;
    }
    None
}

/// The mean of the counted times; `None`: nothing was counted.
///
/// Times of a bucket are taken as evenly spread over its logarithm, as in [`percentile`]; those of the last bucket as its lower bound.
pub fn mean(buckets: &Buckets) -> Option<Duration> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let sum = buckets.iter().enumerate().map(|(bucket, &count)| {
        let upper = BOUNDS_MS.get(bucket).map(|bound| *bound as f64);
        let lower = bucket.checked_sub(1).map(|before| BOUNDS_MS[before] as f64);
        let millis = match (lower, upper) {
            (None, Some(upper)) => upper / 2.0,
            (Some(lower), Some(upper)) => (upper - lower) / (upper / lower).ln(),
            (lower, None) => lower.unwrap_or_default(),
        };
        millis * count as f64
    });
    Some(Duration::from_secs_f64(sum.sum::<f64>() / total as f64 / 1_000.0))
}

fn within(bucket: usize, share: f64) -> Duration {
    let upper = BOUNDS_MS.get(bucket).map(|bound| *bound as f64);
    let lower = bucket.checked_sub(1).map(|before| BOUNDS_MS[before] as f64);
    let millis = match (lower, upper) {
        (None, Some(upper)) => upper * share,
        (Some(lower), Some(upper)) => lower * (upper / lower).powf(share),
        (lower, None) => lower.unwrap_or_default(),
    };
    Duration::from_secs_f64(millis / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_one_bucket() {
        let bucket = |micros| bucket_of(Duration::from_micros(micros));
        assert_eq!(
            [bucket(0), bucket(1_000), bucket(1_001), bucket(2_000)],
            [0, 0, 1, 1]
        );
        assert_eq!(bucket_of(Duration::from_hours(6)), BUCKETS - 2);
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_merged_buckets_lie_within_the_bucket_of_the_exact_one() {
        let times: Vec<Duration> = (1..=10_000_u64)
            .map(|n| Duration::from_micros(n * n / 10))
            .collect();
        let mut parts = [[0; BUCKETS]; 7];
        for (n, time) in times.iter().enumerate() {
            parts[n % 7][bucket_of(*time)] += 1;
        }
        let mut merged = [0; BUCKETS];
        for part in parts {
            merged.iter_mut().zip(part).for_each(|(sum, count)| *sum += count);
        }
        for share in [0.5, 0.95, 0.99] {
            let exact = times[(share * times.len() as f64) as usize - 1];
            let found = percentile(&merged, share).unwrap();
            assert_eq!(
                bucket_of(found),
                bucket_of(exact),
                "{share}: {found:?} for {exact:?}"
            );
            let ratio = found.as_secs_f64() / exact.as_secs_f64();
            assert!((0.8..1.25).contains(&ratio), "{share}: {found:?} for {exact:?}");
        }
    }

    #[test]
    fn the_mean_of_buckets_is_near_the_exact_one() {
        let times: Vec<Duration> = (1..=10_000_u64).map(|n| Duration::from_micros(n * 37)).collect();
        let mut buckets = [0; BUCKETS];
        for time in &times {
            buckets[bucket_of(*time)] += 1;
        }
        let exact = times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64;
        let ratio = mean(&buckets).unwrap().as_secs_f64() / exact;
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
        assert_eq!(mean(&[0; BUCKETS]), None);
    }

    #[test]
    fn nothing_has_no_percentile_and_the_last_bucket_only_a_lower_bound() {
        assert_eq!(percentile(&[0; BUCKETS], 0.5), None);
        let mut long = [0; BUCKETS];
        long[BUCKETS - 1] = 3;
        assert_eq!(percentile(&long, 0.99), Some(Duration::from_hours(6)));
    }
}
