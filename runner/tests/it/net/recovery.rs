//! After kills, a flush of all rules, and a machine that was switched off: the next command puts it
//! right, and nothing of anybody else's is touched.

use crate::container::support::until;
use crate::net::beside::table;
use crate::net::site::{Site, get, nft, on_site, tool};

/// What there is of containers: addresses, rules, and cables.
fn left(site: &Site) -> (usize, usize, usize) {
    let networks = std::fs::read_dir(site.host.path().join("run/net/n"));
    let addresses = networks
        .into_iter()
        .flatten()
        .flatten()
        .map(|network| std::fs::read_dir(network.path().join("ip")).unwrap().count());
    let elements = site.rules().matches("c:").count();
    let cables =
        tool(&["ip", "-br", "link"]).lines().filter(|line| line.starts_with("veth")).count();
    (addresses.sum(), elements, cables)
}

#[test]
fn after_a_kill_of_the_monitor() {
    on_site(|site| {
        site.serve("web", &["-p", "8080:80"]);
        assert_eq!(get("127.0.0.1:8080").as_deref(), Some("hello\n"));
        let pid = site.host.state()["monitor"]["pid"].as_i64().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until("its end", || get("127.0.0.1:8080").is_none().then_some(()));
        site.host.ok(&["ps"]);
        until("a clean host", || (left(site) == (0, 0, 0)).then_some(()));
        site.host.ok(&["start", "web"]);
        until("the second run", || get("192.0.2.1:8080"));
        site.host.ok(&["rm", "-f", "web"]);
    });
}

#[test]
fn after_a_kill_at_every_step_of_a_start() {
    on_site(|site| {
        let words = site.host.words(&["--rm", "--name", "web"], &["-p", "8080:80"], &["true"]);
        for step in ["held", "addresses", "published", "connected"] {
            let measure = format!("net-lives-after-{step}");
            let said = site.host.command(&words).env("RRUN_KNOWN_BAD", &measure).output().unwrap();
            assert_ne!(said.status.code(), Some(0), "{step}: {said:?}");
            site.host.ok(&["ps"]);
            until("a clean host", || (left(site) == (0, 0, 0)).then_some(()));
            let again = site.host.rrun(&words);
            assert_eq!(again.code, 0, "{step}: {again:?}");
        }
    });
}

#[test]
fn after_a_flush_of_all_rules() {
    on_site(|site| {
        nft("add table inet mine; add set inet mine s { type ipv4_addr; }");
        site.serve("web", &["-p", "8080:80"]);
        let before = site.rules();
        nft("flush ruleset");
        nft("add table inet mine; add set inet mine s { type ipv4_addr; }");
        // Nobody has said anything to rrun yet.
        assert_eq!(get("127.0.0.1:8080").as_deref(), Some("hello\n"));
        assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
        site.host.ok(&["ps"]);
        let sorted = |rules: &str| {
            let mut lines: Vec<String> = rules.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&site.rules()), sorted(&before));
        // An older program's table is exchanged.
        let table = table(site);
        nft(&format!("delete table inet {table}; add table inet {table}"));
        site.host.ok(&["ps"]);
        assert_eq!(sorted(&site.rules()), sorted(&before));
        site.host.ok(&["rm", "-f", "web"]);
    });
}

#[test]
fn after_the_loss_of_the_bridge_and_the_run_directory() {
    on_site(|site| {
        site.serve("web", &["-p", "8080:80"]);
        site.host.ok(&["rm", "-f", "web"]);
        let bridge = tool(&["ip", "-br", "link", "show", "type", "bridge"]);
        let bridge = bridge.split(' ').next().unwrap();
        tool(&["ip", "link", "delete", bridge]);
        site.serve("web", &["-p", "8080:80"]);
        assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
        site.host.ok(&["rm", "-f", "web"]);
        // As after a restart of the machine: only the definition is left.
        nft("flush ruleset");
        tool(&["ip", "link", "delete", bridge]);
        std::fs::remove_dir_all(site.host.path().join("run")).unwrap();
        site.serve("web", &["-p", "8080:80"]);
        assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
        site.host.ok(&["rm", "-f", "web"]);
    });
}
