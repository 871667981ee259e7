//! Networks of somebody's making: what is said and shown of them, and that they are apart.

use serde_json::Value;

use crate::container::support::until;
use crate::known_bad;
use crate::net::site::{HOST, NEIGHBOUR, Site, fetch, get, nft, on_site, tool};

fn create(site: &Site, words: &[&str]) -> String {
    let id = site.host.ok(&[&["network", "create"], words].concat());
    assert_eq!(id.trim().len(), 64, "{id}");
    id.trim().to_owned()
}

/// Address of a container in a network.
pub(crate) fn address_in(site: &Site, network: &str, name: &str) -> String {
    site.inspect(&format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}"), name)
}

/// `name` in a network, once its server answers the host.
fn serve(site: &Site, name: &str, network: &str, flags: &[&str]) -> String {
    let flags = [&["--network", network], flags].concat();
    site.host.detached(name, &flags, crate::net::site::SERVER);
    let address = address_in(site, network, name);
    until("the server", || get(&format!("{address}:80")));
    address
}

fn links(prefix: &str) -> usize {
    let all = tool(&["ip", "-br", "link"]);
    all.lines().filter(|line| line.starts_with(prefix)).count()
}

#[test]
fn networks_are_made_shown_and_removed() {
    on_site(|site| {
        let host = &site.host;
        // Where rrun turns forwarding on its rules stay.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let id = create(site, &["--label", "of=test", "-o", "mtu=1400", "app"]);
        let chosen = ["--subnet", "10.200.1.0/24", "--gateway", "10.200.1.254", "--ip-range"];
        create(site, &[&chosen[..], &["10.200.1.64/26", "office"]].concat());
        let listed = host.ok(&["network", "ls"]);
        let lines: Vec<Vec<&str>> =
            listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
        assert_eq!(lines[1], [&id[..12], "app", "bridge", "local"]);
        let names: Vec<&str> = lines[1..].iter().map(|line| line[1]).collect();
        assert_eq!(names, ["app", "bridge", "host", "none", "office"]);
        let filtered = ["network", "ls", "--no-trunc", "-qf", "label=of=test"];
        assert_eq!(host.ok(&filtered).trim(), id);
        let shown = host.ok(&["network", "inspect", &id[..8], "office", "host"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown[0]["Labels"]["of"], "test");
        let config = &shown[1]["IPAM"]["Config"][0];
        assert_eq!(config["Subnet"], "10.200.1.0/24");
        assert_eq!(
            (&config["Gateway"], &config["IPRange"]),
            (&Value::from("10.200.1.254"), &Value::from("10.200.1.64/26"))
        );
        assert_eq!(shown[2]["Driver"], "host");

        host.detached("one", &["--network", "office"], "exec sleep 100");
        let address = address_in(site, "office", "one");
        assert_eq!(address, "10.200.1.64");
        let gateway = "{{.NetworkSettings.Networks.office.Gateway}}";
        assert_eq!(site.inspect(gateway, "one"), "10.200.1.254");
        let member = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}";
        let members = host.ok(&["network", "inspect", "-f", member, "office"]);
        assert_eq!(members.trim(), "one 10.200.1.64/24");
        let said = host.rrun(&["network", "rm", "office", "app", "nowhere", "none"]);
        assert_eq!((said.code, said.out.as_str()), (1, "app\n"), "{said:?}");
        for expected in [
            "network office has active endpoints: in use by one",
            "network nowhere not found",
            "none is a pre-defined network and cannot be removed",
        ] {
            assert!(said.err.contains(expected), "{said:?}");
        }
        host.ok(&["stop", "-t", "0", "one"]);
        // One that a container names is kept for its next start.
        create(site, &["app"]);
        let pruned = host.ok(&["network", "prune", "-f"]);
        assert_eq!(pruned, "Deleted Networks:\napp\n\n");
        assert_eq!(links("rrun"), 0, "bridges that nobody is on");
        assert!(!site.rules().contains("rrun"), "{}", site.rules());
        host.ok(&["start", "one"]);
        assert_eq!(links("rrun"), 1);
        host.ok(&["rm", "-f", "one"]);
        host.ok(&["network", "rm", "office"]);
        assert_eq!(host.ok(&["network", "rm", "-f", "office"]), "office\n");
        assert_eq!(links("rrun"), 0);
    });
}

