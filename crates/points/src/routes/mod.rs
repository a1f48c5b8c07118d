//! The routes of this crate.

mod body;
mod points;

holdfast_http::routes! {
    /// Tracks and points. Their state is [`PointsState`](crate::PointsState).
    pub ROUTES:
    "/v1/tracks" => { POST points::make_track }
    "/v1/tracks/{id}/points" => { GET points::list }
    "/v1/points" => { POST points::accept }
    "/v1/points/dead-letters" => { GET points::letters }
    "/v1/points/dead-letters/redrive" => { POST points::redrive_letters }
    "/v1/points/dead-letters/delete" => { POST points::delete_letters }
}
