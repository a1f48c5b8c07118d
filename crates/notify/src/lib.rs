//! Notifications: webhooks, mail, digests, and what users want to be sent.
//!
//! - [`notifications`]: what happened is published once, and becomes one job for each endpoint that listens.
//! - [`webhooks`]: endpoints, their secrets, and deliveries, signed and logged (`notify.webhook`).
//! - [`mail`]: mails from templates (`notify.email`), suppressions, digests (`notify.digest`).
//! - [`preferences`] and [`PreferenceStore`]: what a user wants to be sent, and which addresses are proven to be the user's.

pub mod mail;
mod names;
pub mod notifications;
mod personal_data;
mod preference_store;
pub mod preferences;
mod problems;
mod product;
mod routes;
mod secrets;
mod settings;
mod state;
pub mod webhooks;

pub use preference_store::{
    AddressState, ConfirmedAddress, PreferenceError, PreferenceStore, UserPreferences,
};
pub use product::{NotifyProduct, action};
pub use routes::ROUTES;
pub use settings::{NotificationsSettings, SmtpSettings};
pub use state::NotifyState;