#[test]
fn networks_that_cannot_be_made() {
    on_site(|site| {
        create(site, &["--subnet", "10.200.1.0/24", "app"]);
        for (words, expected) in [
            (&["app"][..], "network with name app already exists"),
            (&["bridge"], "operation is not permitted on predefined bridge network"),
            (&["-x"], "unknown"),
            (&["a b"], "a name has letters"),
            (&["--subnet", "10.200.0.0/16", "x"], "10.200.1.0/24 is network app's"),
            (&["--subnet", "192.0.2.0/25", "x"], "this host has a route to 192.0.2.0/24"),
            (&["--subnet", "127.1.0.0/16", "x"], "not a range of addresses that machines have"),
            (&["--subnet", "10.201.0.0/31", "x"], "no room"),
            (&["--subnet", "10.201.0.0", "x"], "it is ADDRESS/BITS"),
            (&["--subnet", "10.201.0.0/24", "--gateway", "10.202.0.1", "x"], "the gateway 10.202"),
            (&["--subnet", "10.201.0.0/24", "--ip-range", "10.0.0.0/8", "x"], "is not in 10.201"),
            (&["--gateway", "10.201.0.1", "x"], "need --subnet"),
            (&["--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "x"], "has one of these"),
            (&["-d", "overlay", "x"], "there is only bridge"),
            (&["--ipv6", "x"], "no IPv6 yet"),
            (&["-o", "icc=maybe", "x"], "it takes true or false"),
            (&["-o", "mtu=1", "x"], "it lies between"),
            (&["-o", "com.docker.network.bridge.name=br0", "x"], "begins with rrun"),
            (&["-o", "what=1", "x"], "there is no such option"),
        ] {
            let said = site.host.rrun(&[&["network", "create"], words].concat());
            assert!(said.code != 0 && said.err.contains(expected), "{words:?}: {said:?}");
        }
        assert_eq!(site.host.ok(&["network", "ls", "-q"]).lines().count(), 4);
        for (flags, expected) in [
            (&["--ip", "10.200.1.9"][..], "user specified IP address is supported on user"),
            (&["--network-alias", "a"], "network-scoped aliases are only supported"),
            (&["--network", "app", "--network", "bridge"], "cannot attach both user-defined"),
            (&["--network", "app", "--network", "app"], "specified multiple times"),
            (&["--network", "host", "--mac-address", "02:42:0a:00:00:01"], "mac-address and the"),
            (&["--network", "app", "--mac-address", "x"], "the address of one interface"),
            (&["--network", "app", "--ip", "10.9.9.9"], "is not in 10.200.1.0/24 of network app"),
            (&["--network", "app", "--ip", "10.200.1.1"], "is not in"),
            (&["--network", "app", "--ip", "1.2"], "it takes an IPv4 address"),
            (&["--network", "name=app,ip=10.200.1.9", "--ip", "10.200.1.8"], "per-network IPv4"),
            (&["--network", "app", "--link", "x"], "use a user-made network"),
        ] {
            let said = site.host.run(flags, &["true"]);
            assert!(said.code == 125 && said.err.contains(expected), "{flags:?}: {said:?}");
        }
    });
}

#[test]
fn networks_are_apart_and_a_container_can_be_in_several() {
    on_site(|site| {
        let host = &site.host;
        create(site, &["one"]);
        create(site, &["two"]);
        let first = serve(site, "first", "one", &[]);
        let second = serve(site, "second", "two", &[]);
        let wish = first.rsplit_once('.').unwrap().0.to_owned() + ".77";
        let mac = "02:42:aa:bb:cc:dd";
        let place = format!("name=one,ip={wish},alias=both,mac-address={mac}");
        let both = ["--network", &place, "--network", "two"];
        host.detached("both", &both, crate::net::site::SERVER);
        assert_eq!(address_in(site, "one", "both"), wish);
        assert_eq!(site.inspect("{{.NetworkSettings.Networks.one.MacAddress}}", "both"), mac);
        assert_eq!(site.inspect("{{.HostConfig.NetworkMode}}", "both"), "one");
        let listed =
            host.ok(&["ps", "--filter", "network=two", "--format", "{{.Names}} {{.Networks}}"]);
        assert!(listed.contains("both one,two\n") && listed.contains("second two\n"), "{listed}");
        let here = host.ok(&["exec", "both", "ip", "-o", "link"]);
        assert!(here.contains(mac) && here.contains("eth1"), "{here}");

        let fetch_in = |name: &str, address: &str| {
            host.rrun(&["exec", name, "sh", "-c", &fetch(address, 80)]).out
        };
        for (from, to, expected) in [
            ("both", &first, "hello\n"),
            ("both", &second, "hello\n"),
            ("first", &wish, "hello\n"),
            ("first", &second, ""),
            ("second", &first, ""),
            ("second", &wish, ""),
        ] {
            assert_eq!(fetch_in(from, to), expected, "{from} {to}");
        }
        // By a published port they do reach each other.
        serve(site, "third", "two", &["-p", "8080:80"]);
        let by_port = host.rrun(&["exec", "first", "sh", "-c", &fetch(HOST, 8080)]);
        assert_eq!(by_port.out, "hello\n", "{by_port:?}");
        let said = host.run(&["--network", "one", "--ip", &wish], &["true"]);
        assert!(said.err.contains(&format!("--ip={wish} is container")), "{said:?}");
        host.ok(&["rm", "-f", "first", "second", "third", "both"]);
        let left = std::fs::read_dir(host.path().join("run/net/n")).unwrap().flatten();
        for network in left {
            let names = std::fs::read_dir(network.path().join("names")).unwrap().count();
            assert_eq!(names, 0, "{network:?}");
        }
    });
}

#[test]
fn nothing_leads_out_of_an_internal_network() {
    on_site(|site| {
        let host = &site.host;
        create(site, &["--internal", "quiet"]);
        serve(site, "web", "quiet", &["-p", "8080:80"]);
        let ping = ["exec", "web", "ping", "-c", "1", "-W", "1", NEIGHBOUR];
        assert_ne!(host.rrun(&ping).code, 0);
        // A route of its own making does not help.
        host.detached("admin", &["--network", "quiet", "--cap-add", "NET_ADMIN"], "exec sleep 100");
        let gateway = site.inspect("{{(index .IPAM.Config 0).Gateway}}", "quiet");
        host.ok(&["exec", "admin", "ip", "route", "add", "default", "via", &gateway]);
        let ping = ["exec", "admin", "ping", "-c", "1", "-W", "1", NEIGHBOUR];
        assert_ne!(host.rrun(&ping).code, 0);
        // This host reaches a published port by its loopback, and nobody else does.
        for here in ["127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(get(here).as_deref(), Some("hello\n"), "{here}");
        }
        assert_eq!(site.outside(|| get("192.0.2.1:8080")), None);
        host.ok(&["rm", "-f", "web", "admin"]);
    });
}

#[test]
fn members_of_a_network_without_icc_do_not_reach_each_other() {
    on_site(|site| {
        let host = &site.host;
        create(site, &["-o", "com.docker.network.bridge.enable_icc=false", "alone"]);
        let web = serve(site, "web", "alone", &["-p", "8080:80"]);
        host.detached("other", &["--network", "alone"], "exec sleep 100");
        let reached = host.rrun(&["exec", "other", "sh", "-c", &fetch(&web, 80)]);
        assert_eq!(reached.out, "");
        assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
        let out = host.rrun(&["exec", "other", "ping", "-c", "1", "-W", "5", NEIGHBOUR]);
        assert_eq!(out.code, 0, "{out:?}");
        host.ok(&["rm", "-f", "web", "other"]);
    });
}

#[test]
fn what_stood_in_other_peoples_chains_goes_with_the_last_network() {
    on_site(|site| {
        nft("add table ip filter; \
             add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
             add rule ip filter FORWARD ip daddr 198.51.100.1 counter accept");
        tool(&["iptables-legacy", "-P", "FORWARD", "DROP"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let before = (site.rules(), tool(&["iptables-legacy", "-S", "FORWARD"]));
        create(site, &["app"]);
        serve(site, "web", "app", &["-p", "8080:80"]);
        assert_eq!(site.outside(|| get("192.0.2.1:8080")).as_deref(), Some("hello\n"));
        assert!(site.rules().contains("filtered in inet rrun"), "{}", site.rules());
        site.host.ok(&["rm", "-f", "web"]);
        site.host.ok(&["network", "rm", "app"]);
        assert_eq!((site.rules(), tool(&["iptables-legacy", "-S", "FORWARD"])), before);
    });
}

#[test]
fn each_measure_is_missed() {
    known_bad::are_missed(&[(
        "internal-closed",
        "net::networks::nothing_leads_out_of_an_internal_network",
    )]);
}
