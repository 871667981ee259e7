//! Registries elsewhere than on the loopback: TLS, and where they may lead.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use crate::corpus::Encoding;
use crate::corpus::tar::{file, tar};
use crate::images::host::{Host, Said, said};
use crate::images::island::{
    Authority, Front, METADATA, PRIVATE, PRIVATE_TOO, PUBLIC, PUBLIC_TOO, on_an_island,
};
use crate::images::registry::Registry;

/// A registry at `address` with one image, `a:1`.
fn registry_at(address: &str) -> Registry {
    let registry = Registry::start_at(address);
    registry.image("a:1", &[(tar([file("x", "1")]), Encoding::Gzip)]);
    registry
}

/// Serves the same blobs.
fn mirror(of: &Registry, address: &str) -> Registry {
    let mirror = Registry::start_at(address);
    for digest in of.blob_digests() {
        mirror.blob(of.blob_bytes(&digest));
    }
    mirror
}

fn pull(host: &Host, flags: &[&str], reference: &str) -> Said {
    host.run([&["pull", "-q"], flags, &[reference]].concat())
}

/// It fails with these words, and nothing of it is kept.
fn fails(host: &Host, said: &Said, words: &[&str]) {
    assert_eq!(said.code, Some(125), "{said:?}");
    for word in words {
        assert!(said.err.contains(word), "no {word:?} in {said:?}");
    }
    host.assert_clean();
}

#[test]
fn tls_is_spoken_and_certificates_are_checked() {
    on_an_island(|| {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority(folder.path());
        authority.found();
        authority.vouch_for("good", &format!("IP:{PUBLIC},DNS:registry.test"));
        authority.vouch_for("other", "DNS:other.test");
        authority.vouch_for("client", "DNS:client.test");
        let certificate = |name: &str| {
            format!("ssl_certificate {name}.crt;\nssl_certificate_key {name}.key;")
                .replace(' ', &format!(" {}/", folder.path().display()))
        };
        let asks = format!(
            "{}\nssl_verify_client on;\nssl_client_certificate {}/ca.crt;",
            certificate("good"),
            folder.path().display()
        );
        let registry = registry_at("127.0.0.1:0");
        let _front = Front::start(
            folder.path(),
            &registry.address,
            &[
                (&format!("{PUBLIC}:443"), &certificate("good")),
                (&format!("{PUBLIC}:8443"), &certificate("other")),
                (&format!("{PUBLIC}:9443"), &asks),
                ("127.0.0.1:5443", &certificate("other")),
            ],
        );
        certificates_are_checked(folder.path());
        a_certificate_of_ours_is_shown(folder.path());
        tls_and_plain_are_told_apart();
        others_are_checked_and_shown_nothing(folder.path());
        nothing_leads_from_tls_to_plain(&registry, folder.path());
    });
}

fn certificates_are_checked(folder: &Path) {
    let authority = folder.join("ca.crt");
    for reference in [format!("{PUBLIC}/a:1"), "registry.test/a:1".into()] {
        let host = Host::new();
        let told = ["is not trusted: it is signed by an authority that is not known here"];
        let hints = ["/ca.crt", "--tls-verify=false"];
        fails(&host, &pull(&host, &[], &reference), &[told, [hints[0]], [hints[1]]].concat());
        assert_eq!(pull(&host, &["--tls-verify=false"], &reference).code, Some(0));

        let host = Host::new();
        let mut command = host.command(["pull", &reference]);
        let trusted = said(command.env("SSL_CERT_FILE", &authority).output().unwrap());
        assert_eq!(trusted.code, Some(0), "{trusted:?}");

        // For this registry alone, in the system's place and in the person's.
        let registry = reference.split('/').next().unwrap();
        let system = PathBuf::from("/etc/containers/certs.d");
        for place in [system, folder.join("home/.config/docker/certs.d")] {
            let host = Host::new();
            let place = place.join(registry);
            std::fs::create_dir_all(&place).unwrap();
            std::fs::copy(&authority, place.join("lab.crt")).unwrap();
            let mut command = host.command(["pull", &reference]);
            command.env("HOME", folder.join("home")).env_remove("XDG_CONFIG_HOME");
            let trusted = said(command.output().unwrap());
            assert_eq!(trusted.code, Some(0), "{trusted:?}");
            std::fs::write(place.join("lab.crt"), "nonsense").unwrap();
            fails(&Host::new(), &said(command.output().unwrap()), &["lab.crt: it holds no cert"]);
            std::fs::remove_dir_all(&place).unwrap();
        }
    }
    let host = Host::new();
    let mut command = host.command(["pull", &format!("{PUBLIC}:8443/a:1")]);
    let wrong_name = said(command.env("SSL_CERT_FILE", &authority).output().unwrap());
    fails(&host, &wrong_name, &["not valid for name", "other.test"]);
}

