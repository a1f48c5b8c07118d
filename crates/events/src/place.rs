//! Places on the globe without trigonometry at hand: as points of the unit sphere, whose distance is a sum of squares.

/// Kilometres; the mean radius.
const EARTH: f64 = 6_371.0;

/// Half of the way around, in kilometres: nothing is farther.
pub(crate) const FARTHEST: f64 = 20_038.0;

/// A place on the unit sphere.
pub(crate) fn on_sphere(lat: f64, lon: f64) -> [f64; 3] {
    let (lat, lon) = (lat.to_radians(), lon.to_radians());
    [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
}

/// The square of the straight line through the globe between two places that are so many kilometres apart.
pub(crate) fn chord_squared(kilometres: f64) -> f64 {
    let half = (kilometres.clamp(0.0, FARTHEST) / (2.0 * EARTH)).min(std::f64::consts::FRAC_PI_2);
    (2.0 * half.sin()).powi(2)
}

/// Degrees of latitude that so many kilometres span at most.
pub(crate) fn degrees(kilometres: f64) -> f64 {
    (kilometres / EARTH).to_degrees()
}

/// About how many kilometres apart, squared: the straight line, which is the way as long as it is short.
pub(crate) fn kilometres_squared(one: &[f32; 3], other: &[f32; 3]) -> f32 {
    let chord: f32 = one.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum();
    chord * (EARTH * EARTH) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook's way.
    fn haversine(from: (f64, f64), to: (f64, f64)) -> f64 {
        let (lat, other) = (from.0.to_radians(), to.0.to_radians());
        let (dlat, dlon) = ((other - lat) / 2.0, (to.1 - from.1).to_radians() / 2.0);
        let half = dlat.sin().powi(2) + lat.cos() * other.cos() * dlon.sin().powi(2);
        2.0 * EARTH * half.sqrt().min(1.0).asin()
    }

    fn chord(a: (f64, f64), b: (f64, f64)) -> f64 {
        let (a, b) = (on_sphere(a.0, a.1), on_sphere(b.0, b.1));
        a.iter().zip(&b).map(|(x, y)| (x - y).powi(2)).sum()
    }

    #[test]
    fn known_places_are_as_far_apart_as_they_are() {
        let (innsbruck, munich) = ((47.2692, 11.4041), (48.1372, 11.5756));
        let apart = haversine(innsbruck, munich);
        assert!((97.0..98.0).contains(&apart), "{apart}");
        assert!(chord(innsbruck, munich) <= chord_squared(98.0));
        assert!(chord(innsbruck, munich) >= chord_squared(97.0));
        let (date_line, across) = ((0.0, 179.99), (0.0, -179.99));
        assert!(chord(date_line, across) < chord_squared(3.0));
    }

    proptest! {
        #[test]
        fn within_so_many_kilometres_is_within_the_chord(
            a in (-90.0_f64..90.0, -180.0_f64..180.0), b in (-90.0_f64..90.0, -180.0_f64..180.0), limit in 0.1_f64..20_000.0,
        ) {
            let apart = haversine(a, b);
            if (apart - limit).abs() > 1e-3 {
                prop_assert_eq!(apart < limit, chord(a, b) < chord_squared(limit));
            }
            if apart < limit {
                prop_assert!((a.0 - b.0).abs() <= degrees(limit) + 1e-9);
            }
        }
    }
}
