//! What a user wants to be sent, as those who send it read it.

mod document;
mod quiet_hours;
mod reader;

pub use self::document::{
    Channels, MAX_TOPICS, Mode, PreferenceFault, Preferences, PreferencesText, Quiet, Switch,
};
pub use self::quiet_hours::{QuietHours, TimeOfDay};
pub(crate) use self::reader::{hold, parsed, reader, row, wants};
