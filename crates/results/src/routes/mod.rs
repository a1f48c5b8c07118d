//! The routes of this crate.

mod channels;
mod check;
mod parts;
mod results;

holdfast_http::routes! {
    /// Results and channels. Their state is [`ResultsState`](crate::ResultsState).
    pub ROUTES:
    "/v1/results/write" => { POST results::write }
    "/v1/results/read" => { POST results::read }
    "/v1/results/delete" => { POST results::delete }
    "/v1/results/{id}" => { PUT results::put }
    "/v1/results/{id}/parts" => { GET parts::list, POST parts::add }
    "/v1/results/{id}/parts/delete" => { POST parts::delete }
    "/v1/channels/read" => { POST channels::read }
    "/v1/channels/{name}" => { GET channels::listen, POST channels::post }
}
