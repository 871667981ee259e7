//! Containers with ids of their own (`--userns=auto`): what stands behind them on the host, and what
//! their root is not.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use serde_json::json;

use crate::container::support::{Entry, Host, field, until};

const OWN: [&str; 2] = ["--userns", "auto"];

/// The host's number of a container's first process.
fn pid_of(host: &Host, name: &str) -> i64 {
    let id = host.ok(&["inspect", "-f", "{{.Id}}", name]);
    let states = host.states();
    let state = states.iter().find(|state| state["id"] == id.trim()).expect("it runs");
    state["init"]["pid"].as_i64().unwrap()
}

/// First id of the host and number of ids, as the kernel has them.
fn ids_of(host: &Host, name: &str) -> (u64, u64) {
    let path = |file: &str| format!("/proc/{}/{file}", pid_of(host, name));
    let read = |file: &str| std::fs::read_to_string(path(file)).unwrap();
    assert_eq!(read("uid_map"), read("gid_map"));
    let text = read("uid_map");
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!((numbers.len(), numbers[0]), (3, 0), "{text}");
    let status = read("status");
    let uids: Vec<&str> = field(&status, "Uid").split_whitespace().collect();
    let first = numbers[1].to_string();
    assert!(uids.iter().all(|uid| *uid == first), "{status}");
    (numbers[1], numbers[2])
}

fn upper(host: &Host, name: &str) -> PathBuf {
    let id = host.ok(&["inspect", "-f", "{{.Id}}", name]);
    host.path().join("root/containers").join(id.trim()).join("rw/u")
}

fn slots(host: &Host) -> usize {
    std::fs::read_dir(host.path().join("root/ids")).map_or(0, Iterator::count)
}

#[test]
fn nobody_else_has_the_ids_of_a_container() {
    let host = Host::new();
    for name in ["one", "two"] {
        host.detached(name, &OWN, "umask 077; echo secret > /mine; exec sleep 1000");
    }
    let (a, b) = (ids_of(&host, "one"), ids_of(&host, "two"));
    assert!(a.0.abs_diff(b.0) >= 65_536 && (a.1, b.1) == (65_536, 65_536), "{a:?} {b:?}");
    assert!(a.0 >= 0x7000_0000 && b.0 + b.1 <= 0x7FFE_0000, "{a:?} {b:?}");
    // The same layer, with its owners in there and the host's out here.
    let busybox = ["stat", "-c", "%u:%g %i", "/bin/busybox"];
    let look = |name: &str| host.ok(&[&["exec", name][..], &busybox].concat());
    assert!(look("one").starts_with("0:0 ") && look("one") == look("two"), "{}", look("one"));
    let secret = until("the secret", || upper(&host, "two").join("mine").metadata().ok());
    assert_eq!((u64::from(secret.uid()), secret.mode() & 0o777), (b.0, 0o600));
    // One that is given the other's files cannot read them.
    let theirs = format!("{}:/theirs", upper(&host, "two").display());
    let read = host.shell(&[&OWN[..], &["-v", &theirs]].concat(), "cat /theirs/mine");
    assert!(read.code == 1 && read.err.contains("ermission denied"), "{read:?}");
    assert_eq!(slots(&host), 2);
    // It keeps them from one start to the next.
    host.ok(&["stop", "-t", "0", "one"]);
    host.ok(&["start", "one"]);
    assert_eq!(ids_of(&host, "one"), a);
    assert_eq!(host.ok(&["exec", "one", "cat", "/mine"]), "secret\n");
    assert_eq!(host.ok(&["inspect", "-f", "{{.HostConfig.UsernsMode}}", "one"]), "auto\n");
    host.ok(&["rm", "-f", "one", "two"]);
    assert_eq!(slots(&host), 0);
    host.assert_clean(None);
}

