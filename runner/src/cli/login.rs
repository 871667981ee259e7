//! `rrun login`, `rrun logout`: who somebody is at a registry, proven before it is kept.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::flags::{Arguments, Flag, FlagsEnd};
use super::images::pull;
use super::{Globals, Verb, print_line, tell};
use crate::credentials::{CredentialsError, Keyring, Place, Secret};
use crate::failure::Failure;
use crate::pull::{Login, PullError, PullOptions, log_in};

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["login"],
        operands: "[HOST]",
        operands_min: 0,
        operands_max: 1,
        about: "Say who you are at a registry",
        details: LOGIN,
        flags: &[
            Flag::one("username", "NAME", "who").short('u'),
            Flag::one("password", "TEXT", "what proves it; seen by whoever lists processes")
                .short('p'),
            Flag::switch("password-stdin", "read what proves it from standard input"),
            Flag::switch("get-login", "print who is logged in there"),
            pull::AUTHFILE,
            Flag::switch("plain-http", "the registry speaks HTTP"),
            Flag::switch("tls-verify", "check the registry's certificate (true)"),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: login,
    },
    Verb {
        names: &["logout"],
        operands: "[HOST]",
        operands_min: 0,
        operands_max: 1,
        about: "Forget who you are at a registry",
        details: LOGOUT,
        flags: &[
            Flag::switch("all", "at every registry that a file knows").short('a'),
            pull::AUTHFILE,
        ],
        flags_end: FlagsEnd::AtDashes,
        run: logout,
    },
];

const LOGIN: &str = "\
The registry is asked first; only what it takes is kept. Without HOST it is Docker Hub.

  rrun login registry.example.com
  printf %s \"$TOKEN\" | rrun login -u ci --password-stdin registry.example.com

Pulls look in the files of podman and Docker, and ask the helpers that they name:
  --authfile or REGISTRY_AUTH_FILE: that file alone; else
  DOCKER_AUTH_CONFIG (JSON), $XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID without it),
  ~/.config/containers/auth.json, ~/.docker/config.json (DOCKER_CONFIG)
A login is kept where the registry stands already, else in the first of the files.";

const LOGOUT: &str = "\
It is taken out of every file that has it, and out of the helpers that these name. Without HOST it is
Docker Hub.";

fn login(_: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let host = host(arguments)?;
    let options = options(arguments);
    let keyring = Keyring::new(&options.credentials);
    let known = keyring.find(&host, None)?;
    if arguments.has("get-login") {
        let known = known.ok_or_else(|| Failure::new(format!("nobody is logged in at {host}")))?;
        return print_line(&known.username).map(|()| 0);
    }
    let username = arguments.value("username").filter(|name| !name.is_empty());
    let password = password(arguments, username)?;
    if let (None, None, Some(known)) = (username, &password, &known)
        && let Secret::Password(secret) = &known.secret
    {
        tell(format!("trying what {} has for {}", known.place, known.username));
        match log_in(&host, &known.username, secret, &options) {
            Err(PullError::Login { .. }) if io::stdin().is_terminal() => {}
            other => return told(&host, other),
        }
    }
    let username = match username {
        Some(name) => name.to_owned(),
        None => ask_username(&host, known.as_ref().map(|known| known.username.as_str()))?,
    };
    if username.contains(':') {
        return Err(Failure::new("login: a user's name holds no colon"));
    }
    let password = match password {
        Some(password) => password,
        None => ask_password(&username)?,
    };
    if password.is_empty() {
        return Err(Failure::new("login: the password is empty; nothing was kept"));
    }
    told(&host, log_in(&host, &username, &password, &options))
}

fn told(host: &str, result: Result<(Login, Place), PullError>) -> Result<u8, Failure> {
    let (login, place) = result.map_err(|error| refused(host, error))?;
    if login == Login::NotAsked {
        tell(format!("{host} asks nobody who he is: what you gave is kept, and not proven"));
    }
    if let Place::File(path) = &place {
        tell(format!("kept unencrypted in {}", path.display()));
    }
    print_line("Login Succeeded").map(|()| 0)
}

