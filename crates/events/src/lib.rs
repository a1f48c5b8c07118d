//! Events: where they are found, what people did with them, and what is recommended.
//!
//! - [`discovery`]: sources that are read again and again (`events.discover`), and subscriptions to what they bring.
//! - [`Events`]: the store of events; searching them.
//! - [`interactions`]: who did what with which event.
//! - [`recommend`]: the model (`ml.train`) and a user's list (`ml.recommend`).
//!
//! Other products send what is announced: [`discovery::NewsAnnouncer`].

pub mod discovery;
pub mod interactions;
mod personal_data;
mod place;
mod problems;
mod product;
pub mod recommend;
mod routes;
mod settings;
mod state;
mod store;
mod words;

pub use product::{EventsProduct, action};
pub use routes::ROUTES;
pub use settings::{DiscoverySettings, EventsSettings, RecommendSettings, RedditSettings};
pub use state::EventsState;
pub use store::{
    ANSWERS, BATCH, Event, EventFault, Events, Filter, MAX_DESCRIPTION, MAX_SEARCH_WORDS, MAX_TITLE, MAX_UID,
    Near, NewEvent, Outcome, SearchFault, UpsertHook, UpsertedEvent, search_words,
};
