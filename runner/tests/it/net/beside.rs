//! Beside other people's rules: what drops by default lets ours pass, and nothing else changes.

use crate::known_bad;
use crate::net::site::{HOST, NEIGHBOUR, Site, get, nft, on_site, tool};

/// From outside to a published port, from the container to outside, between containers.
fn works(site: &Site) {
    site.serve("web", &["-p", "8080:80"]);
    assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
    assert_eq!(get("127.0.0.1:8080").as_deref(), Some("hello\n"));
    let out = site.host.rrun(&["exec", "web", "ping", "-c", "1", "-W", "5", NEIGHBOUR]);
    assert_eq!(out.code, 0, "{out:?}");
    let said = site.fetch_inside(&["--network", "bridge"], HOST, 8080);
    assert_eq!(said.out, "hello\n", "{said:?}");
    // What is not published still is not.
    let address = format!("{}:80", site.address("web"));
    site.outside(|| tool(&["ip", "route", "add", "10.0.0.0/8", "via", HOST]));
    assert_eq!(site.outside(|| get(&address)), None);
    site.host.ok(&["rm", "-f", "web"]);
}

#[test]
fn dockers_chain_that_drops() {
    on_site(|site| {
        // As Docker writes them, by iptables-nft.
        tool(&["iptables-nft", "-P", "FORWARD", "DROP"]);
        tool(&["iptables-nft", "-N", "DOCKER-USER"]);
        tool(&["iptables-nft", "-A", "FORWARD", "-j", "DOCKER-USER"]);
        works(site);
        let shown = tool(&["iptables-nft", "-S", "FORWARD"]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!((lines[0], lines.len()), ("-P FORWARD DROP", 4), "{shown}");
        assert!(lines[1..3].iter().all(|line| line.contains("rrun+")), "{shown}");
        assert_eq!(lines[3], "-A FORWARD -j DOCKER-USER");
        // Said once, however often.
        site.serve("web", &["-p", "8080:80"]);
        assert_eq!(tool(&["iptables-nft", "-S", "FORWARD"]), shown);
        site.host.ok(&["rm", "-f", "web"]);
    });
}

#[test]
fn a_chain_of_nobodys_program_that_drops() {
    on_site(|site| {
        nft("add table inet mine; add chain inet mine f { type filter hook forward priority 10; \
             policy drop; }; add rule inet mine f ip daddr 198.51.100.1 accept");
        works(site);
    });
}

#[test]
fn a_legacy_chain_that_drops() {
    on_site(|site| {
        tool(&["iptables-legacy", "-P", "FORWARD", "DROP"]);
        works(site);
        let shown = tool(&["iptables-legacy", "-S", "FORWARD"]);
        assert_eq!(shown.lines().filter(|line| line.contains("rrun+")).count(), 2, "{shown}");
    });
}

#[test]
fn interfaces_that_did_not_forward_still_do_not() {
    on_site(|site| {
        let forwards = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        // A new namespace begins with what this machine has, and an engine may have turned it on.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        tool(&["ip", "link", "add", "other0", "type", "bridge"]);
        assert_eq!(forwards().unwrap(), "0\n");
        site.serve("web", &["-p", "8080:80"]);
        assert_eq!(forwards().unwrap(), "1\n");
        let guarded = tool(&["nft", "list", "set", "inet", &table(site), "guarded"]);
        assert!(guarded.contains("other0") && guarded.contains("up0"), "{guarded}");
        assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
        site.host.ok(&["rm", "-f", "web"]);
    });
}

/// The name of the store's table.
pub(crate) fn table(site: &Site) -> String {
    let tables = site.rules();
    let line = tables.lines().find(|line| line.starts_with("table inet rrun")).unwrap();
    line.split(' ').nth(2).unwrap().to_owned()
}

#[test]
fn each_measure_is_missed() {
    known_bad::are_missed(&[
        ("forward-chains-opened", "net::beside::dockers_chain_that_drops"),
        ("interfaces-guarded", "net::beside::interfaces_that_did_not_forward_still_do_not"),
        ("udp-forgotten", "net::published::datagrams_find_a_container_that_has_just_come"),
    ]);
}
