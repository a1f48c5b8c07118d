//! The body of `POST /v1/points`: read at once where all is well, point by point where it is not.
//!
//! A good body is parsed once, straight into points. Only if that fails is it taken apart again, so that every bad
//! point is told by its index and field and the good ones are kept: senders of bad points pay for that.

use std::borrow::Cow;

use actix_web::{HttpMessage, HttpRequest, web};
use chrono::{DateTime, Utc};
use holdfast_http::body::items::{AtMost, Fault, Names, RejectedItem, is_list, moment, pieces, shape_fault};
use holdfast_http::body::{BodySize, body_bytes, objects, parse_off_thread};
use holdfast_http::{Problem, ServerContext};
use serde::Deserialize;
use ulid::Ulid;

use crate::{Point, TrackId};

pub(super) const NAMES: Names = Names {
    one: "point",
    many: "points",
    most: MOST,
};

const MOST: usize = 10_000;

/// How far a point's time may lie ahead: clocks of devices are wrong, and time zones are forgotten.
const MAX_AHEAD: chrono::Duration = chrono::Duration::days(1);

/// 2000-01-01, before which nobody recorded points.
const EARLIEST: i64 = 946_684_800;

/// One point a line.
const NDJSON: [&str; 2] = ["application/x-ndjson", "application/ndjson"];

/// A point as its producer words it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointText<'a> {
    #[serde(borrow)]
    track_id: Cow<'a, str>,
    #[serde(borrow)]
    recorded_at: Cow<'a, str>,
    lat: f64,
    lon: f64,
    altitude: Option<f64>,
    speed: Option<f64>,
}

/// The other form of a JSON body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PointList<'a> {
    #[serde(borrow)]
    points: AtMost<PointText<'a>, MOST>,
}

type PointsBody = (Vec<Point>, Vec<RejectedItem>);

pub(super) async fn read_points(
    request: &HttpRequest,
    payload: web::Payload,
    http: &ServerContext,
) -> Result<PointsBody, Problem> {
    let lines = NDJSON.contains(&request.content_type());
    let bytes = body_bytes(request, payload, http, BodySize::Bulk, &NDJSON).await?;
    let latest = holdfast_core::clock::now() + MAX_AHEAD;
    parse_off_thread(http, bytes, move |bytes| {
        if lines {
            return from_lines(bytes, latest);
        }
        match worded(bytes) {
            Some(worded) => Ok(checked(worded.into_iter().map(Ok), latest)),
            None => one_by_one(bytes, latest),
        }
    })
    .await
}

/// All of them, if all are well-formed and no more than there may be.
fn worded(bytes: &[u8]) -> Option<Vec<PointText<'_>>> {
    if is_list(bytes) {
        let list: AtMost<PointText<'_>, MOST> = objects::from_slice(bytes).ok()?;
        return Some(list.0);
    }
    let wrapped: PointList<'_> = objects::from_slice(bytes).ok()?;
    Some(wrapped.points.0)
}

fn one_by_one(bytes: &[u8], latest: DateTime<Utc>) -> Result<PointsBody, Problem> {
    let pieces = pieces(bytes, NAMES)?;
    Ok(checked(
        pieces
            .iter()
            .map(|piece| objects::from_slice(piece.get().as_bytes())),
        latest,
    ))
}

fn from_lines(bytes: &[u8], latest: DateTime<Utc>) -> Result<PointsBody, Problem> {
    let lines: Vec<(usize, &[u8])> = (1..)
        .zip(bytes.split(|byte| *byte == b'\n'))
        .filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
        .take(NAMES.most + 1)
        .collect();
    NAMES.within(lines.len())?;
    let (good, mut rejected) = checked(lines.iter().map(|(_, line)| objects::from_slice(line)), latest);
    for one in &mut rejected {
        one.line = lines.get(one.index).map(|(line, _)| *line);
    }
    Ok((good, rejected))
}

fn checked<'a>(
    pieces: impl Iterator<Item = serde_json::Result<PointText<'a>>>,
    latest: DateTime<Utc>,
) -> PointsBody {
    let (mut good, mut rejected) = (Vec::with_capacity(pieces.size_hint().0), Vec::new());
    for (index, piece) in pieces.enumerate() {
        let point = match piece {
            Ok(worded) => check(&worded, latest),
            Err(error) => Err(shape_fault(&error, NAMES.one)),
        };
        match point {
            Ok(point) => good.push(point),
            Err((field, reason)) => rejected.push(RejectedItem::new(index, field, reason)),
        }
    }
    (good, rejected)
}