/// The words of a pull, as those of a login.
fn refused(host: &str, error: PullError) -> Failure {
    match error {
        PullError::Login { status, code, message, .. } => {
            let said = message.map_or_else(String::new, |message| format!(": {message}"));
            Failure::new(format!(
                "{host} refuses that login ({status} {code}{said}); nothing was kept"
            ))
        }
        PullError::Refused { .. } => {
            Failure::new(format!("cannot log in: nothing listens on {host} (connection refused)"))
        }
        PullError::Unreachable { why, .. } => {
            Failure::new(format!("cannot log in: {host} cannot be reached: {why}"))
        }
        PullError::Protocol { why, .. } => Failure::new(format!("cannot log in: {host} {why}")),
        PullError::Fenced { .. } | PullError::Certificate { .. } | PullError::Credentials(_) => {
            Failure::from(error)
        }
        PullError::PlainHttp { .. } => Failure::new(format!(
            "cannot log in: {host} answered plain HTTP where TLS was expected"
        ))
        .hint(format!("rrun login --plain-http {host}")),
        PullError::NotFound { .. } => {
            Failure::new(format!("cannot log in: {host} is no registry (404 for /v2/)"))
        }
        PullError::Status { status, said, .. } => {
            Failure::new(format!("cannot log in: {host} answered {status}{said}"))
        }
        other => Failure::from(other),
    }
}

fn logout(_: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let keyring = Keyring::new(&pull::credentials(arguments));
    let hosts = if arguments.has("all") {
        if !arguments.operands.is_empty() {
            return Err(Failure::new("logout: a host and --all contradict each other"));
        }
        keyring.registries()?
    } else {
        vec![host(arguments)?]
    };
    for host in hosts {
        let places = keyring.forget(&host)?;
        if places.is_empty() {
            print_line(&format!("Not logged in to {host}"))?;
        }
        for place in places {
            print_line(&format!("Removing login credentials for {host} from {place}"))?;
        }
    }
    Ok(0)
}

fn options(arguments: &Arguments) -> PullOptions {
    PullOptions {
        plain_http: arguments.has("plain-http"),
        tls_verify: !arguments.given("tls-verify") || arguments.has("tls-verify"),
        credentials: pull::credentials(arguments),
        ..PullOptions::default()
    }
}

/// The registry that is meant: people paste addresses.
fn host(arguments: &Arguments) -> Result<String, Failure> {
    let Some(text) = arguments.operands.first() else {
        return Ok(shared::reference::DEFAULT_REGISTRY.to_owned());
    };
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = host.unwrap_or(text).trim_end_matches('/');
    let host = host.strip_suffix("/v1").or_else(|| host.strip_suffix("/v2")).unwrap_or(host);
    let is_host =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c));
    if !is_host {
        return Err(Failure::new(format!("{text} is no registry's host"))
            .hint("rrun login registry.example.com"));
    }
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_ascii_lowercase(),
    })
}

fn password(arguments: &Arguments, username: Option<&str>) -> Result<Option<String>, Failure> {
    let given = arguments.value("password");
    if !arguments.has("password-stdin") {
        if given.is_some() {
            tell("whoever lists processes sees a --password; --password-stdin is not seen");
        }
        return Ok(given.map(str::to_owned));
    }
    if given.is_some() {
        return Err(Failure::new("login: --password and --password-stdin contradict each other"));
    }
    if username.is_none() {
        return Err(Failure::new("login: --password-stdin needs --username"));
    }
    let mut text = String::new();
    io::stdin()
        .take(1 << 20)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new("cannot read standard input").because(&error))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn ask_username(host: &str, known: Option<&str>) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(no_terminal());
    }
    let known = known.filter(|name| !name.is_empty());
    let shown = known.map_or_else(String::new, |name| format!(" ({name})"));
    let typed = ask(&format!("Username at {host}{shown}: "))?;
    match (typed.trim(), known) {
        ("", Some(known)) => Ok(known.to_owned()),
        ("", None) => Err(Failure::new("login: a user's name is needed")),
        (name, _) => Ok(name.to_owned()),
    }
}

fn ask_password(username: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(no_terminal());
    }
    let failed = |errno: rustix::io::Errno| {
        Failure::new("cannot hide what is typed").because(&io::Error::from(errno))
    };
    let before = tcgetattr(&stdin).map_err(failed)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(failed)?;
    let typed = ask(&format!("Password of {username}: "));
    tcsetattr(&stdin, OptionalActions::Now, &before).map_err(failed)?;
    typed
}

fn ask(question: &str) -> Result<String, Failure> {
    let mut line = String::new();
    let asked =
        write!(io::stderr(), "{question}").and_then(|()| io::stdin().lock().read_line(&mut line));
    asked.map_err(|error| Failure::new("cannot ask on the terminal").because(&error))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn no_terminal() -> Failure {
    Failure::new("login: there is no terminal to ask on")
        .hint("printf %s \"$PASSWORD\" | rrun login -u NAME --password-stdin HOST")
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        Self::from(PullError::Credentials(error))
    }
}
