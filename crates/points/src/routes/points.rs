//! Tracks and their points.

use actix_web::http::StatusCode;
use actix_web::web;
use chrono::{DateTime, Datelike as _, Utc};
use holdfast_http::body::items::{RejectedItem, none_good};
use holdfast_http::problem::{Problem, ProblemKind, nothing_matched, quote};
use holdfast_http::{Admin, Call, Produce, Read, Reply, WithQuery, json, json_at, ok};
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use super::body::{NAMES, read_points};
use crate::problems::PointsProblem;
use crate::state::PointsState;
use crate::{LetterFilter, Point, PointLetter, Track, TrackId, TrackMade};

const DEFAULT_LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 10_000;

/// Longest name of a track, in bytes.
const MAX_NAME: usize = 255;

/// A track to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTrack, example = json!({"name": "pilot 12, task 3"}))]
pub(crate) struct TrackBody {
    /// 1 to 255 bytes.
    name: String,
    /// A ULID chosen by the caller, such as the one that early points already used. Default: a new one.
    id: Option<String>,
}

/// A track.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Track)]
pub(crate) struct TrackView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: TrackId,
    name: String,
    created_at: DateTime<Utc>,
}

impl From<Track> for TrackView {
    fn from(Track { id, name, created_at }: Track) -> Self {
        Self { id, name, created_at }
    }
}

fn track_id(text: &str, field: &str) -> Result<TrackId, Problem> {
    Ulid::from_string(text).map(TrackId).map_err(|_| {
        let reason = format!("{} is not an id: expected a ULID, 26 characters", quote(text));
        Problem::field(ProblemKind::InvalidId, field, reason)
    })
}

/// Create a track
///
/// Repeating it with the same `id` and `name` is answered 200.
#[utoipa::path(post, path = "/v1/tracks", tag = "points", operation_id = "make_track",
    request_body = TrackBody,
    responses(
        (status = 201, body = TrackView, description = "Made"),
        (status = 200, body = TrackView, description = "It already existed, with this name"),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 409, description = "track-exists: another track has this id"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn make_track(call: Call<Produce, PointsState>, payload: web::Payload) -> Reply {
    let TrackBody { name, id } = call.json(payload).await?;
    let sound = (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    if !sound {
        let reason = format!("must have 1 to {MAX_NAME} bytes, and no control characters");
        return Err(Problem::field(ProblemKind::InvalidField, "name", reason));
    }
    let id = id.as_deref().map(|text| track_id(text, "id")).transpose()?;
    let made = call.run(move |state| async move { state.points.make_track(id, &name).await });
    match made.await? {
        TrackMade::New(track) => {
            let location = format!("/v1/tracks/{}/points", track.id);
            json_at(StatusCode::CREATED, &location, &TrackView::from(track))
        }
        TrackMade::Same(track) => ok(&TrackView::from(track)),
        TrackMade::Taken(track) => Err(Problem::field(
            PointsProblem::TrackExists,
            "id",
            format!("a track of another name has it: {}", quote(&track.name)),
        )),
    }
}

/// The result of accepting points.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedPoints {
    /// In the buffer on Redis, or in the database.
    accepted: usize,
    /// The rejected items, with reasons.
    rejected: Vec<RejectedItem>,
}

/// Accept points
///
/// Up to 10,000 points: `{"points": […]}` or a bare list as JSON, or one point a line as
/// `application/x-ndjson`. Each is checked by itself: the valid ones are accepted, the others are listed with
/// their index (a line's number from 0), field and reason. If none is valid the response is 422. A point is
/// identified by its track and its time: sending it again changes nothing. Points of a track that does not
/// exist are stored as point letters, and can be redriven once it exists.
#[utoipa::path(post, path = "/v1/points", tag = "points", operation_id = "accept_points",
    request_body(content = Vec<PointBody>, description = "A list, `{\"points\": […]}`, or NDJSON"),
    responses(
        (status = 202, body = AcceptedPoints, description = "Accepted, all or some"),
        (status = 400, description = "malformed-json"),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, batch-empty: no point is valid"),
    ))]
