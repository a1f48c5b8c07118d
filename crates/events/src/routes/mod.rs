//! The routes of this crate.

mod events;
mod recommendations;
mod sources;
mod subscriptions;

holdfast_http::routes! {
    /// Events, sources, subscriptions, interactions and recommendations. Their state is [`EventsState`](crate::EventsState).
    pub ROUTES:
    "/v1/events" => { GET events::list, POST events::store }
    "/v1/interactions" => { POST recommendations::interact }
    "/v1/users/{id}/recommendations" => { GET recommendations::recommend }
    "/v1/sources" => { GET sources::list, POST sources::create }
    "/v1/sources/{id}" => { GET sources::show, PUT sources::put, DELETE sources::delete }
    "/v1/sources/{id}/discover" => { POST sources::discover }
    "/v1/subscriptions" => { GET subscriptions::list, POST subscriptions::create }
    "/v1/subscriptions/{id}" => { DELETE subscriptions::delete }
}
