//! `.env.example`: every setting once, as the program describes it.

use crate::env_text::generated;
use crate::readme::read;
use holdfast_services::settings_table;

const PATH: &str = ".env.example";
/// What Compose reads from `.env` besides settings.
const OF_COMPOSE: [&str; 3] = ["POSTGRES_PASSWORD", "QUEUE_PASSWORD", "CACHE_PASSWORD"];

/// The variables of a file, commented out or not.
fn variables(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| {
        let (name, _) = line.trim_start_matches("# ").split_once('=')?;
        let is_name = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        is_name.then_some(name)
    });
    names.collect()
}

#[test]
fn every_setting_stands_in_it_once() {
    let text = read(PATH);
    let named = variables(&text);
    for setting in settings_table() {
        let count = named.iter().filter(|name| **name == setting.env).count();
        assert_eq!(count, 1, "{} in {PATH}; run scripts/generate", setting.env);
    }
    assert_eq!(named.len(), settings_table().len() + OF_COMPOSE.len());
}

#[test]
fn it_is_what_the_program_says() {
    assert!(
        read(PATH) == generated(),
        "{PATH} is not up to date: run scripts/generate"
    );
}