pub(crate) async fn accept(call: Call<Produce, PointsState>, payload: web::Payload) -> Reply {
    let (good, rejected) = read_points(&call.request, payload, call.context()).await?;
    if rejected.is_empty() && good.is_empty() {
        return Err(NAMES.nothing());
    }
    if good.is_empty() {
        return Err(none_good(rejected, NAMES));
    }
    let accepted = good.len();
    call.run(|state| async move { state.points.accept(&good).await })
        .await?;
    json(StatusCode::ACCEPTED, &AcceptedPoints { accepted, rejected })
}

/// A point.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Point)]
pub(crate) struct PointView {
    #[schema(value_type = String)]
    track_id: TrackId,
    recorded_at: DateTime<Utc>,
    lat: f64,
    lon: f64,
    altitude: Option<f64>,
    speed: Option<f64>,
}

impl From<Point> for PointView {
    fn from(point: Point) -> Self {
        let Point {
            track_id,
            recorded_at,
            lat,
            lon,
            altitude,
            speed,
        } = point;
        Self {
            track_id,
            recorded_at,
            lat,
            lon,
            altitude,
            speed,
        }
    }
}

/// One page of points, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PointPage {
    points: Vec<PointView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<DateTime<Utc>>,
}

/// List the points of a track
///
/// In pages, oldest first. Points that are still in the buffer are not listed.
#[utoipa::path(get, path = "/v1/tracks/{id}/points", tag = "points", operation_id = "list_points",
    params(
        ("id" = String, Path, description = "The track's id"),
        ("from" = Option<String>, Query, description = "Recorded at or after this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Recorded before this time (RFC 3339)"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10000, description = "1 to 10000; default 1000"),
    ),
    responses(
        (status = 200, body = PointPage),
        (status = 400, description = "invalid-id, invalid-parameter"),
        (status = 404, description = "track-not-found"),
    ))]
pub(crate) async fn list(call: Call<Read, PointsState, WithQuery>) -> Reply {
    let id = track_id(call.request.match_info().get("id").unwrap_or_default(), "id")?;
    let mut params = call.params(&["from", "to", "after", "limit"]);
    let (from, to, after) = (params.moment("from"), params.moment("to"), params.moment("after"));
    let page = params.page_of(DEFAULT_LIMIT, MAX_LIMIT);
    params.finish()?;
    let wanted = page.wanted();
    let found = call.run(move |state| async move {
        let found = state.points.list(id, from, to, after, wanted).await?;
        if found.is_empty() && state.points.track(id).await?.is_none() {
            let reason = format!("no track {id} is known; make it with POST /v1/tracks");
            return Err(Problem::field(PointsProblem::TrackNotFound, "id", reason));
        }
        Ok(found)
    });
    let (points, next) = page.cut(found.await?, PointView::from, |point| point.recorded_at);
    ok(&PointPage { points, next })
}

/// A point whose track does not exist.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PointLetter)]
pub(crate) struct LetterView {
    point: PointView,
    #[schema(example = "unknown track")]
    reason: String,
    at: DateTime<Utc>,
}

impl From<PointLetter> for LetterView {
    fn from(PointLetter { point, reason, at }: PointLetter) -> Self {
        Self {
            point: point.into(),
            reason,
            at,
        }
    }
}

/// One page of point letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LetterPage {
    letters: Vec<LetterView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

/// List point letters
///
/// Points that were accepted and could not be stored, with the reason, by track and time.
#[utoipa::path(get, path = "/v1/points/dead-letters", tag = "points", operation_id = "list_point_letters",
    params(
        ("track_id" = Option<String>, Query, description = "Only this track"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10000, description = "1 to 10000; default 1000"),
    ),
    responses(
        (status = 200, body = LetterPage),
        (status = 400, description = "invalid-id, invalid-cursor, invalid-parameter"),
    ))]
pub(crate) async fn letters(call: Call<Read, PointsState, WithQuery>) -> Reply {
    let mut params = call.params(&["track_id", "after", "limit"]);
    let page = params.page_of(DEFAULT_LIMIT, MAX_LIMIT);
    let track = params.text("track_id").map(ToOwned::to_owned);
    params.finish()?;
    let track = track.map(|text| track_id(&text, "track_id")).transpose()?;
    let (after, wanted) = (page.cursor_of(letter_cursor)?, page.wanted());
    let found = call
        .run(move |state| async move { state.points.letters(LetterFilter { track }, after, wanted).await });
    let (letters, next) = page.cut(found.await?, LetterView::from, |PointLetter { point, .. }| {
        format!("{}.{}", point.track_id, point.recorded_at.timestamp_micros())
    });
    ok(&LetterPage { letters, next })
}

