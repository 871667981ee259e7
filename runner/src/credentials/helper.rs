//! Programs that keep credentials elsewhere: `docker-credential-NAME get|store|erase`, the question
//! on standard input, the answer on standard output, errors there as well. Source:
//! docker-credential-helpers.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::file::server_of;
use super::{CredentialsError, Secret};

/// One that asks a person or a network and gets no answer keeps nobody for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What helpers say when they know nothing. Source: docker-credential-helpers,
/// `credentials/error.go`.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user of what is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// The user's name and secret; `None` where the helper has none.
pub(super) fn get(
    name: &str,
    file: &str,
    registry: &str,
) -> Result<Option<(String, Secret)>, CredentialsError> {
    let failed = |why: String| failure(name, file, why);
    let (ended_well, said) = ask(name, "get", server_of(registry).as_bytes()).map_err(failed)?;
    if !ended_well {
        let said = said.trim();
        return if said.contains(NOT_FOUND) { Ok(None) } else { Err(failed(words(said))) };
    }
    let answer: Answer =
        serde_json::from_str(&said).map_err(|_| failed("its answer cannot be read".to_owned()))?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == TOKEN_USER {
        (String::new(), Secret::IdentityToken(answer.secret))
    } else {
        (answer.username, Secret::Password(answer.secret))
    }))
}

pub(super) fn store(
    name: &str,
    file: &str,
    registry: &str,
    username: &str,
    secret: &Secret,
) -> Result<(), CredentialsError> {
    let (username, secret) = match secret {
        Secret::Password(password) => (username, password),
        Secret::IdentityToken(token) | Secret::RegistryToken(token) => (TOKEN_USER, token),
    };
    let question =
        json!({ "ServerURL": server_of(registry), "Username": username, "Secret": secret });
    match ask(name, "store", question.to_string().as_bytes()) {
        Ok((true, _)) => Ok(()),
        Ok((false, said)) => Err(failure(name, file, words(said.trim()))),
        Err(why) => Err(failure(name, file, why)),
    }
}

/// Whether it knew the registry.
pub(super) fn erase(name: &str, file: &str, registry: &str) -> Result<bool, CredentialsError> {
    if get(name, file, registry)?.is_none() {
        return Ok(false);
    }
    match ask(name, "erase", server_of(registry).as_bytes()) {
        Ok((true, _)) => Ok(true),
        Ok((false, said)) => Err(failure(name, file, words(said.trim()))),
        Err(why) => Err(failure(name, file, why)),
    }
}

fn failure(name: &str, file: &str, why: String) -> CredentialsError {
    CredentialsError::Helper { name: name.to_owned(), file: file.to_owned(), why }
}

fn words(said: &str) -> String {
    if said.is_empty() {
        "it failed and said nothing".into()
    } else {
        said.chars().take(300).collect()
    }
}

/// Runs it. Whether it ended well, and what it said.
fn ask(name: &str, verb: &str, question: &[u8]) -> Result<(bool, String), String> {
    if name.contains('/') {
        return Err("a helper's name is no path".into());
    }
    let program = format!("docker-credential-{name}");
    let spawned = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such program in PATH".to_owned(),
        _ => error.to_string(),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read its question has failed for another reason, which it says.
        let _ = stdin.write_all(question);
    }
    let deadline = Instant::now() + PATIENCE;
    let answer = answer_of(&mut child);
    let ended = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(ended) => break ended,
            None if answer.is_none() || Instant::now() > deadline => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let answer = answer.unwrap_or_else(|| Ok(String::new()))?;
    Ok((ended.success(), answer))
}

/// `None`: it took too long.
fn answer_of(child: &mut Child) -> Option<Result<String, String>> {
    let stdout = child.stdout.take()?;
    let (tell, told) = mpsc::channel();
    // Left behind where somebody who inherited the pipe keeps it open.
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = stdout.take(ANSWER_BYTES_MAX).read_to_string(&mut answer);
        let _ = tell.send(read.map(|_| answer).map_err(|error| error.to_string()));
    });
    told.recv_timeout(PATIENCE).ok()
}
