//! The Railway CLI as a program that may be missing, refuse, hang, or answer nonsense.
//!
//! Invariants: it never gets a terminal to ask on, every call has a deadline, and its output is bounded. What it says
//! when it fails is shown without control characters.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// Most that is read of each of its outputs. The largest answer, a project of hundreds of services, has some 100 KiB.
const MAX_OUTPUT_BYTES: u64 = 8 * 1024 * 1024;

/// Most that is shown of what it said.
const SHOWN_CHARS: usize = 2_000;

/// An upload may take this many times a command's deadline.
const UPLOAD_FACTOR: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RailwayError {
    #[error(
        "the Railway CLI is not installed (there is no `{0}`): `npm install --global @railway/cli`, or see https://docs.railway.com/guides/cli"
    )]
    Missing(String),
    #[error("`{program}` cannot be run: {source}")]
    Unrunnable { program: String, source: io::Error },
    #[error("the Railway CLI is too old ({found}; {wanted} or later is needed): run `railway upgrade`")]
    Outdated { found: String, wanted: String },
    #[error(
        "RAILWAY_TOKEN and RAILWAY_API_TOKEN are both set: keep the one for this project, or the one for your account"
    )]
    TwoTokens,
    #[error(
        "not logged in to Railway: run `railway login`, or set RAILWAY_TOKEN (of a project) or RAILWAY_API_TOKEN (of an account)"
    )]
    LoggedOut,
    #[error("Railway refuses the token in {0}: it is wrong, has expired, or is for another project")]
    WrongToken(&'static str),
    #[error("this directory is not linked to a Railway project: run `railway link`, or give --project")]
    Unlinked,
    /// Something that the project lacks.
    #[error("{0}")]
    Lacks(String),
    #[error("`{command}` gave no answer within {seconds} s")]
    Deadline { command: String, seconds: f64 },
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
    #[error("`{0}` answered with a web page instead of JSON: is something between here and Railway?")]
    WebPage(String),
    #[error("`{0}` broke off in the middle of its JSON answer")]
    BrokeOff(String),
    #[error("`{command}` answered something unknown ({reason}): this may be too new a Railway CLI")]
    Unknown { command: String, reason: String },
    #[error("`{0}` answered more than {MAX_OUTPUT_BYTES} bytes")]
    TooMuch(String),
}

impl RailwayError {
    /// Whether the caller has to put something right before a deployment can begin.
    pub(crate) fn is_for_the_caller(&self) -> bool {
        matches!(
            self,
            Self::Missing(_)
                | Self::Unrunnable { .. }
                | Self::Outdated { .. }
                | Self::TwoTokens
                | Self::LoggedOut
                | Self::WrongToken(_)
                | Self::Unlinked
                | Self::Lacks(_)
        )
    }
}

#[derive(Debug)]
pub(crate) struct Railway {
    program: PathBuf,
    deadline: Duration,
}

/// What one call printed, and how it ended.
struct Answer {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// How the CLI reports an error where it was asked for JSON.
#[derive(Debug, Deserialize)]
struct CliFailure {
    error: String,
    #[serde(default)]
    hint: Option<String>,
}

impl Railway {
    pub(crate) fn new(program: PathBuf, deadline: Duration) -> Self {
        Self { program, deadline }
    }

    /// What a command prints.
    pub(crate) async fn text(&self, args: &[String]) -> Result<String, RailwayError> {
        Ok(self.call(args, self.deadline, &[0]).await?.stdout)
    }

    /// The JSON document that a command prints.
    pub(crate) async fn json<T: DeserializeOwned>(&self, args: &[String]) -> Result<T, RailwayError> {
        let answer = self.call(args, self.deadline, &[0]).await?;
        read(&shown(args), &answer.stdout)
    }

    /// The same for a command whose exit code is part of its answer.
    pub(crate) async fn json_and_code<T: DeserializeOwned>(
        &self,
        args: &[String],
        codes: &[i32],
    ) -> Result<(T, i32), RailwayError> {
        let answer = self.call(args, self.deadline, codes).await?;
        let code = answer.status.code().unwrap_or_default();
        Ok((read(&shown(args), &answer.stdout)?, code))
    }

    /// A command that moves much, or works long.
    pub(crate) async fn upload(&self, args: &[String]) -> Result<String, RailwayError> {
        Ok(self.call(args, self.deadline * UPLOAD_FACTOR, &[0]).await?.stdout)
    }

    pub(crate) async fn upload_json<T: DeserializeOwned>(&self, args: &[String]) -> Result<T, RailwayError> {
        read(&shown(args), &self.upload(args).await?)
    }

