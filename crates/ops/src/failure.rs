//! Why a command did not do what it was asked to, and the exit code that says so.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use holdfast_api::auth::{KeyError, UserError};
use holdfast_core::config::ConfigFaults;
use holdfast_core::redis::OpenError;
use holdfast_core::sql::SqlError;
use holdfast_jobs::bulk::BulkError;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::schedules::ScheduleError;
use holdfast_tasks::accounts::AccountError;

use crate::remote::ApiError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    /// The configuration is sound, and not for this command.
    #[error("{0}")]
    Misused(String),
    /// The answer is no: there is nothing wrong beyond what the text says.
    #[error("{0}")]
    No(String),
    #[error("{file} cannot be read")]
    Input { file: String, source: io::Error },
    #[error("the output cannot be written")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Database(#[from] SqlError),
    #[error(transparent)]
    Redis(#[from] OpenError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Bulk(#[from] BulkError),
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Users(#[from] UserError),
    #[error(transparent)]
    Accounts(#[from] AccountError),
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Everything is said already, on stdout; this is the exit code.
    #[error("checks ended with {0}")]
    Verdict(u8),
    /// A service that this command runs has failed.
    #[error("{doing}")]
    Service {
        doing: String,
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Failure {
    pub(crate) fn no(text: impl Into<String>) -> Self {
        Self::No(text.into())
    }

    pub(crate) fn service(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Service {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub(crate) fn unless_zero(code: u8) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            code => Err(Self::Verdict(code)),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Misused(_) => ExitCode::from(64),
            Self::Verdict(code) => ExitCode::from(*code),
            Self::Config(faults) => ExitCode::from(u8::try_from(faults.exit_code()).unwrap_or(64)),
            _ if self.is_closed_pipe() => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// On stderr: the failure and its causes.
    pub(crate) fn report(&self) {
        if self.is_closed_pipe() || matches!(self, Self::Verdict(_)) {
            return;
        }
        let mut said = self.to_string();
        eprintln!("holdfast: {said}");
        let mut cause = self.source();
        while let Some(error) = cause {
            // Transparent errors say what their cause says.
            let next = error.to_string();
            if next != said {
                eprintln!("  because: {next}");
            }
            said = next;
            cause = error.source();
        }
    }

    /// `holdfast jobs list | head` is no failure.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
