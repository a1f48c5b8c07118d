//! `holdfast users`: people who log in with a password. A password comes from a prompt or from stdin, never from an
//! argument, which every process of the machine could read.

mod data;

use std::io::{self, BufRead as _, IsTerminal as _};

use holdfast_accounts::users::{MAX_PASSWORD, MIN_PASSWORD};
use holdfast_accounts::wire::{PasswordBody, RoleBody, UserBody, UserList};
use holdfast_accounts::{Role, User};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_services::{InvitationView, Program};
use secrecy::{ExposeSecret, SecretString};

use crate::args::{OperatorArgs, OutputArgs};
use crate::output::{minute, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Add a user; the password comes from a prompt, or from stdin's first line
    Add {
        /// A name or an e-mail address; case-insensitive
        name: String,
        /// What the user may do: viewer (read), operator (produce, read), admin (everything)
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// Ask for no password: mail the user, whose name is an address, a link to set one
        #[arg(long)]
        invite: bool,
    },
    /// Mail a user, whose name is an address, a link to set a password
    Invite(One),
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
    },
    /// Show a user, by name or id
    Show(One),
    /// Print all that is kept about a user, as JSON
    Export(data::UserArg),
    /// Delete a user and all that is kept about the user; sessions end within ten seconds
    Delete(data::DeleteArgs),
    /// List every user
    List,
}

/// One user.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The user's name
    name: String,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let output = args.output;
    let api = args.target.open(program).await?;
    let (document, done) = match args.command {
        Command::Invite(One { name }) => return invite(&api, &name, output).await,
        Command::Add {
            name,
            role,
            invite: true,
        } => {
            if !name.contains('@') {
                let reason = "--invite: the name is not a mail address; leave it out to set a password";
                return Err(Failure::Misused(reason.to_owned()));
            }
            let body = UserBody {
                name: name.clone(),
                role,
                password: None,
            };
            api.post_json(&["v1", "users"], &body, None).await?;
            return invite(&api, &name, output).await;
        }
        Command::Add { name, role, .. } => {
            let password = Some(password()?);
            let body = UserBody { name, role, password };
            (api.post_json(&["v1", "users"], &body, None).await?, "made")
        }
        Command::Disable(One { name }) => (api.post(&["v1", "users", &name, "disable"]).await?, "disabled"),
        Command::Enable(One { name }) => (api.post(&["v1", "users", &name, "enable"]).await?, "enabled"),
        Command::Passwd(One { name }) => {
            let password = password()?;
            let path = ["v1", "users", &name, "password"];
            let document = api.put_json(&path, &PasswordBody { password }).await?;
            (document, "set the password of")
        }
        Command::Role { name, role } => {
            let path = ["v1", "users", &name, "role"];
            (api.put_json(&path, &RoleBody { role }).await?, "changed")
        }
        Command::Show(One { name }) => return show(&api, &name, output).await,
        Command::Export(whom) => return data::export(&api, &whom).await,
        Command::Delete(args) => return data::delete(&api, &args, output).await,
        Command::List => return list(&api, output).await,
    };
    let user: User = api.read(&document)?;
    output.print(&document, || {
        format!("{done} {} ({}, {})", user.name, user.role, user.id)
    })
}

async fn invite(api: &Api, name: &str, output: OutputArgs) -> Result<(), Failure> {
    let document = api.post(&["v1", "users", name, "invite"]).await?;
    let sent: InvitationView = api.read(&document)?;
    output.print(&document, || format!("invited {} (job {})", sent.to, sent.job))
}

async fn show(api: &Api, name: &str, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "users", name], &[]).await?;
    let user: User = api.read(&document)?;
    output.print(&document, || users_table(vec![user]))
}

fn users_table(users: Vec<User>) -> String {
    let rows: Vec<_> = users.into_iter().map(row).collect();
    table(["ID", "NAME", "ROLE", "STATE", "CREATED"], &rows)
}

async fn list(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "users"], &[]).await?;
    let list: UserList = api.read(&document)?;
    output.print(&document, || users_table(list.users))
}

fn row(user: User) -> [String; 5] {
    let state = match user.disabled_at {
        Some(at) => format!("disabled {}", minute(Some(at))),
        None => "enabled".to_owned(),
    };
    [
        user.id.to_string(),
        user.name,
        user.role.to_string(),
        state,
        minute(Some(user.created_at)),
    ]
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
