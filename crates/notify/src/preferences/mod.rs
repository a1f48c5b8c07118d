//! What a user wants to be sent, as those who send it read it.

mod document;
mod quiet_hours;
mod reader;
mod users;

pub use self::document::{
    Channels, MAX_TOPICS, Mode, PreferenceFault, Preferences, PreferencesText, Quiet, Switch,
};
pub use self::quiet_hours::{QuietHours, TimeOfDay};
pub(crate) use self::reader::{account_name, parsed, reader, wants};
pub(crate) use self::users::{account_named, audit_target, hold, key_of, store};
