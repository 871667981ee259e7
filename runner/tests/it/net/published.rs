//! Published ports: who reaches them and who does not.

use std::net::{TcpListener, UdpSocket};

use crate::container::support::until;
use crate::net::site::{HOST, NEIGHBOUR, echo, fetch, get, on_site, tool};

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_site(|site| {
        let host = &site.host;
        site.serve("web", &["-p", "8080:80"]);
        let address = site.address("web");
        let hello = Some("hello\n".to_owned());
        for at in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080", &format!("{address}:80")] {
            assert_eq!(get(at), hello, "{at}");
        }
        assert_eq!(site.outside(|| get("192.0.2.1:8080")), hello);
        let gateway = site.inspect("{{.NetworkSettings.Gateway}}", "web");
        for other in [HOST, &gateway] {
            let said = site.fetch_inside(&["--network", "bridge"], other, 8080);
            assert_eq!(said.out, "hello\n", "{other}: {said:?}");
            let own = host.rrun(&["exec", "web", "sh", "-c", &fetch(other, 8080)]);
            assert_eq!(own.out, "hello\n", "itself by {other}: {own:?}");
        }
        let said = site.fetch_inside(&["--network", "bridge"], &address, 80);
        assert_eq!(said.out, "hello\n", "{said:?}");
        let out = host.rrun(&["exec", "web", "ping", "-c", "1", "-W", "5", NEIGHBOUR]);
        assert_eq!(out.code, 0, "{out:?}");

        // What is shown of it.
        let shown = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n";
        assert_eq!(host.ok(&["port", "web"]), shown);
        assert_eq!(host.ok(&["port", "web", "80"]), "0.0.0.0:8080\n[::]:8080\n");
        assert_eq!(host.rrun(&["port", "web", "81"]).code, 1);
        let ports = host.ok(&["ps", "--format", "{{.Ports}}"]);
        assert_eq!(ports, "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp\n");
        let first = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
        assert_eq!(site.inspect(first, "web"), "8080");

        // It goes with the container, and comes with its next start.
        host.ok(&["stop", "-t", "0", "web"]);
        assert_eq!(get("127.0.0.1:8080"), None);
        assert_eq!(site.outside(|| get("192.0.2.1:8080")), None);
        assert!(!site.rules().contains("c:"), "{}", site.rules());
        host.ok(&["start", "web"]);
        until("the second run", || site.outside(|| get("192.0.2.1:8080")));
        assert_eq!(get("127.0.0.1:8080"), hello);
        host.ok(&["rm", "-f", "web"]);
    });
}

#[test]
fn what_is_not_published_is_not_reached_from_outside() {
    on_site(|site| {
        site.serve("web", &["-p", "127.0.0.1:8080:80", "-p", "192.0.2.1:8081:80"]);
        let address = format!("{}:80", site.address("web"));
        // The neighbour knows the way.
        site.outside(|| tool(&["ip", "route", "add", "10.0.0.0/8", "via", HOST]));
        assert_eq!(get(&address).as_deref(), Some("hello\n"));
        assert_eq!(site.outside(|| get(&address)), None);
        assert_eq!(get("127.0.0.1:8080").as_deref(), Some("hello\n"));
        assert_eq!(site.outside(|| get("192.0.2.1:8080")), None);
        assert_eq!(site.outside(|| get("192.0.2.1:8081")).as_deref(), Some("hello\n"));
        // Nor by the name of loopback (CVE-2020-8558).
        site.outside(|| tool(&["ip", "route", "add", "127.9.9.9/32", "via", HOST]));
        let leads_nowhere = site.outside(|| get("127.9.9.9:8080"));
        assert_eq!(leads_nowhere, None);
        site.host.ok(&["rm", "-f", "web"]);
    });
}

#[test]
fn datagrams_find_a_container_that_has_just_come() {
    on_site(|site| {
        // Whoever sends before there is anybody keeps a connection alive that leads nowhere.
        let (here, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), "127.0.0.1:5000");
        let there = site.outside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        // With the rules there the kernel remembers that it translates nothing for that client.
        assert_eq!(site.host.run(&["--network", "bridge"], &["true"]).code, 0);
        assert_eq!(echo(&there, "192.0.2.1:5000"), None);
        site.host.detached("echo", &["-p", "5000:7/udp"], "exec sleep 100");
        site.echo_inside(site.host.pid("init"), 7);
        until("the first echo", || echo(&here, to));
        // By the rules: from the helper it would come from the gateway.
        assert_eq!(echo(&there, "192.0.2.1:5000").as_deref(), Some(NEIGHBOUR));
        let gateway = site.inspect("{{.NetworkSettings.Gateway}}", "echo");
        assert_eq!(echo(&here, to), Some(gateway));
        assert_eq!(site.host.ok(&["port", "echo", "7/udp"]), "0.0.0.0:5000\n[::]:5000\n");
        site.host.ok(&["rm", "-f", "echo"]);
    });
}

#[test]
fn ports_of_the_kernels_choice_and_ports_that_are_taken() {
    on_site(|site| {
        let host = &site.host;
        site.serve("web", &["-P", "--expose", "9000/udp"]);
        let listed = host.ok(&["port", "web"]);
        assert_eq!(listed.lines().count(), 4, "{listed}");
        let at = host.ok(&["port", "web", "80"]);
        let number: u16 = at.lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        assert_eq!(get(&format!("127.0.0.1:{number}")).as_deref(), Some("hello\n"));

        let own = TcpListener::bind("0.0.0.0:0").unwrap();
        let taken = own.local_addr().unwrap().port();
        for (port, whose) in [(number, "rrun stop"), (taken, "another program")] {
            let said = host.run(&["-p", &format!("{port}:80")], &["true"]);
            let expected = format!("cannot publish 0.0.0.0:{port}: port is already allocated");
            assert!(said.code == 125 && said.err.contains(&expected), "{said:?}");
            assert!(said.err.contains(whose), "{said:?}");
        }
        let range = format!("{taken}-{}:80", taken + 20);
        host.detached("next", &["-p", &range], "exec sleep 60");
        assert_ne!(host.ok(&["port", "next", "80"]), format!("0.0.0.0:{taken}\n"));
        host.ok(&["rm", "-f", "web", "next"]);
    });
}

#[test]
fn networks_that_cannot_be_had() {
    on_site(|site| {
        let host = &site.host;
        for (flags, expected) in [
            (&["--network", "nowhere"][..], "network nowhere not found"),
            (&["-p", "192.0.2.77:1:80"], "this host has no such address"),
            (&["-p", "80:80/sctp"], "sctp is not supported"),
            (&["-p", "1-2:1-3"], "different lengths"),
            (&["--expose", "x"], "a port is a number"),
        ] {
            let said = host.run(flags, &["true"]);
            assert!(said.code == 125 && said.err.contains(expected), "{flags:?} {said:?}");
        }
        host.detached("one", &["--network", "bridge"], "exec sleep 60");
        let shared = ["--network", "container:one"];
        let said = host.run(&[&shared[..], &["-p", "80:80"]].concat(), &["true"]);
        assert!(said.err.contains("conflicting options: port publishing"), "{said:?}");
        let said = host.run(&shared, &["ip", "-o", "-4", "addr", "show", "eth0"]);
        assert!(said.out.contains(&site.address("one")), "{said:?}");
        let said = host.run(&["-p", "80:80", "--network", "none"], &["true"]);
        assert!(said.code == 0 && said.err.contains("ports are discarded"), "{said:?}");
        host.ok(&["rm", "-f", "one"]);
    });
}
