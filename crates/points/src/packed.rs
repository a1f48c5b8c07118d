//! A point as the buffer holds it: 57 bytes, big-endian. The same point is the same bytes, so a set holds it once.
//!
//! `version (1) | track (16) | recorded at, microseconds (8) | lat (8) | lon (8) | altitude (8) | speed (8)`; what is not
//! said is NaN, which no checked point holds.

use chrono::DateTime;
use ulid::Ulid;

use crate::{Point, TrackId};

pub(super) const BYTES: usize = 57;
const VERSION: u8 = 1;

pub(super) fn pack(point: &Point) -> [u8; BYTES] {
    let mut packed = [0; BYTES];
    let said = |number: Option<f64>| number.unwrap_or(f64::NAN).to_bits().to_be_bytes();
    packed[0] = VERSION;
    packed[1..17].copy_from_slice(&point.track_id.as_ulid().0.to_be_bytes());
    packed[17..25].copy_from_slice(&point.recorded_at.timestamp_micros().to_be_bytes());
    packed[25..33].copy_from_slice(&said(Some(point.lat)));
    packed[33..41].copy_from_slice(&said(Some(point.lon)));
    packed[41..49].copy_from_slice(&said(point.altitude));
    packed[49..57].copy_from_slice(&said(point.speed));
    packed
}

/// `None`: nothing that this version wrote.
pub(super) fn unpack(packed: &[u8]) -> Option<Point> {
    let packed: &[u8; BYTES] = packed
        .try_into()
        .ok()
        .filter(|packed: &&[u8; BYTES]| packed[0] == VERSION)?;
    let eight = |from: usize| -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&packed[from..from + 8]);
        bytes
    };
    let number = |from: usize| f64::from_bits(u64::from_be_bytes(eight(from)));
    let said = |from: usize| Some(number(from)).filter(|number| !number.is_nan());
    let mut track = [0; 16];
    track.copy_from_slice(&packed[1..17]);
    Some(Point {
        track_id: TrackId::from_ulid(Ulid(u128::from_be_bytes(track))),
        recorded_at: DateTime::from_timestamp_micros(i64::from_be_bytes(eight(17)))?,
        lat: number(25),
        lon: number(33),
        altitude: said(41),
        speed: said(49),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_survives_packing() {
        let point = Point {
            track_id: TrackId::from_ulid(Ulid(7)),
            recorded_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
            lat: -47.25,
            lon: 179.999_999,
            altitude: None,
            speed: Some(0.0),
        };
        assert_eq!(unpack(&pack(&point)), Some(point));
        assert_eq!(unpack(&pack(&point)[..56]), None);
        let mut newer = pack(&point);
        newer[0] = 2;
        assert_eq!(unpack(&newer), None);
    }
}
