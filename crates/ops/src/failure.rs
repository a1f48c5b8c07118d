//! Why a command did not do what it was asked to, and the exit code that says so.

use std::error::Error;
use std::io;

use holdfast_accounts::KeyError;
use holdfast_core::config::ConfigFaults;
use holdfast_core::redis::OpenError;
use holdfast_core::sql::SqlError;

use crate::backup::BackupError;
use crate::client::ApiError;
use crate::copy::CopyError;
use crate::import::ImportError;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
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
    Keys(#[from] KeyError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Import(#[from] ImportError),
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
    pub fn no(text: impl Into<String>) -> Self {
        Self::No(text.into())
    }

    pub fn service(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Service {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub fn unless_zero(code: u8) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            code => Err(Self::Verdict(code)),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Misused(_) => 64,
            Self::Verdict(code) => *code,
            Self::Config(faults) => faults.exit_code(),
            _ if self.is_closed_pipe() => 0,
            _ => 1,
        }
    }

    /// The failure and its causes, outermost first, each text once; empty where there is nothing to print.
    pub fn chain(&self) -> Vec<String> {
        if self.is_closed_pipe() || matches!(self, Self::Verdict(_)) {
            return Vec::new();
        }
        let mut texts = vec![self.to_string()];
        let mut cause = self.source();
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        // Transparent errors repeat the text of their cause.
        texts.dedup();
        texts
    }

    /// `holdfast jobs list | head` is no failure.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
