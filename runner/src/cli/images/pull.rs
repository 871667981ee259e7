//! `rrun pull`, and how every verb that may pull reads its flags.

use std::path::PathBuf;

use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb, print_line};
use crate::credentials::CredentialsOptions;
use crate::failure::Failure;
use crate::images::Store;
use crate::pull::{self, ProgressMode, ProgressOptions, PullOptions, PullPolicy};

pub(crate) const PULL: Verb = Verb {
    names: &["pull", "image pull"],
    operands: "REF",
    operands_min: 1,
    operands_max: 1,
    about: "Fetch an image from its registry",
    details: DETAILS,
    flags: &[
        Flag::one("platform", "OS/ARCH", "choose this image of an index"),
        Flag::switch("quiet", "print the image's name only").short('q'),
        Flag::one("progress", "auto|tty|plain|json|none", "how progress is shown (auto)"),
        CREDS,
        AUTHFILE,
        Flag::switch("plain-http", "the registry speaks HTTP"),
        Flag::switch("tls-verify", "check the registry's certificate (true)"),
        Flag::switch("disable-content-trust", ""),
        Flag::switch("all-tags", "every tag of the repository").short('a'),
    ],
    flags_end: FlagsEnd::AtDashes,
    run,
};

pub(crate) const CREDS: Flag =
    Flag::one("creds", "USER:PASSWORD", "who you are at the registry, for this once");
pub(crate) const AUTHFILE: Flag =
    Flag::one("authfile", "FILE", "where logins are kept [env REGISTRY_AUTH_FILE]");

const DETAILS: &str = "\
Layers that are here are not fetched again; what an interrupted pull has brought is kept.

A registry on the loopback (localhost:5000) may speak plain HTTP; elsewhere it is TLS, unless
--plain-http or --tls-verify=false allow something else. Authorities for one registry lie in
/etc/containers/certs.d/HOST:PORT/*.crt (or /etc/docker, ~/.config/containers, ~/.config/docker), a
certificate to show it beside them (*.cert with *.key); SSL_CERT_FILE replaces the system's.

A registry that asks who you are is told what `rrun login`, `podman login` or `docker login` has kept,
or --creds.

Redirects and token servers of a registry may not lead to addresses nearer than its own: private
networks, this host, a cloud's metadata. RRUN_TRUSTED_HOSTS=HOST,… names hosts that are exempt.";

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let text = arguments.operands[0].as_str();
    let mut options = options(arguments)?;
    options.policy = PullPolicy::Always;
    options.progress = ProgressOptions {
        mode: progress_mode(arguments.value("progress"))?,
        to_stdout: true,
        quiet: arguments.has("quiet"),
    };
    let store = globals.store()?;
    let name: shared::ImageRef = text
        .parse()
        .map_err(|error| Failure::new(format!("{text} names no image")).because(&error))?;
    let mode = options.progress.mode;
    if arguments.has("all-tags") {
        return pull_all(&store, &name, text, &options);
    }
    let lines = matches!(mode, ProgressMode::Auto | ProgressMode::Plain);
    if lines && !arguments.has("quiet") && !names_one(text) {
        print_line("Using default tag: latest")?;
    }
    let (_, _lease) = pull::ensure(&store, text, &options)?;
    print_line(&name.to_string()).map(|()| 0)
}

/// `--all-tags`
fn pull_all(
    store: &Store,
    name: &shared::ImageRef,
    text: &str,
    options: &PullOptions,
) -> Result<u8, Failure> {
    if names_one(text) {
        return Err(Failure::new("pull: a tag or digest and --all-tags contradict each other")
            .hint(format!("rrun pull --all-tags {}", crate::images::repository_of(text))));
    }
    let repository = crate::images::repository_of(text);
    for tag in pull::tags(name, options)? {
        let (_, _lease) = pull::ensure(store, &format!("{repository}:{tag}"), options)?;
    }
    print_line(crate::images::familiar_name(&name.to_string()).trim_end_matches(":latest"))?;
    Ok(0)
}

/// Whether the text says which image of a repository it means.
fn names_one(text: &str) -> bool {
    text.rsplit('/').next().unwrap_or(text).contains([':', '@'])
}

/// The flags that say how a registry is spoken to, of a verb that has them all:
/// `--platform --creds --authfile --plain-http --tls-verify`, and `--pull` where the verb has it.
///
/// # Errors
/// A platform or policy that is none.
pub(crate) fn options(arguments: &Arguments) -> Result<PullOptions, Failure> {
    let platform = arguments
        .value("platform")
        .map(str::to_owned)
        .or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok())
        .filter(|text| !text.is_empty())
        .map(|text| pull::parse_platform(&text))
        .transpose()
        .map_err(Failure::new)?;
    Ok(PullOptions {
        platform,
        plain_http: arguments.has("plain-http"),
        credentials: CredentialsOptions {
            creds: arguments.value("creds").map(str::to_owned),
            ..credentials(arguments)
        },
        tls_verify: !arguments.given("tls-verify") || arguments.has("tls-verify"),
        ..PullOptions::default()
    })
}

/// `--authfile`
pub(crate) fn credentials(arguments: &Arguments) -> CredentialsOptions {
    let authfile = arguments.value("authfile").filter(|path| !path.is_empty());
    CredentialsOptions { creds: None, authfile: authfile.map(PathBuf::from) }
}

/// `--pull`
///
/// # Errors
/// A word that is none of the four.
pub(crate) fn policy(word: Option<&str>) -> Result<PullPolicy, Failure> {
    Ok(match word {
        None | Some("missing") => PullPolicy::Missing,
        Some("always") => PullPolicy::Always,
        Some("never") => PullPolicy::Never,
        Some("newer") => PullPolicy::Newer,
        Some(other) => {
            return Err(Failure::new(format!(
                "--pull {other}: there is always, missing, never, newer"
            )));
        }
    })
}

/// `--progress`, then `RRUN_PROGRESS`.
///
/// # Errors
/// A word that is none of them.
pub(crate) fn progress_mode(word: Option<&str>) -> Result<ProgressMode, Failure> {
    let variable = std::env::var("RRUN_PROGRESS").ok().filter(|text| !text.is_empty());
    Ok(match word.or(variable.as_deref()) {
        None | Some("auto") => ProgressMode::Auto,
        Some("tty") => ProgressMode::Tty,
        Some("plain") => ProgressMode::Plain,
        Some("json" | "rawjson") => ProgressMode::Json,
        Some("none" | "quiet") => ProgressMode::None,
        Some(other) => {
            return Err(Failure::new(format!(
                "--progress {other}: there is auto, tty, plain, json, none"
            )));
        }
    })
}
