//! Names between containers: who is found by which, and who answers for what is outside.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::container::support::{Said, until};
use crate::net::networks::address_in;
use crate::net::site::{HOST, NEIGHBOUR, Site, on_site};

/// A name server of somebody's, in the neighbour's network; it ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The neighbour's dnsmasq, which knows `far.test` and a text too long for one datagram.
fn server(site: &Site) -> Server {
    let long = format!("--txt-record=long.test,{}", vec!["x".repeat(250); 8].join(","));
    site.outside(|| dnsmasq(&["--address=/far.test/203.0.113.7", &long]))
}

/// Serves at every address of this thread's network.
fn dnsmasq(words: &[&str]) -> Server {
    let always = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"];
    let child = Command::new("dnsmasq")
        .args(always)
        .args(["--pid-file=", "--user=root"])
        .args(words)
        .stderr(Stdio::null())
        .spawn();
    Server(child.unwrap())
}

/// Does something in a container's network.
fn inside<T: Send + 'static>(
    site: &Site,
    name: &str,
    what: impl FnOnce() -> T + Send + 'static,
) -> T {
    let pid = site.inspect("{{.State.Pid}}", name);
    let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let run = move || {
        nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        what()
    };
    std::thread::spawn(run).join().unwrap()
}

fn look_up(site: &Site, from: &str, words: &str) -> Said {
    site.host.rrun(&["exec", from, "sh", "-c", &format!("nslookup {words}")])
}

/// The addresses of an answer.
fn found(said: &Said) -> Vec<String> {
    let mut after = said.out.lines().skip_while(|line| !line.starts_with("Name:"));
    let addresses = after.by_ref().filter_map(|line| line.strip_prefix("Address"));
    let mut all: Vec<String> =
        addresses.filter_map(|rest| Some(rest.split_once(": ")?.1.trim().to_owned())).collect();
    all.sort();
    all
}

#[test]
fn containers_find_each_other_by_name() {
    on_site(|site| {
        let host = &site.host;
        let _server = server(site);
        for network in ["app", "other"] {
            host.ok(&["network", "create", network]);
        }
        let sleep = "exec sleep 100";
        let dns = ["--dns", NEIGHBOUR];
        let in_app = [&["--network", "app"], &dns[..]].concat();
        host.detached("web", &in_app, sleep);
        host.detached("DB", &[&in_app[..], &["--network-alias", "store"]].concat(), sleep);
        host.detached("db2", &["--network", "app", "--network-alias", "store"], sleep);
        host.detached("stranger", &["--network", "other"], sleep);
        let one = address_in(site, "app", "DB");
        let two = address_in(site, "app", "db2");
        let id = host.ok(&["ps", "--format", "{{.ID}}", "--filter", "name=DB"]);
        let mut both = vec![one.clone(), two];
        both.sort();
        for (name, expected) in [
            ("db", vec![one.clone()]),
            ("DB.app", vec![one.clone()]),
            (id.trim(), vec![one.clone()]),
            ("store", both),
            ("far.test", vec!["203.0.113.7".to_owned()]),
        ] {
            let said = look_up(site, "web", &format!("-type=a {name}"));
            assert_eq!(found(&said), expected, "{name}: {said:?}");
        }
        let reverse = look_up(site, "web", &one);
        assert!(reverse.out.contains("name = db.app"), "{reverse:?}");
        // Of IPv6 it has nothing, which is no error; a stranger's name is none.
        assert_eq!(look_up(site, "web", "-type=aaaa db").code, 0);
        assert_ne!(look_up(site, "web", "-type=a stranger").code, 0);
        let shown = site.inspect("{{.NetworkSettings.Networks.app.DNSNames}}", "DB");
        assert_eq!(shown, format!("[db store {}]", id.trim()));
        let resolv = host.ok(&["exec", "web", "cat", "/etc/resolv.conf"]);
        assert!(resolv.contains("nameserver 127.0.0.11\n") && resolv.contains("ndots:0"));

        // A name goes with its container, and comes with its next start.
        host.ok(&["stop", "-t", "0", "DB"]);
        assert!(found(&look_up(site, "web", "-type=a db")).is_empty());
        host.ok(&["start", "DB"]);
        assert_eq!(found(&look_up(site, "web", "-type=a db")), [address_in(site, "app", "DB")]);
        // Whoever answers is started anew.
        let helpers = || processes("net-helper");
        assert!(!helpers().is_empty());
        for pid in helpers() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        until("a new helper", || {
            let said = look_up(site, "web", "-type=a db2");
            (said.code == 0).then_some(())
        });
        host.ok(&["rm", "-f", "web", "DB", "db2", "stranger"]);
    });
}

