//! Where a secret field is, in one language for the kinds of the code and declared ones.

use std::fmt;
use std::str::FromStr;

/// A path into a payload, in one of two forms:
/// - `login.token`, `items[].secret`, `items[0].secret`, `headers.*`: members by their names, `[]` every item of a list, `[N]` one item
///   from 0, `*` every member of an object;
/// - a JSON pointer (RFC 6901), `/auth/token`, for names that hold `.`, `[`, `]` or `*`.
///
/// The empty path is the payload itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
    EveryItem,
    EveryMember,
    /// Of a pointer: a member by its name, or an item by its number.
    Token(String),
}

/// A part of a payload, seen from the value around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'k> {
    Member(&'k str),
    Item(usize),
}

/// What kind of value a step is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    List,
    Scalar,
}

/// The text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no path such as auth.token, items[].secret or /auth/token")]
pub struct InvalidPath;

impl FromStr for FieldPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let steps = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(token).collect::<Result<_, _>>()?,
            None => dotted(text)?,
        };
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FieldPath {
    /// How many steps lead to the field; 0: it is the payload itself.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether the step at this place leads to a part.
    pub(super) fn leads_to(&self, step: usize, part: Part<'_>) -> bool {
        match (self.steps.get(step), part) {
            (Some(Step::Member(name) | Step::Token(name)), Part::Member(member)) => name == member,
            (Some(Step::Item(number)), Part::Item(item)) => *number == item,
            (Some(Step::Token(number)), Part::Item(item)) => number.parse() == Ok(item),
            (Some(Step::EveryItem), Part::Item(_)) | (Some(Step::EveryMember), Part::Member(_)) => true,
            _ => false,
        }
    }

    /// Whether the steps at this place of both paths may lead to the same part of a value.
    pub(super) fn meets(&self, other: &Self, step: usize) -> bool {
        use Step::{EveryItem, EveryMember, Item, Member, Token};
        match (self.steps.get(step), other.steps.get(step)) {
            (Some(Member(one) | Token(one)), Some(Member(two) | Token(two))) => one == two,
            (Some(Item(one)), Some(Item(two))) => one == two,
            (Some(Token(number)), Some(Item(item))) | (Some(Item(item)), Some(Token(number))) => {
                number.parse() == Ok(*item)
            }
            (Some(EveryItem), Some(Token(number))) | (Some(Token(number)), Some(EveryItem)) => {
                number.parse::<usize>().is_ok()
            }
            (Some(EveryItem), Some(EveryItem | Item(_))) | (Some(Item(_)), Some(EveryItem)) => true,
            (Some(EveryMember), Some(EveryMember | Member(_) | Token(_)))
            | (Some(Member(_) | Token(_)), Some(EveryMember)) => true,
            _ => false,
        }
    }

    /// Whether the step at this place can be taken in a value of this shape. Where it cannot, the payload has another form than its kind
    /// expects, and it is not known where in it the secret is.
    pub(super) fn fits(&self, step: usize, shape: Shape) -> bool {
        match (self.steps.get(step), shape) {
            (_, Shape::Scalar) | (None, _) => false,
            (Some(Step::Member(_) | Step::EveryMember), shape) => shape == Shape::Object,
            (Some(Step::Item(_) | Step::EveryItem), shape) => shape == Shape::List,
            (Some(Step::Token(text)), shape) => shape == Shape::Object || text.parse::<usize>().is_ok(),
        }
    }
}

fn token(text: &str) -> Result<Step, InvalidPath> {
    let mut token = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        token.push(match character {
            '~' => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(InvalidPath),
            },
            other => other,
        });
    }
    Ok(Step::Token(token))
}

fn dotted(text: &str) -> Result<Vec<Step>, InvalidPath> {
    let mut steps = Vec::new();
    if text.is_empty() {
        return Ok(steps);
    }
    for (place, segment) in text.split('.').enumerate() {
        let (name, brackets) = match segment.find('[') {
            Some(at) => segment.split_at(at),
            None => (segment, ""),
        };
        match name {
            // A list may be the payload itself: `[].secret`.
            "" if place == 0 && !brackets.is_empty() => {}
            "" => return Err(InvalidPath),
            "*" => steps.push(Step::EveryMember),
            name if name.contains([']', '*']) => return Err(InvalidPath),
            name => steps.push(Step::Member(name.to_owned())),
        }
        let mut rest = brackets;
        while !rest.is_empty() {
            let inside = rest.strip_prefix('[').ok_or(InvalidPath)?;
            let (number, after) = inside.split_once(']').ok_or(InvalidPath)?;
            steps.push(match number {
                "" => Step::EveryItem,
                number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Step::Item(number.parse().map_err(|_| InvalidPath)?)
                }
                _ => return Err(InvalidPath),
            });
            rest = after;
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_are_refused() {
        let steps = |text: &str| text.parse::<FieldPath>().map(|path| path.steps);
        let member = |name: &str| Step::Member(name.to_owned());
        let token = |name: &str| Step::Token(name.to_owned());
        assert_eq!(steps(""), Ok(vec![]));
        assert_eq!(steps("token"), Ok(vec![member("token")]));
        assert_eq!(steps("auth.token"), Ok(vec![member("auth"), member("token")]));
        assert_eq!(
            steps("items[].a[3][]"),
            Ok(vec![
                member("items"),
                Step::EveryItem,
                member("a"),
                Step::Item(3),
                Step::EveryItem
            ])
        );
        assert_eq!(steps("[].a"), Ok(vec![Step::EveryItem, member("a")]));
        assert_eq!(steps("headers.*"), Ok(vec![member("headers"), Step::EveryMember]));
        assert_eq!(
            steps("/a~1b/m~0n/0"),
            Ok(vec![token("a/b"), token("m~n"), token("0")])
        );
        for text in [
            ".", "a.", ".a", "a..b", "a[", "a]", "a[x]", "a[]b", "a[-1]", "/a~2", "/a~", "a*b", "a.[]",
        ] {
            assert_eq!(steps(text), Err(InvalidPath), "{text}");
        }
    }
}
