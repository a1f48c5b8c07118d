//! Detects a deployment platform.
//!
//! Development mode serves the documentation, knows the `debug.*` kinds and takes short keys. It is the default, which is right on a
//! developer's machine. A process that detects a platform and finds no `HOLDFAST_ENV` was most likely deployed without it: it serves
//! this machine alone, and the log says what to set. `HOLDFAST_ENV=development` chooses development mode on a platform.

use std::collections::BTreeMap;
use std::path::Path;

/// Variables that platforms set, and the platforms' names. Railway is missing: production is the default there. systemd and podman
/// set `container`; elsewhere [`note_process`] does.
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

/// Completes the environment of this process: a container without a variable gets one, and `INVOCATION_ID` goes where systemd
/// started another process, as a desktop session.
pub(super) fn note_process(env: &mut BTreeMap<String, String>) {
    let starts_another = env
        .get("SYSTEMD_EXEC_PID")
        .is_some_and(|pid| pid.parse() != Ok(std::process::id()));
    if starts_another {
        env.remove("INVOCATION_ID");
    }
    if CONTAINER_FILES.iter().any(|file| Path::new(file).exists()) {
        env.entry(CONTAINER.to_owned())
            .or_insert_with(|| "oci".to_owned());
    }
}

/// The platform that a variable of the environment belongs to.
pub(super) fn found(env: &BTreeMap<String, String>) -> Option<&'static str> {
    let is_set = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    let found = VARIABLES.iter().find(|(name, _)| is_set(name));
    found.map(|(_, platform)| *platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_a_desktop_session_is_no_service() {
        for (pid, is_service) in [(std::process::id(), true), (1, false)] {
            let mut env = BTreeMap::from(
                [
                    ("INVOCATION_ID", "x".to_owned()),
                    ("SYSTEMD_EXEC_PID", pid.to_string()),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            );
            note_process(&mut env);
            assert_eq!(env.contains_key("INVOCATION_ID"), is_service, "{pid}");
        }
    }

    #[test]
    fn a_platform_is_known_by_its_variable() {
        let env = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert_eq!(found(&env("DYNO")), Some("Heroku"));
        assert_eq!(found(&env("container")), Some("a container"));
        assert_eq!(found(&env("HOME")), None);
    }
}