/// The numbers of processes of this network namespace with a word in their command lines.
fn processes(word: &str) -> Vec<i32> {
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_here = std::fs::read_link(entry.path().join("ns/net")).ok()? == own;
        (is_here && words.split('\0').any(|one| one == word)).then_some(pid)
    })
    .collect()
}

#[test]
fn a_name_server_of_the_containers_own_works_beside() {
    on_site(|site| {
        let host = &site.host;
        let _server = server(site);
        host.ok(&["network", "create", "app"]);
        host.detached("hole", &["--network", "app", "--dns", NEIGHBOUR], "exec sleep 100");
        let _own = inside(site, "hole", || dnsmasq(&["--address=/own.test/198.51.100.9"]));
        until("its own server", || {
            let said = look_up(site, "hole", "-type=a own.test 127.0.0.1");
            (found(&said) == ["198.51.100.9"]).then_some(())
        });
        let said = look_up(site, "hole", "-type=a far.test");
        assert_eq!(found(&said), ["203.0.113.7"], "{said:?}");
        let own = look_up(site, "hole", "-type=a hole 127.0.0.11");
        assert_eq!(found(&own), [address_in(site, "app", "hole")], "{own:?}");
        // Others use it by name.
        let other = ["--network", "app", "--dns", NEIGHBOUR];
        let said = host.shell(&other, "nslookup -type=a own.test hole");
        assert_eq!(found(&said), ["198.51.100.9"], "{said:?}");

        // By TCP, several questions in one conversation, one of them for an answer of 2 KB.
        let [own, long, none] = inside(site, "hole", || {
            let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let questions = [query("hole", 1), query("long.test", 16), query("hole", 28)];
            stream.write_all(&questions.concat()).unwrap();
            questions.map(|_| {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut answer).unwrap();
                (answer.len(), answer[3] & 0xf, answer[7])
            })
        });
        assert_eq!((own.1, own.2, none.1, none.2), (0, 1, 0, 0));
        assert!(long.0 > 2000 && long.1 == 0, "{long:?}");
        host.ok(&["rm", "-f", "hole"]);
    });
}

/// A question as TCP carries it.
fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind, 0, 1]);
    [vec![0, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

#[test]
fn names_outside_without_anybody_who_knows_them() {
    on_site(|site| {
        let host = &site.host;
        host.ok(&["network", "create", "--internal", "quiet"]);
        let _server = server(site);
        host.detached("in", &["--network", "quiet", "--dns", NEIGHBOUR], "exec sleep 100");
        let said = look_up(site, "in", "-type=a far.test");
        assert!(said.code != 0 && said.out.contains("SERVFAIL"), "{said:?}");
        assert_eq!(found(&look_up(site, "in", "-type=a in")).len(), 1);
        host.ok(&["rm", "-f", "in"]);
        // One that does not listen, and one that does.
        host.ok(&["network", "create", "app"]);
        let servers = ["--network", "app", "--dns", HOST, "--dns", NEIGHBOUR];
        let said = host.shell(&servers, "nslookup -type=a far.test");
        assert_eq!(found(&said), ["203.0.113.7"], "{said:?}");
    });
}

#[test]
fn this_host_by_the_name_that_was_given_to_it() {
    on_site(|site| {
        let host = &site.host;
        host.ok(&["network", "create", "app"]);
        let near = ["--add-host", "near:host-gateway"];
        let hosts = |flags: &[&str]| host.run(&[flags, &near].concat(), &["cat", "/etc/hosts"]);
        for network in ["app", "bridge"] {
            let gateway = host.ok(&[
                "network",
                "inspect",
                "-f",
                "{{range .IPAM.Config}}{{.Gateway}}{{end}}",
                network,
            ]);
            let said = hosts(&["--network", network]);
            assert!(said.out.contains(&format!("{}\tnear\n", gateway.trim())), "{said:?}");
        }
        assert!(hosts(&["--network", "host"]).out.contains("127.0.0.1\tnear\n"));
        assert_eq!(hosts(&["--network", "none"]).code, 125);
    });
}
