//! How a setting is declared: once, in a [`settings!`](crate::settings) block.
//!
//! A declaration has the field, its type, what it means, its default, its bounds and its variables. From it come the field of the
//! struct, the reader with its checks, the default, the rows of docs/configuration.md and the lines of .env.example.

#![allow(
    clippy::redundant_closure_for_method_calls,
    reason = "a method is bound to one lifetime of the reader"
)]

use std::any::{Any, TypeId};
use std::fmt::{self, Debug, Display};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use config::ValueKind;
use secrecy::SecretString;
use url::Url;

use super::authorities;
use super::reader::Reader;
use super::schema::join;
use super::settings::Settings;

/// Where a help text shows the bounds that are enforced.
const BOUNDS: &str = "{range}";

/// A part of the configuration that is read into one type. Made by [`settings!`](crate::settings).
pub trait Section: Clone + Debug + Send + Sync + Sized + 'static {
    /// Every setting of the section and of the sections in it.
    fn declarations() -> Vec<Declaration>;

    /// The values. What is wrong with them is noted by the reader, which then answers stand-ins.
    fn read(reader: &mut Reader<'_>) -> Self;

    /// Holds the values against each other, and against those of other sections.
    fn check(&self, reader: &mut Reader<'_>, settings: &Settings) {
        let _ = (reader, settings);
    }
}

/// What is known of a setting beside its value.
#[derive(Debug, Clone)]
pub struct Declaration {
    pub(super) path: String,
    pub(super) help: String,
    pub(super) default: ValueKind,
    /// The strongest first.
    pub(super) variables: &'static [&'static str],
    pub(super) is_secret: bool,
}

/// The declaration of one setting, whose value is a `T`.
pub struct Setting<T> {
    name: Option<&'static str>,
    unit: &'static str,
    default: ValueKind,
    bounds: Option<String>,
    variables: &'static [&'static str],
    is_secret: bool,
    read: Box<ReadSetting<T>>,
}