fn a_certificate_of_ours_is_shown(folder: &Path) {
    let reference = format!("{PUBLIC}:9443/a:1");
    let place = PathBuf::from(format!("/etc/containers/certs.d/{PUBLIC}:9443"));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(folder.join("ca.crt"), place.join("ca.crt")).unwrap();
    let host = Host::new();
    fails(&host, &pull(&host, &[], &reference), &["answered 400"]);
    std::fs::copy(folder.join("client.crt"), place.join("client.cert")).unwrap();
    fails(&host, &pull(&host, &[], &reference), &["client.cert: its key beside it"]);
    std::fs::copy(folder.join("client.key"), place.join("client.key")).unwrap();
    assert_eq!(pull(&host, &[], &reference).code, Some(0));
}

fn tls_and_plain_are_told_apart() {
    let plain = registry_at(&format!("{PUBLIC}:0"));
    let reference = plain.reference("a:1");
    let host = Host::new();
    let words = ["answered plain HTTP where TLS was expected", "--plain-http"];
    fails(&host, &pull(&host, &[], &reference), &words);
    assert_eq!(pull(&host, &["--plain-http"], &reference).code, Some(0));
    assert_eq!(pull(&Host::new(), &["--tls-verify=false"], &reference).code, Some(0));
    let host = Host::new();
    let said = pull(&host, &["--plain-http"], &format!("{PUBLIC}:443/a:1"));
    fails(&host, &said, &["speaks TLS, not plain HTTP"]);
    // The loopback needs no flag, whichever it speaks, and no certificate.
    assert_eq!(pull(&host, &[], "localhost:5443/a:1").code, Some(0));
}

/// A registry that need not prove itself, because it is this host, leads to one that has to.
fn others_are_checked_and_shown_nothing(folder: &Path) {
    let registry = registry_at("127.0.0.1:0");
    let pull = |to: &str| {
        registry.state().redirect_blobs_to = Some(format!("https://{to}"));
        let host = Host::new();
        let mut command = host.command(["pull", &registry.reference("a:1")]);
        let trusting = said(command.env("SSL_CERT_FILE", folder.join("ca.crt")).output().unwrap());
        let host = Host::new();
        (host.run(["pull", &registry.reference("a:1")]), trusting)
    };
    let (said, trusting) = pull(PUBLIC);
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.err.contains(&format!("the certificate of {PUBLIC} is not trusted")), "{said:?}");
    assert_eq!(trusting.code, Some(0), "{trusting:?}");
    // One that asks for a certificate of ours gets none that is for this registry.
    let place = PathBuf::from("/etc/containers/certs.d").join(&registry.address);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(folder.join("client.crt"), place.join("client.cert")).unwrap();
    std::fs::copy(folder.join("client.key"), place.join("client.key")).unwrap();
    std::fs::remove_dir_all(format!("/etc/containers/certs.d/{PUBLIC}:9443")).unwrap();
    let (_, trusting) = pull(&format!("{PUBLIC}:9443"));
    assert!(trusting.code == Some(125) && trusting.err.contains("answered 400"), "{trusting:?}");
}

