//! `holdfast users export` and `holdfast users delete`: all that is kept about a user.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use holdfast::product::{Process, UserName};
use holdfast::{DeleteOptions, UserData};
use holdfast_accounts::Users;
use holdfast_cache::Cache;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::By;
use serde_json::json;

use crate::args::OutputArgs;
use holdfast_ops::Failure;
use holdfast_ops::local::Local;

/// Somebody about whom something is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Whom {
    /// A user's name or id, or the name that an application's interactions and subscriptions give its user
    user: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    whom: Whom,
    /// End the API keys that the user made, too
    #[arg(long)]
    revoke_keys: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints one JSON object, piece by piece.
pub(super) async fn export(local: &Local, users: &Users, whom: &Whom) -> Result<(), Failure> {
    let user = resolved(users, &whom.user).await?;
    let (user_data, _) = user_data(local).await?;
    let mut export = user_data.export(&user).await?;
    while let Some(piece) = export.next().await? {
        // Each piece by itself: nothing holds the terminal while the database is read.
        io::stdout().lock().write_all(&piece)?;
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

pub(super) async fn delete(local: &Local, users: &Users, by: &By, args: DeleteArgs) -> Result<(), Failure> {
    let user = resolved(users, &args.whom.user).await?;
    agreed(&args)?;
    let (user_data, cache) = user_data(local).await?;
    let keys = user_data.made_keys(&user).await?;
    let done = user_data
        .delete(
            by,
            &user,
            DeleteOptions {
                revoke_keys: args.revoke_keys,
            },
        )
        .await?;
    cache.sessions().revoke_all(user.as_str()).await;
    let shown = json!({ "id": user, "deleted": true, "removed": done, "keys": keys });
    args.output.print(&shown, || {
        let left = match (keys.len(), args.revoke_keys) {
            (0, _) => String::new(),
            (made, true) => format!("; {made} API keys that the user made are revoked"),
            (made, false) => format!(
                "; {made} API keys that the user made are in force: {}",
                keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ")
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

/// The id of the account of this name; what is no account's name stands for itself.
async fn resolved(users: &Users, given: &str) -> Result<UserName, Failure> {
    let name = given.to_lowercase();
    let known = users.list().await?;
    let id = known
        .iter()
        .find(|user| user.name == name)
        .map_or_else(|| given.to_owned(), |user| user.id.to_string());
    id.parse()
        .map_err(|fault| Failure::no(format!("a user's name {fault}")))
}

/// With the cache, in which lists and sessions are.
async fn user_data(local: &Local) -> Result<(UserData, Cache), Failure> {
    let (jobs, _) = local.jobs().await?;
    let redis = &local.settings.redis;
    let gate = RedisGate::open(Role::Cache, redis.cache.as_ref(), redis)?;
    gate.wait_ready(holdfast_ops::local::REDIS_DEADLINE).await;
    let cache = Cache::open(gate, &local.settings.cache);
    let process = Process {
        settings: &local.settings,
        database: &local.database,
        jobs: &jobs,
    };
    Ok((UserData::new(process, &cache), cache))
}

/// Asks on the terminal; without one, `--yes` must have been given.
fn agreed(args: &DeleteArgs) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Misused(
            "there is no terminal to confirm: give --yes to delete the user and all stored data about the user"
                .to_owned(),
        ));
    }
    let name = &args.whom.user;
    eprint!("Delete {name} and all stored data about {name}? This cannot be undone. Type the name again: ");
    io::stderr().flush()?;
    let unreadable = |source| Failure::Input {
        file: "the answer".to_owned(),
        source,
    };
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(unreadable)?;
    if line.trim() == name {
        Ok(())
    } else {
        Err(Failure::no("nothing was deleted"))
    }
}