/// Reads the setting at a path.
type ReadSetting<T> = dyn FnOnce(&mut Reader<'_>, &str) -> T;

impl<T> Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting")
            .field("name", &self.name)
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

impl<T: 'static> Setting<T> {
    fn new(default: impl Into<ValueKind>, read: impl FnOnce(&mut Reader<'_>, &str) -> T + 'static) -> Self {
        Self {
            name: None,
            unit: "",
            default: default.into(),
            bounds: None,
            variables: &[],
            is_secret: false,
            read: Box::new(read),
        }
    }

    fn bounded<N: Display>(self, range: &RangeInclusive<N>) -> Self {
        let bounds = format!("{} to {}", range.start(), range.end());
        Self {
            bounds: Some(bounds),
            ..self
        }
    }

    fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// Another name than the field's.
    pub fn named(self, name: &'static str) -> Self {
        Self {
            name: Some(name),
            unit: "",
            ..self
        }
    }

    /// Conventional names of its variable, the strongest first. `HOLDFAST__SECTION__KEY` sets it too, and wins.
    pub fn variables(self, variables: &'static [&'static str]) -> Self {
        Self { variables, ..self }
    }

    /// Makes another value of it, or notes what is wrong with it. The text is the path of the setting.
    pub fn then<U>(self, next: impl FnOnce(&mut Reader<'_>, &str, T) -> U + 'static) -> Setting<U> {
        let read = self.read;
        Setting {
            name: self.name,
            unit: self.unit,
            default: self.default,
            bounds: self.bounds,
            variables: self.variables,
            is_secret: self.is_secret,
            read: Box::new(move |reader, path| {
                let value = read(reader, path);
                next(reader, path, value)
            }),
        }
    }

    fn key(&self, field: &str) -> String {
        match self.name {
            Some(name) => name.to_owned(),
            None => format!("{field}{}", self.unit),
        }
    }

    /// For [`settings!`](crate::settings): `help` are the lines of the field's documentation.
    pub fn declare(self, section: &str, field: &str, help: &[&str]) -> Declaration {
        let help: Vec<&str> = help.iter().map(|line| line.trim()).collect();
        let help = help.join(" ");
        Declaration {
            path: join(section, &self.key(field)),
            help: match &self.bounds {
                Some(bounds) => help.replace(BOUNDS, bounds),
                None => help,
            },
            default: self.default,
            variables: self.variables,
            is_secret: self.is_secret,
        }
    }

    /// For [`settings!`](crate::settings).
    pub fn read_by(self, reader: &mut Reader<'_>, section: &str, field: &str) -> T {
        let path = reader.path_of(section, &self.key(field));
        (self.read)(reader, &path)
    }
}

/// Seconds, with or without a fraction. The name ends with `_seconds`.
pub fn seconds(default: f64, range: RangeInclusive<f64>) -> Setting<Duration> {
    let default = if default.fract() == 0.0 {
        ValueKind::I64(default as i64)
    } else {
        ValueKind::Float(default)
    };
    let bounds = range.clone();
    Setting::new(default, move |reader, path| reader.seconds(path, range))
        .in_unit("_seconds")
        .bounded(&bounds)
}

/// Whole milliseconds. The name ends with `_ms`.
pub fn millis(default: i64, range: RangeInclusive<u64>) -> Setting<Duration> {
    let bounds = range.clone();
    Setting::new(default, move |reader, path| reader.millis(path, range))
        .in_unit("_ms")
        .bounded(&bounds)
}

/// A whole number of bytes.
pub fn bytes(default: i64, range: RangeInclusive<usize>) -> Setting<usize> {
    let bounds = range.clone();
    Setting::new(default, move |reader, path| reader.bytes(path, range)).bounded(&bounds)
}

/// A whole number.
pub fn count<N>(default: i64, range: RangeInclusive<N>) -> Setting<N>
where
    N: TryFrom<i64> + PartialOrd + Copy + Display + 'static,
{
    let bounds = range.clone();
    Setting::new(default, move |reader, path| reader.count(path, range)).bounded(&bounds)
}

/// A whole number of percent, as a share of 1. The name ends with `_percent`.
pub fn percent(default: i64, range: RangeInclusive<u8>) -> Setting<f64> {
    count(default, range)
        .then(|_, _, percent| f64::from(percent) / 100.0)
        .in_unit("_percent")
}

/// A whole number, or empty.
pub fn optional_count(range: RangeInclusive<u32>) -> Setting<Option<u32>> {
    let bounds = range.clone();
    Setting::new("", move |reader, path| reader.optional_count(path, range)).bounded(&bounds)
}

/// A text that a type reads, or empty.
pub fn optional_parsed<T>() -> Setting<Option<T>>
where
    T: std::str::FromStr<Err: Display> + 'static,
{
    Setting::new("", |reader, path| reader.optional_parsed(path))
}

/// True or false.
pub fn flag(default: bool) -> Setting<bool> {
    Setting::new(default, |reader, path| reader.flag(path))
}

/// A text without surrounding blanks.
pub fn text(default: &str) -> Setting<String> {
    Setting::new(default, |reader, path| reader.text(path))
}

/// A text, or `None` if it is empty.
pub fn optional_text() -> Setting<Option<String>> {
    text("").then(|_, _, text| Some(text).filter(|text| !text.is_empty()))
}

/// A text that no fault, view or log shows; `None` if it is empty.
pub fn secret() -> Setting<Option<SecretString>> {
    secret_text("")
        .then(|_, _, text| Some(text).filter(|text| !secrecy::ExposeSecret::expose_secret(text).is_empty()))
}

/// A text that no fault, view or log shows, and that has a default.
pub(super) fn secret_text(default: &str) -> Setting<SecretString> {
    let setting = text(default).then(|_, _, text| SecretString::from(text));
    Setting {
        is_secret: true,
        ..setting
    }
}

/// One of a few words.
pub fn choice<T: Copy + 'static>(default: &str, choices: &'static [(&'static str, T)]) -> Setting<T> {
    Setting::new(default, move |reader, path| reader.choice(path, choices))
}

/// Texts; in the environment with commas between. Empty unless set.
pub fn list() -> Setting<Vec<String>> {
    Setting::new(Vec::<String>::new(), |reader, path| reader.list(path))
}

/// An `http` or `https` URL, or empty. `fix` says which one to give.
pub fn optional_url(fix: &'static str) -> Setting<Option<Url>> {
    text("").then(move |reader, path, text| {
        if text.is_empty() {
            return None;
        }
        let url = Url::parse(&text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if url.is_none() {
            let problem = "it is not an http:// or https:// URL".to_owned();
            reader.fault_once(path, || (problem, fix.to_owned()));
        }
        url
    })
}

/// The PEM text of certificate authorities, or the path of a file that holds one; `None` if it is empty.
pub fn certificates() -> Setting<Option<Arc<str>>> {
    text("").then(authorities::ca_certificate)
}

/// The section of a product, which the engine does not name.
#[derive(Debug, Clone, Copy)]
pub struct ProductSection {
    pub(super) declarations: fn() -> Vec<Declaration>,
    pub(super) read: fn(&mut Reader<'_>) -> (TypeId, Arc<dyn Any + Send + Sync>),
    pub(super) check: fn(&mut Reader<'_>, &Settings),
}

impl ProductSection {
    pub const fn of<S: Section>() -> Self {
        Self {
            declarations: S::declarations,
            read: |reader| (TypeId::of::<S>(), Arc::new(S::read(reader))),
            check: |reader, settings| settings.section::<S>().check(reader, settings),
        }
    }
}

/// Declares the settings of a section, as a struct that implements [`Section`](crate::config::Section).
///
/// ```
/// use std::time::Duration;
/// use holdfast_core::config::declare::{count, seconds};
///
/// holdfast_core::settings! {
///     ["reports"]
///     #[derive(Debug, Clone)]
///     pub struct ReportSettings {
///         /// Longest time that a report may take, in seconds, {range}.
///         timeout: Duration = seconds(30.0, 0.1..=300.0);
///         /// Most reports that are made concurrently, {range}.
///         max_running: usize = count(2, 1..=64);
///     }
/// }
/// ```
///
/// declares `reports.timeout_seconds` and `reports.max_running`. The documentation of a field is the help of its setting, `{range}`
/// in it are the bounds. `sections` are structs of the same kind inside this one; `and` are fields that are no setting, each with a
/// function of the reader; `check` is a function that holds the values against each other.
#[macro_export]
macro_rules! settings {
    (
        [$section:literal]
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $( $(#[doc = $help:literal])+ $field:ident: $type:ty = $setting:expr; )*
        }
        $(sections { $( $(#[$nested_attribute:meta])* $nested:ident: $nested_type:ty; )* })?
        $(and { $( $(#[$other_attribute:meta])* $other:ident: $other_type:ty = $other_value:expr; )* })?
        $(check = $check:expr;)?
    ) => {
        $(#[$attribute])*
        // The help is text for the documents, not for rustdoc alone.
        #[allow(rustdoc::bare_urls, rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]
        pub struct $name {
            $( $(#[doc = $help])+ pub $field: $type, )*
            $($( $(#[$nested_attribute])* pub $nested: $nested_type, )*)?
            $($( $(#[$other_attribute])* pub $other: $other_type, )*)?
        }

        impl $crate::config::Section for $name {
            fn declarations() -> Vec<$crate::config::Declaration> {
                let own = vec![$({
                    let setting: $crate::config::Setting<$type> = $setting;
                    setting.declare($section, stringify!($field), &[$($help),+])
                }),*];
                [own $($(, <$nested_type as $crate::config::Section>::declarations())*)?].concat()
            }

            fn read(reader: &mut $crate::config::Reader<'_>) -> Self {
                Self {
                    $( $field: {
                        let setting: $crate::config::Setting<$type> = $setting;
                        setting.read_by(reader, $section, stringify!($field))
                    }, )*
                    $($( $nested: <$nested_type as $crate::config::Section>::read(reader), )*)?
                    $($( $other: ($other_value)(reader), )*)?
                }
            }

            $(
                fn check(&self, reader: &mut $crate::config::Reader<'_>, settings: &$crate::config::Settings) {
                    ($check)(self, reader, settings);
                }
            )?
        }
    };
}