fn nothing_leads_from_tls_to_plain(registry: &Registry, folder: &Path) {
    let elsewhere = mirror(registry, &format!("{PUBLIC_TOO}:0"));
    let to = |address: &str| Some(format!("http://{address}"));
    let pull = || {
        let host = Host::new();
        let mut command = host.command(["pull", "registry.test/a:1"]);
        let said = said(command.env("SSL_CERT_FILE", folder.join("ca.crt")).output().unwrap());
        (host, said)
    };
    registry.state().redirect_blobs_to = to(&elsewhere.address);
    let (host, said) = pull();
    fails(&host, &said, &["redirects from TLS to plain HTTP"]);
    registry.state().redirect_blobs_to = None;
    registry.state().wants_token = true;
    registry.state().realm = to(&elsewhere.address);
    let (host, said) = pull();
    fails(&host, &said, &["token server without TLS"]);
    assert_eq!(elsewhere.state().log, Vec::<String>::new());
}

/// A registry at `at` leads to `to` with its blobs, and once with its tokens.
struct Led {
    host: Host,
    by_redirect: Said,
    by_realm: Said,
    /// What the other server was asked.
    asked: Vec<String>,
}

fn led(at: &str, to: &str, name: Option<&str>, trusted: Option<&str>) -> Led {
    led_by(at, None, to, name, trusted)
}

/// The same, of a registry that is called by a name, with further settings.
fn led_by(
    at: &str,
    called: Option<&str>,
    to: &str,
    name: Option<&str>,
    setting: Option<&str>,
) -> Led {
    let registry = registry_at(&format!("{at}:0"));
    let elsewhere = mirror(&registry, &format!("{to}:0"));
    let port = elsewhere.address.rsplit_once(':').unwrap().1;
    let url = format!("http://{}:{port}", name.unwrap_or(to));
    let host = Host::new();
    let pull = || {
        let own_port = registry.address.rsplit_once(':').unwrap().1;
        let reference = match called {
            Some(called) => format!("{called}:{own_port}/a:1"),
            None => registry.reference("a:1"),
        };
        let mut command = host.command(["pull", "-q", "--plain-http", &reference]);
        let variable = match setting {
            Some(setting) if setting.starts_with("http://") => "http_proxy",
            _ => "RRUN_TRUSTED_HOSTS",
        };
        said(command.envs(setting.map(|setting| (variable, setting))).output().unwrap())
    };
    registry.state().redirect_blobs_to = Some(url.clone());
    let by_redirect = pull();
    registry.state().redirect_blobs_to = None;
    registry.state().wants_token = true;
    registry.state().realm = Some(format!("{url}/token"));
    let by_realm = pull();
    let asked = elsewhere.state().log.clone();
    Led { host, by_redirect, by_realm, asked }
}

#[test]
fn a_registry_leads_to_nothing_nearer_than_itself() {
    on_an_island(|| {
        for (at, to, name) in [
            (PUBLIC, PRIVATE, None),
            (PUBLIC, PRIVATE, Some("inside.test")),
            (PUBLIC, METADATA, None),
            (PUBLIC, "127.0.0.1", None),
            (PUBLIC, "127.0.0.1", Some("localhost")),
            (PRIVATE, "127.0.0.1", None),
            (PRIVATE, METADATA, None),
            ("127.0.0.1", METADATA, None),
        ] {
            let led = led(at, to, name, None);
            let words = ["leads to ", to, "RRUN_TRUSTED_HOSTS=HOST"];
            fails(&led.host, &led.by_redirect, &words);
            fails(&led.host, &led.by_realm, &words);
            assert_eq!(led.asked, Vec::<String>::new(), "{at} {to}");
        }
        for (at, to, name, trusted) in [
            (PUBLIC, PUBLIC_TOO, None, None),
            (PUBLIC, PUBLIC_TOO, Some("store.test"), None),
            (PRIVATE, PRIVATE_TOO, None, None),
            ("127.0.0.1", PRIVATE, Some("inside.test"), None),
            (PUBLIC, PRIVATE, Some("inside.test"), Some("other.test,inside.test")),
        ] {
            let led = led(at, to, name, trusted);
            assert_eq!(led.by_redirect.code, Some(0), "{at} {to}: {:?}", led.by_redirect);
            assert_eq!(led.by_realm.code, Some(0), "{at} {to}: {:?}", led.by_realm);
            assert!(!led.asked.is_empty());
        }
    });
}

