//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;

use crate::container::{HOST_GATEWAY, Hosts, Network, Record};
use crate::isolate::EtcFile;
use crate::net::{self, Attached};

/// Writes the files into `directory` and makes detached mounts of them. Those of a container whose
/// network is another one's are that one's files, which lie in the directory `of_other`. Their owner
/// is the container's root: `owner`, where it has ids of its own.
///
/// # Errors
/// When they cannot be written.
pub(super) fn write(
    directory: &Path,
    record: &Record,
    of_other: Option<&Path>,
    attached: Option<&Attached>,
    owner: Option<(u32, u32)>,
) -> io::Result<Vec<EtcFile>> {
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let shares_network = record.network == Network::Host;
    let gateway = attached.and_then(net::gateway_of).map(|gateway| gateway.to_string());
    let mut names = hosts(&record.hosts, shares_network, &host("/etc/hosts"), gateway.as_deref());
    names.push_str(&own_name(&record.hosts, attached));
    let files = [
        ("/etc/hosts", "hosts", names),
        ("/etc/hostname", "hostname", format!("{}\n", record.hosts.hostname)),
        (
            "/etc/resolv.conf",
            "resolv.conf",
            match attached.is_some_and(|attached| servers_to_ask(record, attached).is_some()) {
                true => own_resolver(&record.hosts, &host("/etc/resolv.conf")),
                false => resolver(
                    &record.hosts,
                    shares_network,
                    &if shares_network { host("/etc/resolv.conf") } else { reachable(&host) },
                ),
            },
        ),
    ];
    // Those of an earlier run may still be mounted somewhere, and are written to there.
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            for (_, name, _) in &files {
                match fs::remove_file(directory.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        other => other?,
    }
    let mut opened = Vec::new();
    for (target, name, text) in files {
        let path = directory.join(name);
        match of_other {
            // A link, so that they are there for as long as either container needs them.
            Some(theirs) => fs::hard_link(theirs.join(name), &path)?,
            None => {
                let mut file = fs::File::create_new(&path)?;
                file.write_all(text.as_bytes())?;
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
                if let Some((uid, gid)) = owner {
                    std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
                }
            }
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        // Whoever may not mount here leaves it to the child, which may.
        let tree = match rustix::mount::open_tree(CWD, &path, flags) {
            Err(rustix::io::Errno::PERM) => None,
            other => Some(other?),
        };
        opened.push(EtcFile { target, path, tree });
    }
    Ok(opened)
}

/// The container's first address under its own name, as Docker has it.
fn own_name(hosts: &Hosts, attached: Option<&Attached>) -> String {
    let Some(first) = attached.and_then(|attached| attached.networks.first()) else {
        return String::new();
    };
    let (name, domain) = (&hosts.hostname, &hosts.domainname);
    match domain.as_str() {
        "" => format!("{}\t{name}\n", first.ipv4),
        domain => format!("{}\t{name}.{domain} {name}\n", first.ipv4),
    }
}

/// Whom the container's own resolver asks, if it has one: on networks with names, and where the
/// host's servers cannot be reached from another network.
pub(super) fn servers_to_ask(record: &Record, attached: &Attached) -> Option<Vec<IpAddr>> {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let has_names = attached.networks.iter().any(|one| !one.names.is_empty());
    let asked = servers(record.hosts.dns.iter().map(String::as_str));
    if !asked.is_empty() {
        return has_names.then_some(asked);
    }
    let of_host = servers(host.lines().filter_map(server_of));
    let is_cut_off = || {
        let text = reachable(&|path: &str| fs::read_to_string(path).unwrap_or_default());
        let mut all = text.lines().filter_map(server_of).filter_map(|one| one.parse().ok());
        !of_host.is_empty() && all.all(|one: IpAddr| one.is_loopback())
    };
    (has_names || is_cut_off()).then_some(of_host)
}

fn server_of(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next())?
}

fn servers<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// With the container's own resolver: single words are names too (`ndots:0`).
fn own_resolver(hosts: &Hosts, of_host: &str) -> String {
    let mut hosts = hosts.clone();
    hosts.dns = vec![net::resolver::ADDRESS.to_string()];
    let options = of_host.lines().filter_map(|line| line.strip_prefix("options "));
    if hosts.dns_options.is_empty() {
        hosts.dns_options = options.flat_map(str::split_whitespace).map(str::to_owned).collect();
        hosts.dns_options.retain(|option| !option.starts_with("ndots:"));
    }
    if !hosts.dns_options.iter().any(|option| option.starts_with("ndots:")) {
        hosts.dns_options.push("ndots:0".to_owned());
    }
    resolver(&hosts, false, of_host)
}

/// The host's name servers. Where systemd-resolved serves them on loopback, those that it asks.
fn reachable(host: &impl Fn(&str) -> String) -> String {
    let of_host = host("/etc/resolv.conf");
    let asks_itself = |line: &str| line.split_whitespace().eq(["nameserver", "127.0.0.53"]);
    let behind = host("/run/systemd/resolve/resolv.conf");
    if of_host.lines().any(asks_itself) && !behind.is_empty() { behind } else { of_host }
}

/// With the host's network its own names count too.
fn hosts(hosts: &Hosts, shares_network: bool, of_host: &str, gateway: Option<&str>) -> String {
    let mut text = if shares_network && !of_host.is_empty() {
        let end = if of_host.ends_with('\n') { "" } else { "\n" };
        format!("{of_host}{end}")
    } else {
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
            .to_owned()
    };
    for (name, address) in &hosts.added {
        let address = match address.as_str() {
            // Without a network of its own this host is as near as can be.
            HOST_GATEWAY => gateway.unwrap_or("127.0.0.1"),
            address => address,
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// What was asked for, else the host's. Name servers on the host's loopback cannot be reached from
/// another network namespace.
fn resolver(hosts: &Hosts, shares_network: bool, of_host: &str) -> String {
    let mut text = String::new();
    let asked = |name: &str| match name {
        "nameserver" => !hosts.dns.is_empty(),
        "search" | "domain" => !hosts.dns_search.is_empty(),
        "options" => !hosts.dns_options.is_empty(),
        _ => false,
    };
    for line in of_host.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let unreachable = !shares_network
            && name == "nameserver"
            && value.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !asked(name) && !unreachable {
            text.push_str(line);
            text.push('\n');
        }
    }
    // `--dns-search .` is Docker's word for none.
    let search: Vec<&str> =
        hosts.dns_search.iter().map(String::as_str).filter(|name| *name != ".").collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in &hosts.dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !hosts.dns_options.is_empty() {
        text.push_str(&format!("options {}\n", hosts.dns_options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_that_can_be_reached() {
        let host = "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch lan\noptions edns0\n";
        let mut asked = Hosts::default();
        assert_eq!(
            resolver(&asked, false, host),
            "nameserver 10.0.0.1\nsearch lan\noptions edns0\n"
        );
        assert_eq!(resolver(&asked, true, host), host);
        asked.dns = vec!["1.2.3.4".into()];
        asked.dns_search = vec![".".into()];
        assert_eq!(resolver(&asked, false, host), "options edns0\nnameserver 1.2.3.4\n");
    }

    #[test]
    fn single_words_are_names_of_the_own_resolver() {
        let host = "nameserver 127.0.0.53\nsearch lan\noptions edns0 ndots:3\n";
        let mut asked = Hosts::default();
        let own = "search lan\nnameserver 127.0.0.11\noptions edns0 ndots:0\n";
        assert_eq!(own_resolver(&asked, host), own);
        asked.dns_options = vec!["ndots:2".into()];
        asked.dns = vec!["1.2.3.4".into()];
        let own = "search lan\nnameserver 127.0.0.11\noptions ndots:2\n";
        assert_eq!(own_resolver(&asked, host), own);
    }

    #[test]
    fn names_that_were_added() {
        let added = Hosts { added: vec![("db".into(), "10.1.1.1".into())], ..Hosts::default() };
        let text = hosts(&added, false, "x", None);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n") && text.ends_with("10.1.1.1\tdb\n"));
        assert_eq!(hosts(&added, true, "1.1.1.1 a", None), "1.1.1.1 a\n10.1.1.1\tdb\n");
    }
}
