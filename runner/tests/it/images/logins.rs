//! Who somebody is at a registry: told where it is asked for, and to nobody else.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::corpus::Encoding;
use crate::corpus::tar::{file, tar};
use crate::images::host::{Host, Said, said};
use crate::images::island::{PRIVATE, PRIVATE_TOO, on_an_island};
use crate::images::registry::Registry;

/// `ann:se:cret`
const ANN: &str = "YW5uOnNlOmNyZXQ=";

/// A registry that only ann may pull from.
fn registry(asks_directly: bool) -> Registry {
    registry_at("127.0.0.1:0", asks_directly)
}

fn registry_at(address: &str, asks_directly: bool) -> Registry {
    let registry = Registry::start_at(address);
    registry.image("team/app:1", &[(tar([file("f", b"x")]), Encoding::Gzip)]);
    registry.state().login = Some(ANN.into());
    registry.state().asks_directly = asks_directly;
    registry
}

fn write(host: &Host, path: &str, text: &str) {
    let path = host.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn log_in(host: &Host, words: &[&str], password: &str) -> Said {
    let words = ["login", "-u", "ann", "--password-stdin"].iter().chain(words);
    let mut command = host.command(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    said(child.wait_with_output().unwrap())
}

#[test]
fn a_login_is_proven_kept_and_used() {
    for asks_directly in [false, true] {
        let (registry, host) = (registry(asks_directly), Host::new());
        let name = registry.reference("team/app:1");
        let refused = host.run(["pull", "-q", &name]);
        assert_eq!(refused.code, Some(125), "{refused:?}");
        let hint = format!("hint: rrun login {}", registry.address);
        assert!(refused.err.contains("needs a login to pull team/app"), "{refused:?}");
        assert!(refused.err.contains(&hint), "{refused:?}");

        let wrong = log_in(&host, &[&registry.address], "guess\n");
        assert_eq!(wrong.code, Some(125), "{wrong:?}");
        assert!(wrong.err.contains("refuses that login"), "{wrong:?}");
        let kept = host.path().join("runtime/containers/auth.json");
        assert!(!kept.exists(), "what was refused is kept");

        let right = log_in(&host, &[&registry.address], "se:cret\n");
        assert_eq!(right.code, Some(0), "{right:?}");
        assert_eq!(right.out, "Login Succeeded\n");
        assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&kept).unwrap().contains(ANN));
        assert_eq!(host.ok(["login", "--get-login", &registry.address]), "ann\n");
        host.ok(["pull", "-q", &name]);

        let gone = host.ok(["logout", &registry.address]);
        assert!(gone.starts_with("Removing login credentials for "), "{gone}");
        let gone = host.ok(["logout", &registry.address]);
        assert_eq!(gone, format!("Not logged in to {}\n", registry.address));
        host.ok(["rmi", &name]);
        assert_eq!(host.run(["pull", "-q", &name]).code, Some(125));
        host.ok(["pull", "-q", "--creds", "ann:se:cret", &name]);
    }
}

#[test]
fn what_docker_podman_and_their_helpers_have_kept_is_used() {
    let registry = registry(false);
    let (name, address) = (registry.reference("team/app:1"), &registry.address);
    let auths = format!(r#"{{"auths":{{"{address}":{{"auth":"{ANN}"}}}}}}"#);
    let narrow = format!(r#"{{"auths":{{"{address}/team":{{"auth":"{ANN}"}}}}}}"#);
    let token = format!(r#"{{"auths":{{"{address}":{{"identitytoken":"kept-token"}}}}}}"#);
    let helper = format!(r#"{{"credHelpers":{{"{address}":"test"}},"auths":{{}}}}"#);
    for (path, text) in [
        ("home/.docker/config.json", &auths),
        ("home/.config/containers/auth.json", &narrow),
        ("runtime/containers/auth.json", &token),
        ("home/.docker/config.json", &helper),
    ] {
        let host = Host::new();
        write(&host, path, text);
        let program = "#!/bin/sh\nread server\n\
            [ \"$1 $server\" = \"get ADDRESS\" ] || { echo 'credentials not found in native keychain'; exit 1; }\n\
            echo '{\"ServerURL\":\"ADDRESS\",\"Username\":\"ann\",\"Secret\":\"se:cret\"}'\n";
        write(&host, "bin/docker-credential-test", &program.replace("ADDRESS", address));
        let program = host.path().join("bin/docker-credential-test");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path =
            format!("{}:{}", host.path().join("bin").display(), std::env::var("PATH").unwrap());
        let pulled = said(host.command(["pull", "-q", &name]).env("PATH", path).output().unwrap());
        assert_eq!(pulled.code, Some(0), "{text}: {pulled:?}");
    }
    let host = Host::new();
    let by_environment =
        host.command(["pull", "-q", &name]).env("DOCKER_AUTH_CONFIG", &auths).output().unwrap();
    assert!(by_environment.status.success());
}

#[test]
fn what_cannot_be_read_is_told_and_not_left_out() {
    let registry = registry(false);
    let name = registry.reference("team/app:1");
    let missing = format!(r#"{{"credHelpers":{{"{}":"nonexistent"}}}}"#, registry.address);
    let unreadable = format!(r#"{{"auths":{{"{}":{{"auth":"!"}}}}}}"#, registry.address);
    for (text, words) in [
        ("{", "no JSON object"),
        (missing.as_str(), "docker-credential-nonexistent"),
        (unreadable.as_str(), "not base64"),
    ] {
        let host = Host::new();
        write(&host, "home/.docker/config.json", text);
        let failed = host.run(["pull", "-q", &name]);
        assert_eq!(failed.code, Some(125), "{failed:?}");
        assert!(failed.err.contains(words), "{words}: {failed:?}");
    }
    let host = Host::new();
    let failed = host.run(["pull", "-q", "--authfile", "/nonexistent/auth.json", &name]);
    assert!(failed.err.contains("/nonexistent/auth.json"), "{failed:?}");
    // Nobody asks at this one: what is not needed stops nobody.
    registry.state().login = None;
    write(&host, "home/.docker/config.json", "{");
    host.ok(["pull", "-q", &name]);
}

/// A registry may name any token server; ann's password is for her registry.
#[test]
fn credentials_go_to_nobody_without_tls() {
    on_an_island(|| {
        let registry = registry_at(&format!("{PRIVATE}:0"), false);
        let elsewhere = Registry::start_at(&format!("{PRIVATE_TOO}:0"));
        elsewhere.state().login = Some(ANN.into());
        registry.state().realm = Some(format!("http://{}/token", elsewhere.address));
        let host = Host::new();
        let name = registry.reference("team/app:1");
        let words = ["pull", "-q", "--plain-http", "--creds", "ann:se:cret", &name];
        let failed = host.run(words);
        assert_eq!(failed.code, Some(125), "{failed:?}");
        assert!(failed.err.contains("credentials are not sent there"), "{failed:?}");
        assert_eq!(elsewhere.state().log, Vec::<String>::new());
        // At the registry's own address it was allowed by --plain-http.
        registry.state().realm = None;
        host.ok(words);
    });
}