    async fn call(&self, args: &[String], limit: Duration, good: &[i32]) -> Result<Answer, RailwayError> {
        let command = shown(args);
        let answer = timeout(limit, self.spawn(args))
            .await
            .map_err(|_| RailwayError::Deadline {
                command: command.clone(),
                seconds: limit.as_secs_f64(),
            })??;
        let too_much = |text: &str| text.len() as u64 >= MAX_OUTPUT_BYTES;
        if too_much(&answer.stdout) || too_much(&answer.stderr) {
            return Err(RailwayError::TooMuch(command));
        }
        match answer.status.code() {
            Some(code) if good.contains(&code) => Ok(answer),
            _ => Err(refusal(command, &answer)),
        }
    }

    /// Dropped with its future, and then killed.
    async fn spawn(&self, args: &[String]) -> Result<Answer, RailwayError> {
        let program = self.program.display().to_string();
        let mut child = Command::new(&self.program)
            .args(args)
            // It neither asks nor colours.
            .env("CI", "true")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => RailwayError::Missing(program.clone()),
                _ => RailwayError::Unrunnable {
                    program: program.clone(),
                    source: error,
                },
            })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr, status) = tokio::join!(bounded(stdout), bounded(stderr), child.wait());
        let unrunnable = |source| RailwayError::Unrunnable { program, source };
        Ok(Answer {
            status: status.map_err(unrunnable)?,
            stdout,
            stderr,
        })
    }
}

/// A command as it would be typed, for messages and `--dry-run`.
pub(crate) fn shown(args: &[String]) -> String {
    let is_plain = |arg: &str| {
        !arg.is_empty()
            && arg
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c))
    };
    let mut line = "railway".to_owned();
    for arg in args {
        if is_plain(arg) {
            write!(line, " {arg}").ok();
        } else {
            write!(line, " '{}'", arg.replace('\'', r"'\''")).ok();
        }
    }
    line
}

/// What a pipe carries, up to the limit. An unreadable pipe has carried nothing.
async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes).await.ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read<T: DeserializeOwned>(command: &str, text: &str) -> Result<T, RailwayError> {
    let text = text.trim();
    if text.starts_with('<') {
        return Err(RailwayError::WebPage(command.to_owned()));
    }
    serde_json::from_str(text).map_err(|error| {
        if error.is_eof() && !text.is_empty() {
            RailwayError::BrokeOff(command.to_owned())
        } else {
            RailwayError::Unknown {
                command: command.to_owned(),
                reason: if text.is_empty() {
                    "nothing at all".to_owned()
                } else {
                    error.to_string()
                },
            }
        }
    })
}

/// The CLI has an error document in some commands and plain text in others; the sentences below are those of its own
/// error table, and all that tells a missing login from a failure.
fn refusal(command: String, answer: &Answer) -> RailwayError {
    let said = match serde_json::from_str::<CliFailure>(answer.stdout.trim()) {
        Ok(CliFailure { error, hint }) => hint.map_or(error.clone(), |hint| format!("{error} ({hint})")),
        Err(_) if answer.stderr.trim().is_empty() => answer.stdout.clone(),
        Err(_) => answer.stderr.clone(),
    };
    if said.trim_start().starts_with('<') {
        return RailwayError::WebPage(command);
    }
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    for variable in ["RAILWAY_TOKEN", "RAILWAY_API_TOKEN"] {
        if says(&[
            &format!("your {variable} is valid"),
            &format!("Invalid {variable}."),
        ]) {
            return RailwayError::WrongToken(variable);
        }
    }
    if says(&[
        "Unauthorized",
        "Not signed in",
        "Not authenticated",
        "railway login",
    ]) {
        return RailwayError::LoggedOut;
    }
    if says(&[
        "No linked project found",
        "Run `railway link`",
        "Project not found",
    ]) {
        return RailwayError::Unlinked;
    }
    RailwayError::Failed {
        command,
        said: printable(&said, answer.status),
    }
}

fn printable(said: &str, status: ExitStatus) -> String {
    let kept: String = said
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN_CHARS)
        .collect();
    if kept.is_empty() {
        return format!("it said nothing ({status})");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split('|').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        assert_eq!(shown(&words("up|--service|api")), "railway up --service api");
        assert_eq!(shown(&words("api|it's {id}")), r"railway api 'it'\''s {id}'");
        assert_eq!(shown(&words("logs|")), "railway logs ''");
    }

    #[test]
    fn half_a_document_a_web_page_and_nothing_are_told_apart() {
        let read = |text| read::<serde_json::Value>("railway status", text).unwrap_err();
        assert!(matches!(read(r#"{"id": "a"#), RailwayError::BrokeOff(_)));
        assert!(matches!(read("<!doctype html>"), RailwayError::WebPage(_)));
        assert!(matches!(read(""), RailwayError::Unknown { .. }));
        assert!(matches!(read("nonsense"), RailwayError::Unknown { .. }));
    }
}
