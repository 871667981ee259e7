//! The network of containers for which nobody names one.

use std::process::Command;

use crate::container::support::{Said, said};
use crate::net::site::{NEIGHBOUR, Site, on_site, tool};

/// `rrun FLAGS IMAGE COMMAND` as people call it, with these words before it.
fn run(site: &Site, before: &[&str], flags: &[&str], command: &[&str]) -> Said {
    let words = site.host.words(&["--rm"], flags, command);
    let program = env!("CARGO_BIN_EXE_rrun");
    let line = [before, &[program], &words[..]].concat();
    let mut started = Command::new(line[0]);
    site.host.environment(started.args(&line[1..]));
    said(started.env_remove("RRUN_NETWORK").output().unwrap())
}

#[test]
fn is_a_bridge() {
    on_site(|site| {
        let ping = ["ping", "-c", "1", "-W", "5", NEIGHBOUR];
        let reached = run(site, &[], &[], &ping);
        assert_eq!((reached.code, reached.err.as_str()), (0, ""), "{reached:?}");
        assert!(site.host.ok(&["network", "ls"]).contains("bridge"));
        let flags = ["-d", "--name", "box"];
        assert_eq!(run(site, &[], &flags, &["sleep", "100"]).code, 0);
        let mode = "{{.HostConfig.NetworkMode}} {{len .NetworkSettings.Networks}}";
        assert_eq!(site.inspect(mode, "box"), "bridge 1");
        assert!(!site.address("box").is_empty());
        site.host.ok(&["rm", "-f", "box"]);
        // Whoever asks for none, on the command line or for all, gets none.
        for words in [&["--network", "none"][..], &[]] {
            let said = site.host.run(words, &["ip", "-o", "link"]);
            assert!(said.code == 0 && !said.out.contains("eth0"), "{said:?}");
        }
    });
}

#[test]
fn is_none_where_it_cannot_be_made_and_says_what_is_missing() {
    on_site(|site| {
        let without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
        let said = run(site, &without, &[], &["ip", "-o", "link"]);
        assert!(said.code == 0 && !said.out.contains("eth0"), "{said:?}");
        let expected = "rrun: the container has no network: this host lacks CAP_NET_ADMIN\n";
        assert_eq!(said.err, expected);
        for flags in [&["-p", "8080:80"][..], &["--network", "bridge"], &["-P"]] {
            let said = run(site, &without, flags, &["true"]);
            assert!(said.code == 125 && said.err.contains("CAP_NET_ADMIN is missing"), "{said:?}");
        }
        let said = run(site, &without, &["--network", "none"], &["true"]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        // What is running says so, and has it with its next start.
        let flags = ["--name", "box", "-d"];
        let made = site.host.words(&flags, &[], &["sleep", "100"]);
        let program = env!("CARGO_BIN_EXE_rrun");
        let line = [&without[..], &[program], &made].concat();
        let mut started = Command::new(line[0]);
        site.host.environment(started.args(&line[1..]));
        assert_eq!(said_of(started.env_remove("RRUN_NETWORK")).code, 0);
        let networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
        assert_eq!(site.inspect(networks, "box"), "none");
        site.host.ok(&["stop", "-t", "0", "box"]);
        site.host.ok(&["start", "box"]);
        assert_eq!(site.inspect(networks, "box"), "bridge");
        site.host.ok(&["rm", "-f", "box"]);
        assert!(tool(&["ip", "-br", "link"]).contains("rrun-"));
    });
}

fn said_of(command: &mut Command) -> Said {
    said(command.output().unwrap())
}
