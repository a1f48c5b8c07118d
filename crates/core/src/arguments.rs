//! The command line of the services: they are configured by the environment and a file, and take no arguments but these.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use crate::build;

/// The exit code of a command line that cannot be understood.
const USAGE_ERROR: u8 = 2;

/// What the arguments of a service ask for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Start,
    Print(String),
    Refuse(String),
}

/// Answers `--help`, `--version` and arguments that the service does not know. `None`: the service is to start. Call it before
/// anything else, so that asking has no effect.
///
/// `about`: what the service does, in one sentence.
pub fn answered(service: &str, about: &str) -> Option<ExitCode> {
    match request(service, about, std::env::args_os().skip(1)) {
        Request::Start => None,
        Request::Print(text) => {
            // A reader that closed the pipe, such as `head`, has what it wanted.
            writeln!(std::io::stdout(), "{text}").ok();
            Some(ExitCode::SUCCESS)
        }
        Request::Refuse(text) => {
            eprintln!("{text}");
            Some(ExitCode::from(USAGE_ERROR))
        }
    }
}

/// The first argument decides.
fn request(service: &str, about: &str, mut arguments: impl Iterator<Item = OsString>) -> Request {
    let Some(first) = arguments.next() else {
        return Request::Start;
    };
    match first.to_str() {
        Some("--help" | "-h") => Request::Print(help(service, about)),
        Some("--version" | "-V") => Request::Print(format!("{service} {}", build::version())),
        _ => Request::Refuse(format!(
            "error: unexpected argument '{}'\n\n{}\n\nFor more information, try `{service} --help`.",
            first.display(),
            usage(service)
        )),
    }
}

fn usage(service: &str) -> String {
    format!("Usage: {service} [--help | --version]")
}

fn help(service: &str, about: &str) -> String {
    format!(
        "{about}\n\n{}\n\nOptions:\n  -h, --help     Print help\n  -V, --version  Print version\n\n\
         It runs until SIGTERM or SIGINT. Its settings come from the environment (DATABASE_URL, REDIS_URL, HOLDFAST_ENV, PORT, \
         HOLDFAST__SECTION__NAME) and from holdfast.toml, or the file that HOLDFAST_CONFIG names: see docs/configuration.md.",
        usage(service)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Request {
        request(
            "api",
            "Serves the HTTP API.",
            arguments.iter().map(OsString::from),
        )
    }

    #[test]
    fn without_arguments_the_service_starts() {
        assert_eq!(of(&[]), Request::Start);
    }

    #[test]
    fn help_and_version_are_printed() {
        for argument in ["--help", "-h"] {
            let Request::Print(text) = of(&[argument]) else {
                panic!("{argument}")
            };
            assert!(text.starts_with("Serves the HTTP API.\n\nUsage: api "), "{text}");
        }
        for argument in ["--version", "-V"] {
            assert_eq!(
                of(&[argument]),
                Request::Print(format!("api {}", build::version()))
            );
        }
    }

    #[test]
    fn other_arguments_are_refused_by_their_name() {
        for argument in ["--port=1", "serve", "", "--Help"] {
            let Request::Refuse(text) = of(&[argument, "--help"]) else {
                panic!("{argument}")
            };
            assert!(text.contains(&format!("'{argument}'")), "{text}");
        }
    }
}
