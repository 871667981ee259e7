//! Who may log in: changing the file of `auth.htpasswd`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use registry::auth::{COST_NEW, Htpasswd, is_user, with_user, without_user};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Longest password; bcrypt looks at its first 72 bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Add a user, or give one another password; it is read from standard input
    #[command(visible_alias = "passwd")]
    Add {
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a user
    #[command(visible_alias = "rm")]
    Remove {
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// List the users
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
pub(crate) struct Place {
    /// The file [default: auth.htpasswd.path of the configuration]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The server's configuration file
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
}

impl Command {
    fn place(&self) -> &Place {
        match self {
            Self::Add { place, .. } | Self::Remove { place, .. } | Self::List { place } => place,
        }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.place().file.as_deref()
    }

    pub(crate) fn config(&self) -> Option<&Path> {
        self.place().config.as_deref()
    }
}

pub(crate) fn run(command: &Command, file: &Path) -> ExitCode {
    let done = match command {
        Command::Add { name, .. } => add(name, file),
        Command::Remove { name, .. } => remove(name, file),
        Command::List { .. } => list(file),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry: {error}");
            ExitCode::FAILURE
        }
    }
}

fn add(name: &str, file: &Path) -> Result<(), String> {
    if !is_user(name) {
        return Err(format!(
            "{name:?} cannot be a user's name: it holds a space or a colon, or begins with #, or is empty"
        ));
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    Htpasswd::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let password = password(name).map_err(|error| format!("the password: {error}"))?;
    let hash = bcrypt::hash(&password, COST_NEW).map_err(|error| error.to_string())?;
    write(file, &with_user(&text, name, &hash))
        .map_err(|error| format!("{}: {error}\nhint: its line is {name}:{hash}", file.display()))
}

fn remove(name: &str, file: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(failed)?;
    let left = without_user(&text, name)
        .ok_or_else(|| format!("{}: there is no user {name}", file.display()))?;
    write(file, &left).map_err(failed)
}

fn list(file: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    let users = Htpasswd::parse(&text).map_err(|error| failed(&error))?;
    for warning in users.warnings() {
        eprintln!("registry: {}", failed(warning));
    }
    let mut lines: String = users.names().join("\n");
    if !lines.is_empty() {
        lines.push('\n');
    }
    io::stdout().write_all(lines.as_bytes()).map_err(|error| error.to_string())
}

/// From standard input: without an echo where that is a terminal, and up to the line's end.
fn password(name: &str) -> io::Result<String> {
    let input = io::stdin();
    let before = input.is_terminal().then(|| tcgetattr(&input)).transpose()?;
    if let Some(before) = &before {
        eprint!("Password of {name}: ");
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &quiet)?;
    }
    let mut text = String::new();
    let read = match &before {
        Some(_) => input.read_line(&mut text).map(drop),
        None => input.lock().take(PASSWORD_BYTES_MAX).read_to_string(&mut text).map(drop),
    };
    if let Some(before) = &before {
        tcsetattr(&input, OptionalActions::Flush, before)?;
        eprintln!();
    }
    read?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(io::Error::other("there is none: give it on standard input"));
    }
    if password.len() > 72 {
        eprintln!("registry: bcrypt looks at the first 72 bytes of a password alone");
    }
    Ok(password.to_owned())
}

/// A new file in the old one's place, of the same owner and mode: whoever reads sees one or the
/// other. Durable when this returns.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(name);
    let old = std::fs::metadata(file).ok();
    let mut new = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = (|| {
        if let Some(old) = &old {
            std::os::unix::fs::fchown(&new, Some(old.uid()), Some(old.gid()))?;
            new.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&beside, file)?;
        let directory = file.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}
