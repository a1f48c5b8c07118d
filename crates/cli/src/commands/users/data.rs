//! `holdfast users export` and `holdfast users delete`: all that is kept about a user.

use std::io::{self, Write as _};

use holdfast_accounts::User;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_services::DeletedUser;

use crate::args::{OutputArgs, query};
use crate::confirm::ConfirmArgs;

/// A user about whom data is stored.
#[derive(Debug, clap::Args)]
pub(crate) struct UserArg {
    /// A user's name or id, or the name that an application's interactions and subscriptions give its user
    user: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    whom: UserArg,
    /// End the API keys that the user made, too
    #[arg(long)]
    revoke_keys: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// Prints one JSON object, piece by piece.
pub(super) async fn export(api: &Api, whom: &UserArg) -> Result<(), Failure> {
    let id = resolved(api, &whom.user).await?;
    // Each piece by itself: nothing holds the terminal while the database is read.
    let print = |piece: &[u8]| io::stdout().lock().write_all(piece);
    api.copy(&["v1", "users", &id, "export"], print).await?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

pub(super) async fn delete(api: &Api, args: &DeleteArgs, output: OutputArgs) -> Result<(), Failure> {
    let id = resolved(api, &args.whom.user).await?;
    let name = &args.whom.user;
    args.confirm
        .agree_to(format!("Delete {name} and all stored data about {name}"))
        .await?;
    let query = query([("revoke_keys", args.revoke_keys.then(|| "true".to_owned()))]);
    let document = api.delete(&["v1", "users", &id], &query).await?;
    let done: DeletedUser = api.read(&document)?;
    output.print(&document, || {
        let names: Vec<_> = done.keys.iter().map(|key| key.name.as_str()).collect();
        let left = match (names.len(), args.revoke_keys) {
            (0, _) => String::new(),
            (made, true) => format!("; {made} API keys that the user made are revoked"),
            (made, false) => format!(
                "; {made} API keys that the user made are in force: {}",
                names.join(", ")
            ),
        };
        format!(
            "deleted {}: {} interactions, {} subscriptions, {} rows of mail, {} deliveries; {} jobs and {} audit entries \
             no longer name the user{left}",
            args.whom.user,
            done.interactions,
            done.subscriptions,
            done.mail,
            done.deliveries,
            done.jobs,
            done.audit
        )
    })
}

/// The id of the account with this name or id; anything else is a user id of the application.
async fn resolved(api: &Api, given: &str) -> Result<String, Failure> {
    match api.get(&["v1", "users", given], &[]).await {
        Ok(document) => Ok(api.read::<User>(&document)?.id.to_string()),
        Err(error) if error.is_not_found() => Ok(given.to_owned()),
        Err(error) => Err(error.into()),
    }
}
