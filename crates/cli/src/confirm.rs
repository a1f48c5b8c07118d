//! The one way in which commands ask before they do what cannot be undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use holdfast_ops::Failure;

/// Whether to ask. Flattened into the arguments of every command that deletes, revokes, or cancels more than one job.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

impl ConfirmArgs {
    /// Asks on the terminal; `question` says what is done, and to how many. It is not called with `--yes`, nor without a terminal.
    ///
    /// # Errors
    /// The answer is no (exit code 1), or there is neither a terminal nor `--yes` (64).
    pub(crate) async fn agree(
        self,
        question: impl AsyncFnOnce() -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let reason = "there is no terminal to ask for confirmation: give --yes to go ahead";
            return Err(Failure::Misused(reason.to_owned()));
        }
        eprint!("{}? [y/N] ", question().await?);
        io::stderr().flush()?;
        let unreadable = |source| Failure::Input {
            file: "the answer".to_owned(),
            source,
        };
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(unreadable)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::no("nothing was changed")),
        }
    }

    /// The same about one thing that needs no counting.
    pub(crate) async fn agree_to(self, question: String) -> Result<(), Failure> {
        self.agree(async || Ok(question)).await
    }
}

/// `1 job`, `2 jobs`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