#[test]
fn the_address_that_answered_decides_where_a_registry_may_lead() {
    on_an_island(|| {
        // Its name means near addresses as well, at which nobody answers.
        for (to, name) in [
            (PRIVATE_TOO, None),
            (PRIVATE, Some("inside.test")),
            ("127.0.0.1", None),
            ("127.0.0.1", Some("localhost")),
            ("127.0.0.1", Some("both.test")),
        ] {
            let led = led_by(PUBLIC, Some("both.test"), to, name, None);
            fails(&led.host, &led.by_redirect, &["cannot pull both.test"]);
            fails(&led.host, &led.by_realm, &["cannot pull both.test"]);
            assert_eq!(led.asked, Vec::<String>::new(), "{to} {name:?}");
        }
        let led = led_by(PUBLIC, Some("both.test"), PUBLIC_TOO, Some("store.test"), None);
        assert_eq!(led.by_redirect.code, Some(0), "{:?}", led.by_redirect);
        assert_eq!(led.by_realm.code, Some(0), "{:?}", led.by_realm);
        // And one that answers from the private network leads there.
        let led = led_by(PRIVATE, Some("inside.test"), PRIVATE_TOO, None, None);
        assert_eq!(led.by_redirect.code, Some(0), "{:?}", led.by_redirect);
    });
}

#[test]
fn through_a_proxy_a_name_counts_as_public() {
    on_an_island(|| {
        let proxy = proxy(&format!("{PRIVATE}:0"));
        for to in [PRIVATE_TOO, "127.0.0.1", METADATA] {
            let led = led_by(PUBLIC, Some("registry.test"), to, None, Some(&proxy));
            fails(&led.host, &led.by_redirect, &["leads to ", to]);
            fails(&led.host, &led.by_realm, &["leads to ", to]);
            assert_eq!(led.asked, Vec::<String>::new(), "{to}");
        }
        let led =
            led_by(PUBLIC, Some("registry.test"), PUBLIC_TOO, Some("store.test"), Some(&proxy));
        assert_eq!(led.by_redirect.code, Some(0), "{:?}", led.by_redirect);
        assert!(!led.asked.is_empty());
    });
}

/// A proxy for plain HTTP, until the process ends; its address as a URL.
fn proxy(address: &str) -> String {
    let listener = TcpListener::bind(address).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = pass_on(&stream);
        }
    });
    url
}

/// One request to where its line says, and the answer back.
fn pass_on(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (method, rest) = line.split_once(" http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut head = format!("{method} /{path}");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        head += &line;
        if line.trim().is_empty() {
            break;
        }
    }
    let mut server = TcpStream::connect(host)?;
    server.write_all(head.as_bytes())?;
    server.shutdown(std::net::Shutdown::Write)?;
    let mut answer = BufReader::new(server);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    stream.write_all(format!("{line}Connection: close\r\n").as_bytes())?;
    std::io::copy(&mut answer, &mut stream)?;
    stream.shutdown(std::net::Shutdown::Both)
}

#[test]
fn known_bad_measures_are_missed() {
    crate::known_bad::are_missed(&[
        (
            "fence-connected",
            "images::network::the_address_that_answered_decides_where_a_registry_may_lead",
        ),
        ("fence", "images::network::a_registry_leads_to_nothing_nearer_than_itself"),
        (
            "same-origin",
            "images::pulling::tokens_are_fetched_without_a_name_and_never_go_elsewhere",
        ),
        ("credentials-fenced", "images::logins::credentials_go_to_nobody_without_tls"),
        ("boot-compared", "images::power::after_a_power_cut_no_half_layer_is_used"),
        ("synced-before-marked", "images::power::after_a_power_cut_no_half_layer_is_used"),
        ("record-synced", "images::power::after_a_power_cut_no_half_layer_is_used"),
        ("unpacked-inside", "images::unpacking::the_corpus_shows_what_is_expected_of_it"),
    ]);
}
