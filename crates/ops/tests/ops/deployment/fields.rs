//! Whether an object has only fields that its reader knows: a misspelt field is ignored by most platforms.

use serde_json::Value;

/// A field's name, and the type of its value.
pub(crate) type Field = (&'static str, Type);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Type {
    Text,
    /// One of these.
    Word(&'static [&'static str]),
    Whole,
    Flag,
    Texts,
    /// Of any shape: tested where it is used.
    Any,
}

impl Type {
    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Whole => value.is_u64(),
            Self::Flag => value.is_boolean(),
            Self::Texts => value
                .as_array()
                .is_some_and(|items| items.iter().all(Value::is_string)),
            Self::Any => true,
        }
    }
}

/// Every field is known and of its type, and the required ones are there.
#[track_caller]
pub(crate) fn check(place: &str, value: &Value, known: &[Field], required: &[&str]) {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("{place} is no object"));
    for (name, value) in object {
        let field = known.iter().find(|(field, _)| field == name);
        let Some((_, kind)) = field else {
            panic!("{place} has a field {name}, which its platform does not know");
        };
        assert!(kind.admits(value), "{place}: {name} is {value}, not {kind:?}");
    }
    for name in required {
        assert!(object.contains_key(*name), "{place} lacks {name}");
    }
}
