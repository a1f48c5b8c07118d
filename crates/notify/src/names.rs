//! Names of templates, lists and topics.

/// Longest name, in bytes.
pub(crate) const MAX_NAME: usize = 100;

/// The form of a name, for schemas.
pub(crate) const NAME_PATTERN: &str = "^[a-z0-9_.-]{1,100}$";

/// Whether a text may name a template, a list or a topic: 1 to 100 of a-z, 0-9, `_`, `-` and `.`.
pub(crate) fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_part)
}
