//! Many at once.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::net::site::{get, on_site};

#[test]
fn no_address_twice_in_64_parallel_starts() {
    on_site(|site| {
        let host = &site.host;
        let names: Vec<String> = (0..64).map(|number| format!("c{number}")).collect();
        let queue = Mutex::new(names.iter());
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let kind = nix::sched::CloneFlags::CLONE_NEWNET;
                    nix::sched::setns(&own, kind).unwrap();
                    loop {
                        let Some(name) = queue.lock().unwrap().next() else { return };
                        let script = "ip -o -4 addr show eth0; exec sleep 100";
                        host.detached(name, &["-p", "80"], script);
                    }
                });
            }
        });
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for name in &names {
            let address = site.address(name);
            let log = crate::container::support::until("its word", || {
                Some(host.ok(&["logs", name])).filter(|log| !log.is_empty())
            });
            assert!(log.contains(&format!(" {address}/")), "{name}: {address}: {log}");
            assert!(addresses.insert(address.clone()), "{name}: {address} twice");
            assert!(ports.insert(host.ok(&["port", name, "80"])), "{name}: a port twice");
        }
        assert_eq!(get("127.0.0.1:1"), None);
        let words: Vec<&str> = names.iter().map(String::as_str).collect();
        host.ok(&[&["rm", "-f"], &words[..]].concat());
        assert!(!site.rules().contains("c:"), "{}", site.rules());
    });
}