fn check(worded: &PointText<'_>, latest: DateTime<Utc>) -> Result<Point, Fault> {
    let track = Ulid::from_string(&worded.track_id)
        .map_err(|_| fault("track_id", "is not an id: expected a ULID, 26 characters"))?;
    Ok(Point {
        track_id: TrackId::from_ulid(track),
        recorded_at: recorded_at(&worded.recorded_at, latest)?,
        lat: ranged("lat", worded.lat, -90.0, 90.0, "degrees")?,
        lon: ranged("lon", worded.lon, -180.0, 180.0, "degrees")?,
        altitude: optional("altitude", worded.altitude, -12_000.0, 100_000.0, "metres")?,
        speed: optional("speed", worded.speed, 0.0, 100_000.0, "metres a second")?,
    })
}

fn recorded_at(text: &str, latest: DateTime<Utc>) -> Result<DateTime<Utc>, Fault> {
    let at = moment(text).map_err(|reason| (Cow::Borrowed("recorded_at"), reason))?;
    if at > latest {
        return Err(fault("recorded_at", "lies more than a day ahead"));
    }
    if at.timestamp() < EARLIEST {
        return Err(fault("recorded_at", "lies before the year 2000"));
    }
    // The database keeps microseconds: the same point must be the same everywhere.
    Ok(DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at))
}

fn ranged(field: &'static str, number: f64, least: f64, most: f64, unit: &str) -> Result<f64, Fault> {
    // A NaN is in no range.
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(fault(
            field,
            &format!("{number} is not between {least} and {most} {unit}"),
        ))
    }
}

fn optional(
    field: &'static str,
    number: Option<f64>,
    least: f64,
    most: f64,
    unit: &str,
) -> Result<Option<f64>, Fault> {
    number
        .map(|number| ranged(field, number, least, most, unit))
        .transpose()
}

fn fault(field: &'static str, reason: &str) -> Fault {
    (Cow::Borrowed(field), reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACK: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

    fn latest() -> DateTime<Utc> {
        holdfast_core::clock::now() + MAX_AHEAD
    }

    fn lines(text: &str) -> PointsBody {
        from_lines(text.as_bytes(), latest()).unwrap()
    }

    #[test]
    fn the_good_ones_are_kept_and_the_bad_ones_are_told() {
        let point =
            |rest: &str| format!(r#"{{"track_id":"{TRACK}","recorded_at":"2024-06-01T12:00:00Z",{rest}}}"#);
        let text = [
            point(r#""lat":1,"lon":2"#),
            point(r#""lat":91,"lon":2"#),
            point(r#""lat":NaN,"lon":2"#),
            point(r#""lat":1,"lon":2,"altitude":1e9"#),
            point(r#""lat":1"#),
            point(r#""lat":1,"lon":2,"colour":"red""#),
            point(r#""lat":1,"lon":-180,"altitude":null,"speed":3.5"#),
        ]
        .join("\n");
        let (good, rejected) = lines(&text);
        assert_eq!(good.len(), 2);
        assert_eq!(good[1].speed, Some(3.5));
        let told: Vec<_> = rejected.iter().map(|r| (r.index, &*r.field)).collect();
        assert_eq!(
            told,
            [
                (1, "lat"),
                (2, "point"),
                (3, "altitude"),
                (4, "lon"),
                (5, "colour")
            ]
        );
    }

    #[test]
    fn times_are_bounded_and_kept_to_the_microsecond() {
        let at = |time: &str| {
            lines(&format!(
                r#"{{"track_id":"{TRACK}","recorded_at":"{time}","lat":1,"lon":2}}"#
            ))
        };
        let (good, _) = at("2024-06-01T12:00:00.123456789+02:00");
        assert_eq!(
            good[0].recorded_at.to_rfc3339(),
            "2024-06-01T10:00:00.123456+00:00"
        );
        for odd in [
            "2999-01-01T00:00:00Z",
            "1999-12-31T23:59:59Z",
            "yesterday",
            "2024-06-01T12:00:00",
        ] {
            let (good, rejected) = at(odd);
            assert!(good.is_empty() && rejected[0].field == "recorded_at", "{odd}");
        }
    }

    #[test]
    fn both_forms_of_json_are_read() {
        let point =
            format!(r#"{{"track_id":"{TRACK}","recorded_at":"2024-06-01T12:00:00Z","lat":1,"lon":2}}"#);
        assert_eq!(worded(format!(" [{point},{point}]").as_bytes()).unwrap().len(), 2);
        assert_eq!(
            worded(format!("{{\"points\":[{point}]}}").as_bytes())
                .unwrap()
                .len(),
            1
        );
        let mixed = format!("[{point},{{\"lat\":\"x\"}},7]");
        let (good, rejected) = one_by_one(mixed.as_bytes(), latest()).unwrap();
        assert_eq!((good.len(), rejected.len()), (1, 2));
        assert!(one_by_one(b"{\"points\":[1,}", latest()).is_err());
    }
}
