//! Whether this process runs on a platform that nobody has told it about.
//!
//! Development mode serves the documentation, knows the `debug.*` kinds, and takes short keys. It is right on a developer's machine,
//! where nobody sets `HOLDFAST_ENV`. Where a platform is found and nothing is said, it was fallen into: then only this machine is
//! served, and the log says what to set. `HOLDFAST_ENV=development` chooses it.

use std::collections::BTreeMap;
use std::path::Path;

/// Variables that platforms set, and their names. Railway is production by itself. `container` is what systemd and podman set, and
/// [`note_container`] where they do not.
const VARIABLES: [(&str, &str); 9] = [
    ("KUBERNETES_SERVICE_HOST", "Kubernetes"),
    ("DYNO", "Heroku"),
    ("FLY_APP_NAME", "Fly"),
    ("RENDER", "Render"),
    ("ECS_CONTAINER_METADATA_URI_V4", "ECS"),
    ("K_SERVICE", "Cloud Run"),
    ("WEBSITE_SITE_NAME", "App Service"),
    (CONTAINER, "a container"),
    ("INVOCATION_ID", "systemd"),
];

const CONTAINER: &str = "container";

/// Files that only containers have.
const CONTAINER_FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Notes in the environment of a process that it runs in a container.
pub(super) fn note_container(env: &mut BTreeMap<String, String>) {
    if CONTAINER_FILES.iter().any(|file| Path::new(file).exists()) {
        env.entry(CONTAINER.to_owned())
            .or_insert_with(|| "oci".to_owned());
    }
}

/// The platform that the environment betrays.
pub(super) fn found(env: &BTreeMap<String, String>) -> Option<&'static str> {
    let is_set = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    let found = VARIABLES.iter().find(|(name, _)| is_set(name));
    found.map(|(_, platform)| *platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_known_by_its_variable() {
        let env = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert_eq!(found(&env("DYNO")), Some("Heroku"));
        assert_eq!(found(&env("container")), Some("a container"));
        assert_eq!(found(&env("HOME")), None);
    }
}