fn letter_cursor(text: &str) -> Option<(TrackId, DateTime<Utc>)> {
    let (track, micros) = text.split_once('.')?;
    let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    // What no point has is beyond what databases can hold.
    if !(0..=9_999).contains(&at.year()) {
        return None;
    }
    Some((track.parse().ok()?, at))
}

/// Which point letters: of a track, or all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PointLetterRequest, example = json!({"track_id": "01JD3V0S7W8Q4M2XKZC5T9R6BH"}))]
pub(crate) struct LetterBody {
    track_id: Option<String>,
    /// True, instead of a track: every point.
    #[serde(default)]
    all: bool,
}

/// The result of an operation on point letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChangedLetters {
    /// 10,000 at most; repeat until nothing matches.
    affected: u64,
}

impl LetterBody {
    fn filter(&self) -> Result<LetterFilter, Problem> {
        match (&self.track_id, self.all) {
            (Some(text), false) => Ok(LetterFilter {
                track: Some(track_id(text, "track_id")?),
            }),
            (None, true) => Ok(LetterFilter::default()),
            _ => Err(Problem::field(
                ProblemKind::InvalidField,
                "track_id",
                "give either a track_id or `\"all\": true`",
            )),
        }
    }
}

/// Redrive point letters
///
/// Stores the points whose track now exists, up to 10,000 a request.
#[utoipa::path(post, path = "/v1/points/dead-letters/redrive", tag = "points", operation_id = "redrive_point_letters",
    request_body = LetterBody,
    responses(
        (status = 200, body = ChangedLetters),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "nothing-matched: no letter, or none whose track exists"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn redrive_letters(call: Call<Admin, PointsState>, payload: web::Payload) -> Reply {
    let filter = call.json::<LetterBody>(payload).await?.filter()?;
    let by = call.actor();
    let affected = call.run(|state| async move { state.points.redrive_letters(filter, &by).await });
    changed(affected.await?, "point letter whose track exists")
}

/// Delete point letters
///
/// Deletes up to 10,000 a request, permanently.
#[utoipa::path(post, path = "/v1/points/dead-letters/delete", tag = "points", operation_id = "delete_point_letters",
    request_body = LetterBody,
    responses(
        (status = 200, body = ChangedLetters),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "nothing-matched"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn delete_letters(call: Call<Admin, PointsState>, payload: web::Payload) -> Reply {
    let filter = call.json::<LetterBody>(payload).await?.filter()?;
    let by = call.actor();
    let affected = call.run(|state| async move { state.points.delete_letters(filter, &by).await });
    changed(affected.await?, "point letter")
}

fn changed(affected: u64, what: &str) -> Reply {
    if affected == 0 {
        return Err(nothing_matched(what));
    }
    ok(&ChangedLetters { affected })
}

/// For the document; `points_body.rs` reads it.
#[derive(Debug, ToSchema)]
#[schema(as = NewPoint, example = json!({"track_id": "01JD3V0S7W8Q4M2XKZC5T9R6BH",
    "recorded_at": "2030-01-31T12:00:00.25Z", "lat": 47.25, "lon": 11.4, "altitude": 1820.5, "speed": 12.4}))]
#[allow(dead_code, reason = "the schema is what it is for")]
pub(crate) struct PointBody {
    track_id: String,
    /// RFC 3339, stored to the microsecond; 2000 at the earliest, a day ahead at the latest.
    #[schema(format = DateTime)]
    recorded_at: String,
    #[schema(minimum = -90, maximum = 90)]
    lat: f64,
    #[schema(minimum = -180, maximum = 180)]
    lon: f64,
    /// Metres, -12,000 to 100,000.
    altitude: Option<f64>,
    /// Metres a second, 0 to 100,000.
    speed: Option<f64>,
}
