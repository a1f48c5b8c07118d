//! The text of `.env.example`, made of the program's own table of settings. Beside the test that compares it, the test
//! that brings the documents up to date uses it.

use std::fmt::Write as _;

use holdfast_core::config::SettingDoc;
use holdfast_services::settings_table;

const WIDTH: usize = 110;

/// What is not ours, and is needed all the same.
const HEAD: &str = "\
# Copy to .env, and never commit that. Everything below the second line is a setting of Holdfast, commented out where
# its default will do. This file is made from the declarations of the settings: change the `settings!` block of the
# section and run `scripts/generate`.

# --- deploy/compose.yaml -------------------------------------------------------------------------------------------
# Passwords of the servers that Compose starts. They become part of URLs: letters and digits only.
POSTGRES_PASSWORD=
QUEUE_PASSWORD=
CACHE_PASSWORD=

# --- Holdfast ------------------------------------------------------------------------------------------------------
";

/// Must be set in production; everything else may stay as it is.
const TO_BE_SET: &str = "HOLDFAST_API_KEY";

pub(crate) fn generated() -> String {
    let mut text = HEAD.to_owned();
    for setting in settings_table() {
        text.push('\n');
        for line in wrapped(&setting.help) {
            writeln!(text, "# {line}").unwrap();
        }
        let comment = if setting.env == TO_BE_SET { "" } else { "# " };
        writeln!(text, "{comment}{}={}", setting.env, value_of(&setting)).unwrap();
    }
    text
}

/// A default as an environment spells it: texts bare, lists with commas, and nothing for what another setting decides.
fn value_of(setting: &SettingDoc) -> String {
    if setting.key.starts_with("queues.NAME.") {
        return String::new();
    }
    let default = &setting.default;
    let items = default.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let bare = items.unwrap_or(default).replace('"', "");
    bare.replace(", ", ",")
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + word.len() + 3 > WIDTH {
            lines.push(word.to_owned());
        } else {
            write!(line, " {word}").unwrap();
        }
    }
    lines
}
