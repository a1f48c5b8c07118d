//! `holdfast users`: people who log in with a password, straight in the database. A password comes from a prompt or
//! from stdin, never from an argument, which every process of the machine could read.

mod data;

use std::io::{self, BufRead as _, IsTerminal as _};

use holdfast_accounts::users::{MAX_PASSWORD, MIN_PASSWORD};
use holdfast_accounts::{Role, User, Users};
use holdfast_jobs::audit::{Actor, By};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::args::OutputArgs;
use crate::output::table;
use holdfast_ops::Failure;
use holdfast_ops::local::Local;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Add a user; the password comes from a prompt, or from stdin's first line
    Add {
        /// A name or an e-mail address; case-insensitive
        name: String,
        /// What the user may do: viewer (read), operator (produce, read), admin (everything)
        #[arg(long, default_value = "viewer")]
        role: Role,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Lock a user out; sessions end within ten seconds
    Disable(One),
    /// Let a disabled user in again
    Enable(One),
    /// Set a password, from a prompt or from stdin's first line; sessions end within ten seconds
    Passwd(One),
    /// Give a user another role; sessions end within ten seconds
    Role {
        /// The user's name
        name: String,
        /// viewer, operator or admin
        role: Role,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print all that is kept about a user, as JSON
    Export(data::Whom),
    /// Delete a user and all that is kept about the user; sessions end within ten seconds
    Delete(data::DeleteArgs),
    /// List every user
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// One user.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The user's name
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let local = Local::open().await?;
    let users = Users::new(local.database.clone(), local.settings.auth.max_concurrent_hashes);
    let by = By::new(Actor::cli());
    match command {
        Command::Add { name, role, output } => {
            let user = users.create(&name, role, &password()?, &by).await?;
            print(&user, "made", output)
        }
        Command::Disable(One { name, output }) => changed(
            &name,
            users.set_enabled(&name, false, &by).await?,
            "disabled",
            output,
        ),
        Command::Enable(One { name, output }) => changed(
            &name,
            users.set_enabled(&name, true, &by).await?,
            "enabled",
            output,
        ),
        Command::Passwd(One { name, output }) => {
            let set = users.set_password(&name, &password()?, &by).await?;
            changed(&name, set, "set the password of", output)
        }
        Command::Role { name, role, output } => {
            changed(&name, users.set_role(&name, role, &by).await?, "changed", output)
        }
        Command::Export(whom) => data::export(&local, &users, &whom).await,
        Command::Delete(args) => data::delete(&local, &users, &by, args).await,
        Command::List { output } => list(&users, output).await,
    }
}

fn changed(name: &str, user: Option<User>, done: &str, output: OutputArgs) -> Result<(), Failure> {
    let user = user.ok_or_else(|| Failure::no(format!("there is no user {name}")))?;
    print(&user, done, output)
}

fn print(user: &User, done: &str, output: OutputArgs) -> Result<(), Failure> {
    output.print(user, || {
        format!("{done} {} ({}, {})", user.name, user.role, user.id)
    })
}

async fn list(users: &Users, output: OutputArgs) -> Result<(), Failure> {
    const TIME: &str = "%Y-%m-%d %H:%M";
    let users = users.list().await?;
    output.print(&json!({ "users": users }), || {
        let rows: Vec<_> = users
            .iter()
            .map(|user| {
                let state = match user.disabled_at {
                    Some(at) => format!("disabled {}", at.format(TIME)),
                    None => "enabled".to_owned(),
                };
                let created = user.created_at.format(TIME).to_string();
                [
                    user.id.to_string(),
                    user.name.clone(),
                    user.role.to_string(),
                    state,
                    created,
                ]
            })
            .collect();
        table(["ID", "NAME", "ROLE", "STATE", "CREATED"], &rows)
    })
}

/// From a terminal twice, unseen; else the first line of stdin.
fn password() -> Result<SecretString, Failure> {
    let unreadable = |source| Failure::Input {
        file: "the password".to_owned(),
        source,
    };
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(unreadable)?;
        let end = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(end);
        return Ok(SecretString::from(line));
    }
    let ask = |text: String| rpassword::prompt_password(text).map(SecretString::from);
    let first = ask(format!("password ({MIN_PASSWORD} to {MAX_PASSWORD} bytes): ")).map_err(unreadable)?;
    let second = ask("again: ".to_owned()).map_err(unreadable)?;
    if first.expose_secret() != second.expose_secret() {
        return Err(Failure::no("the two are not the same"));
    }
    Ok(first)
}
