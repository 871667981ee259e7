//! How a container is shown: the words and keys are Docker's.

use serde_json::{Value, json};

use crate::cli::listing::LABEL;
use crate::container::{Network, Record};
use crate::images::familiar_name;
use crate::launch::state::Status;
use crate::timestamp::Timestamp;

/// `running`
pub(super) fn state_word(status: &Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running(_) => "running",
        Status::Paused(_) => "paused",
        Status::Exited(_) => "exited",
        Status::Orphaned(_) => "dead",
    }
}

/// `Up 5 minutes`, `Exited (0) 3 hours ago`
pub(super) fn status_text(status: &Status, now: Timestamp) -> String {
    let since = |text: &str| Timestamp::parse(text).map_or_else(String::new, |at| at.age(now));
    match status {
        Status::Created => "Created".to_owned(),
        Status::Running(state) => format!("Up {}", since(&state.started)),
        Status::Paused(state) => format!("Up {} (Paused)", since(&state.started)),
        Status::Exited(ended) => {
            format!("Exited ({}) {} ago", ended.exit.status(), since(&ended.finished))
        }
        Status::Orphaned(_) => "Dead".to_owned(),
    }
}

pub(super) fn network_word(network: &Network) -> String {
    match network {
        Network::None => "none".to_owned(),
        Network::Host => "host".to_owned(),
        Network::Container(id) => format!("container:{id}"),
        Network::Bridge(all) => all.first().map_or_else(String::new, |one| one.network.clone()),
    }
}

/// The names of all of a container's networks.
pub(super) fn network_names(network: &Network) -> Vec<String> {
    match network {
        Network::Bridge(all) => all.iter().map(|one| one.network.clone()).collect(),
        other => vec![network_word(other)],
    }
}

pub(super) fn arguments(record: &Record) -> &[String] {
    record.spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

/// The command in one line: words with spaces in them stand between quotes, but for the first.
fn command(arguments: &[String]) -> String {
    let mut words = arguments.iter();
    let mut line = words.next().cloned().unwrap_or_default();
    for word in words {
        line.push(' ');
        if word.contains(' ') {
            line.extend(["'", word, "'"]);
        } else {
            line.push_str(word);
        }
    }
    line
}

/// A row of `ps`.
pub(super) fn row(
    record: &Record,
    status: &Status,
    ports: String,
    now: Timestamp,
    whole: bool,
) -> Value {
    let created = Timestamp::parse(&record.created);
    let command = command(arguments(record));
    let command = if whole || command.chars().count() <= 20 {
        command
    } else {
        command.chars().take(19).chain(['…']).collect()
    };
    let id = if whole { record.id.clone() } else { record.id[..12].to_owned() };
    let labels: Vec<String> = record.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mounts: Vec<String> = record
        .volumes
        .iter()
        .map(|volume| {
            if whole || volume.name.len() <= 15 {
                volume.name.clone()
            } else {
                volume.name.chars().take(14).chain(['…']).collect()
            }
        })
        .collect();
    let running = created.map_or_else(String::new, |at| format!("{} ago", at.age(now)));
    json!({
        // Go's quoting, which Docker shows.
        "Command": format!("{command:?}"),
        "CreatedAt": created.map_or_else(String::new, Timestamp::to_readable),
        "ID": id,
        "Image": familiar_image(record),
        LABEL: record.labels,
        "Labels": labels.join(","),
        "LocalVolumes": record.volumes.len().to_string(),
        "Mounts": mounts.join(","),
        "Names": record.name,
        "Networks": network_names(&record.network).join(","),
        "Ports": ports,
        "RunningFor": running,
        "Size": "0B",
        "State": state_word(status),
        "Status": status_text(status, now),
    })
}

/// The image as people type it; `latest` goes without saying, as with Docker.
pub(super) fn familiar_image(record: &Record) -> &str {
    let name = familiar_name(&record.image.reference);
    name.strip_suffix(":latest").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_docker_shows_them() {
        let words = ["sh", "-c", "echo \"a\"", "b"].map(str::to_owned);
        assert_eq!(command(&words), "sh -c 'echo \"a\"' b");
        assert_eq!(command(&[]), "");
    }
}
