//! Tags: words by which a job is found.

use std::collections::BTreeSet;

use super::Fault;

/// Most tags of a job.
pub const MAX_TAGS: usize = 8;

/// Longest tag, in characters.
pub const MAX_TAG_CHARS: usize = 64;

/// Whether a text may be a tag.
pub fn is_tag(text: &str) -> bool {
    (1..=MAX_TAG_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

pub(super) fn check(tags: &[String]) -> Result<(), Fault> {
    if tags.len() > MAX_TAGS {
        let reason = format!("{} are more than the {MAX_TAGS} allowed", tags.len());
        return Err(Fault::field("tags", reason));
    }
    if let Some(place) = tags.iter().position(|tag| !is_tag(tag)) {
        let reason = format!("must have 1 to {MAX_TAG_CHARS} characters, none of them a control character");
        return Err(Fault::field(&format!("tags[{place}]"), reason));
    }
    let distinct: BTreeSet<&String> = tags.iter().collect();
    if distinct.len() < tags.len() {
        return Err(Fault::field("tags", "must name each tag once"));
    }
    Ok(())
}