#[test]
fn its_root_is_nobody_on_the_host() {
    let host = Host::new();
    let bound = host.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    let file = |name: &str, mode: u32| {
        std::fs::write(bound.join(name), "host\n").unwrap();
        std::fs::set_permissions(bound.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    file("closed", 0o600);
    file("open", 0o644);
    let bind = format!("{}:/bound", bound.display());
    // Everything that a container can be given, but not the host's user namespace. What is tried
    // changes nothing where it can be done.
    let flags = [&OWN[..], &["--privileged", "-v", &bind]].concat();
    let script = "grep CapEff /proc/self/status; stat -c %u /bound/open; cat /bound/open; \
        for try in 'cat /bound/closed' 'touch /bound/new' 'chown 0 /bound/open' \
            'chmod 666 /bound/open' 'mknod /node b 8 0' 'mknod /mem c 1 1' \
            'nice -n -5 true'; do $try > /dev/null 2>&1 && echo done: $try; done; \
        (echo h > /proc/sysrq-trigger) 2> /dev/null && echo sysrq; \
        p=/proc/sys/kernel/panic; (cat $p > $p) 2> /dev/null && echo panic; true";
    let said = host.shell(&flags, script);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(said.code == 0 && lines.len() == 3, "{said:?}");
    assert!(!lines[0].ends_with("0000000000000000"), "of its own namespace: {said:?}");
    assert_eq!(lines[1..], ["65534", "host"], "{said:?}");
    assert_eq!(bound.join("open").metadata().unwrap().uid(), 0);
    host.assert_clean(None);
}

#[test]
fn it_is_a_whole_system_inside() {
    let extra = [Entry::Directory("data", 0o755), Entry::File("data/first", b"image\n")];
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"], "Volumes": { "/data": {} } });
    let host = Host::with(&extra, &config);
    let own = |flags: &[&'static str], script: &str| {
        let said = host.shell(&[&OWN[..], flags].concat(), script);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{flags:?}: {said:?}");
        said.out
    };
    // A named volume is filled, and one container's files are the next one's.
    let script = "cat /data/first; id -u > /data/mine; chown 1000 /data/mine; stat -c %u /data";
    assert_eq!(own(&["-v", "named:/data"], script), "image\n0\n");
    let script = "stat -c %u /data/first /data/mine; echo more >> /data/first; cat /data/mine";
    assert_eq!(own(&["-v", "named:/data", "--read-only"], script), "0\n1000\n0\n");
    let data = host.path().join("root/volumes/named/_data");
    assert_eq!(data.join("mine").metadata().unwrap().uid(), 1000, "as without own ids");
    let plain = host.shell(&["-v", "named:/data"], "cat /data/first; stat -c %u /data/mine");
    assert_eq!(plain.out, "image\nmore\n1000\n");
    // Streams that can be opened again, devices, settings, names, an exec of whatever user.
    assert_eq!(
        own(&[], "echo out > /dev/stdout; echo err > /dev/null; head -c 1 /dev/zero | wc -c"),
        "out\n1\n"
    );
    assert_eq!(
        own(&["-u", "web"], "echo out > /dev/stdout; id -u; touch /tmp/x; stat -c %u /tmp/x"),
        "out\n1000\n1000\n"
    );
    assert_eq!(own(&[], "cat /proc/sys/net/ipv4/ping_group_range"), "0\t65535\n");
    assert_eq!(
        own(&["-h", "me"], "hostname; grep -c me /etc/hosts; echo x >> /etc/hosts"),
        "me\n0\n"
    );
    assert_eq!(
        own(
            &["--network", "host"],
            "test -d /sys/class/net/lo && cat /sys/kernel/debug/* 2>/dev/null; true"
        ),
        ""
    );
    assert_eq!(own(&["--tmpfs", "/t:mode=1777"], "cd /t && touch x && stat -c %u x"), "0\n");
    let terminal =
        host.run(&[&OWN[..], &["-t"]].concat(), &["sh", "-c", "tty; test -w /dev/console"]);
    assert!(terminal.code == 0 && terminal.out.starts_with("/dev/pts/0"), "{terminal:?}");
    host.detached("box", &OWN, "exec sleep 1000");
    let exec =
        host.ok(&["exec", "-u", "1000:1000", "box", "sh", "-c", "id -u; echo x > /dev/stdout"]);
    assert_eq!(exec, "1000\nx\n");
    let exec = host.ok(&["exec", "box", "sh", "-c", "cat /proc/self/uid_map; id -u"]);
    assert_eq!(exec.split_whitespace().last(), Some("0"));
    host.ok(&["rm", "-f", "box"]);
    // Of as many ids as were asked for.
    let sized = host.shell(&["--userns", "auto:size=1000"], "cat /proc/self/uid_map");
    assert_eq!(sized.out.split_whitespace().last(), Some("1000"), "{sized:?}");
    let wide = host.shell(&["--userns", "auto:size=70000", "-u", "69999"], "id -u");
    assert_eq!(wide.out, "69999\n", "{wide:?}");
    host.ok(&["volume", "rm", "named"]);
    assert_eq!(slots(&host), 0);
    host.assert_clean(None);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let host = Host::new();
    for (flags, why) in [
        (&["--userns", "keep-id"][..], "ordinary users"),
        (&["--userns", "nomap"], "there is: host, auto, auto:size=NUMBER"),
        (&["--userns", "auto:size=0"], "auto:size"),
        (&["--userns", "auto:size=999999999"], "auto:size"),
        (&["--userns", "auto", "--pid", "host"], "--pid=host with a user namespace"),
        (&["--userns", "auto", "--ipc", "host"], "--ipc=host with a user namespace"),
        (&["--userns", "auto", "--cgroupns", "host"], "--cgroupns=host with a user namespace"),
        (&["--userns", "auto:size=1000", "-u", "2000"], "--userns=auto:size=NUMBER"),
    ] {
        let said = host.shell(flags, "true");
        assert!(said.code == 125 && said.err.contains(why), "{flags:?}: {said:?}");
    }
    assert_eq!(
        host.shell(&["--userns", "host"], "cat /proc/self/uid_map").out.split_whitespace().last(),
        Some("4294967295")
    );
    assert_eq!(slots(&host), 0);
    host.assert_clean(None);
}

#[test]
fn known_bad_measures_are_missed() {
    crate::known_bad::are_missed(&[
        ("ids-disjoint", "container::ids::nobody_else_has_the_ids_of_a_container"),
        ("ids-of-its-own", "container::ids::its_root_is_nobody_on_the_host"),
    ]);
}
