//! Tracks and their points.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Datelike as _, Utc};
use holdfast_http::body::items::{RejectedItem, none_good};
use holdfast_http::body::json_body;
use holdfast_http::json;
use holdfast_http::params::Params;
use holdfast_http::problem::{Problem, ProblemKind, nothing_matched, quote};
use holdfast_http::{Admin, Allowed, Produce, Read};
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use super::body::{NAMES, read_points};
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
pub(crate) async fn make_track(
    _: Allowed<Produce>,
    state: web::Data<PointsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: TrackBody = json_body(&request, payload, &state.http).await?;
    let sound = (1..=MAX_NAME).contains(&body.name.len()) && !body.name.chars().any(char::is_control);
    if !sound {
        let reason = format!("must have 1 to {MAX_NAME} bytes, and no control characters");
        return Err(Problem::field(ProblemKind::InvalidField, "name", reason));
    }
    let id = body.id.as_deref().map(|text| track_id(text, "id")).transpose()?;
    let (points, name) = (state.points.clone(), body.name);
    let made = state
        .http
        .on_runtime(async move { points.make_track(id, &name).await })
        .await?;
    match made {
        TrackMade::New(track) => {
            let location = format!("/v1/tracks/{}/points", track.id);
            let mut response = json(StatusCode::CREATED, &TrackView::from(track))?;
            let location = HeaderValue::from_str(&location).map_err(Problem::internal)?;
            response.headers_mut().insert(header::LOCATION, location);
            Ok(response)
        }
        TrackMade::Same(track) => json(StatusCode::OK, &TrackView::from(track)),
        TrackMade::Taken(track) => Err(Problem::field(
            ProblemKind::TrackExists,
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
pub(crate) async fn accept(
    _: Allowed<Produce>,
    state: web::Data<PointsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (good, rejected) = read_points(&request, payload, &state.http).await?;
    if rejected.is_empty() && good.is_empty() {
        return Err(NAMES.nothing());
    }
    if good.is_empty() {
        return Err(none_good(rejected, NAMES));
    }
    let accepted = good.len();
    let points = state.points.clone();
    state
        .http
        .on_runtime(async move { points.accept(&good).await })
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
        ("limit" = Option<usize>, Query, description = "1 to 10000; default 1000"),
    ),
    responses(
        (status = 200, body = PointPage),
        (status = 400, description = "invalid-id, invalid-parameter"),
        (status = 404, description = "track-not-found"),
    ))]
pub(crate) async fn list(
    _: Allowed<Read>,
    state: web::Data<PointsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = track_id(request.match_info().get("id").unwrap_or_default(), "id")?;
    let mut params = Params::of(&request, &["from", "to", "after", "limit"]);
    let (from, to, after) = (params.moment("from"), params.moment("to"), params.moment("after"));
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    params.finish()?;
    let points = state.points.clone();
    let found = state
        .http
        .on_runtime(async move {
            // One more than fits tells whether there is a next page.
            let found = points.list(id, from, to, after, limit + 1).await?;
            if found.is_empty() && points.track(id).await?.is_none() {
                return Err(Problem::field(
                    ProblemKind::TrackNotFound,
                    "id",
                    format!("no track {id} is known; make it with POST /v1/tracks"),
                ));
            }
            Ok(found)
        })
        .await?;
    let more = found.len() > limit;
    let points: Vec<PointView> = found.into_iter().take(limit).map(PointView::from).collect();
    let next = points.last().filter(|_| more).map(|point| point.recorded_at);
    json(StatusCode::OK, &PointPage { points, next })
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
        ("limit" = Option<usize>, Query, description = "1 to 10000; default 1000"),
    ),
    responses(
        (status = 200, body = LetterPage),
        (status = 400, description = "invalid-id, invalid-cursor, invalid-parameter"),
    ))]
pub(crate) async fn letters(
    _: Allowed<Read>,
    state: web::Data<PointsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request, &["track_id", "after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let track = params.text("track_id").map(ToOwned::to_owned);
    let cursor = params.text("after").map(ToOwned::to_owned);
    params.finish()?;
    let track = track.map(|text| track_id(&text, "track_id")).transpose()?;
    let after = cursor.map(|text| letter_cursor(&text)).transpose()?;
    let points = state.points.clone();
    let found = state
        .http
        .on_runtime(async move { points.letters(LetterFilter { track }, after, limit + 1).await })
        .await?;
    let more = found.len() > limit;
    let letters: Vec<PointLetter> = found.into_iter().take(limit).collect();
    let next = letters.last().filter(|_| more).map(|letter| {
        let PointLetter { point, .. } = letter;
        format!("{}.{}", point.track_id, point.recorded_at.timestamp_micros())
    });
    let letters = letters.into_iter().map(LetterView::from).collect();
    json(StatusCode::OK, &LetterPage { letters, next })
}

fn letter_cursor(text: &str) -> Result<(TrackId, DateTime<Utc>), Problem> {
    text.split_once('.')
        .and_then(|(track, micros)| {
            let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
            // What no point has is beyond what databases can hold.
            if !(0..=9_999).contains(&at.year()) {
                return None;
            }
            Some((TrackId(Ulid::from_string(track).ok()?), at))
        })
        .ok_or_else(|| {
            let reason = format!("{} is no cursor; use the `next` of the page before", quote(text));
            Problem::field(ProblemKind::InvalidCursor, "after", reason)
        })
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
pub(crate) async fn redrive_letters(
    allowed: Allowed<Admin>,
    state: web::Data<PointsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: LetterBody = json_body(&request, payload, &state.http).await?;
    let (filter, by, points) = (body.filter()?, allowed.by(&request), state.points.clone());
    let affected = state
        .http
        .on_runtime(async move { points.redrive_letters(filter, &by).await })
        .await?;
    changed(affected, "point letter whose track exists")
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
pub(crate) async fn delete_letters(
    allowed: Allowed<Admin>,
    state: web::Data<PointsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: LetterBody = json_body(&request, payload, &state.http).await?;
    let (filter, by, points) = (body.filter()?, allowed.by(&request), state.points.clone());
    let affected = state
        .http
        .on_runtime(async move { points.delete_letters(filter, &by).await })
        .await?;
    changed(affected, "point letter")
}

fn changed(affected: u64, what: &str) -> Result<HttpResponse, Problem> {
    if affected == 0 {
        return Err(nothing_matched(what));
    }
    json(StatusCode::OK, &ChangedLetters { affected })
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
