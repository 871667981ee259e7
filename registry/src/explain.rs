//! `registry access explain`: what the rules mean, without a server.

use std::process::ExitCode;

use registry::auth::{Action, Decision, Htpasswd, Subject, decide, grants};
use registry::config::Config;

/// Exit code for a word that cannot be.
const EXIT_USAGE: u8 = 2;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Say whether somebody may do something, and by which rules; exit 0: yes, 1: no, 2: there is no
    /// such user or action
    Explain {
        /// A user's name, or `anonymous`
        user: String,
        /// A repository's name; it need not be there
        repository: String,
        /// pull, create, push (which moves tags, too) or delete
        action: String,
        /// Configuration file
        #[arg(long, value_name = "CONFIG")]
        config: Option<std::path::PathBuf>,
    },
}

pub(crate) fn run(command: &Command, config: &Config) -> ExitCode {
    let Command::Explain { user, repository, action, .. } = command;
    explain(config, user, repository, action).unwrap_or_else(|message| {
        eprintln!("registry: {message}");
        ExitCode::from(EXIT_USAGE)
    })
}

fn explain(config: &Config, user: &str, name: &str, action: &str) -> Result<ExitCode, String> {
    let actions: &[Action] = match action {
        "pull" => &[Action::Pull],
        "create" => &[Action::Create],
        "push" => &[Action::Create, Action::Overwrite],
        "delete" => &[Action::Delete],
        other => return Err(format!("{other:?}: there is pull, create, push and delete")),
    };
    let repository: shared::RepoName = name.parse().map_err(|error| format!("{name}: {error}"))?;
    let rules = config.rules.as_ref();
    if config.accounts.is_none() && rules.is_none() {
        println!("yes: there are no accounts, and everybody may do everything");
        return Ok(ExitCode::SUCCESS);
    }
    let subject = match &config.accounts {
        _ if user == "anonymous" => Subject::Anonymous,
        None => return Err(format!("there is no user {user}: there are none (auth.htpasswd)")),
        Some(accounts) => {
            let path = accounts.path.display();
            let text = std::fs::read_to_string(&accounts.path);
            let text = text.map_err(|error| format!("{path}: {error}"))?;
            let users = Htpasswd::parse(&text).map_err(|error| format!("{path}: {error}"))?;
            if !users.names().contains(&user) {
                return Err(format!("there is no user {user} in {path}"));
            }
            Subject::User(user.to_owned())
        }
    };
    let decisions = actions.iter().map(|one| decide(rules, &subject, repository.as_str(), *one));
    let denied = decisions.into_iter().find_map(|decision| match decision {
        Decision::Denied(why) => Some(why),
        Decision::Granted => None,
    });
    match &denied {
        Some(why) => println!("no: {why}"),
        None => println!("yes: {subject} may {action} in {repository}"),
    }
    for number in grants(rules, &subject, repository.as_str()).by {
        if let Some(rule) = rules.and_then(|rules| rules.rules.get(number)) {
            println!("  rule {}   {}", number + 1, rule.text);
        }
    }
    Ok(if denied.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
