//! The files of docs/proxies as they stand, but for ports and certificates: a layer of 20 MiB goes
//! through each of them, over TLS, both ways.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use conformance::checks::Checks;
use conformance::janitor::Scratch;
use conformance::process::{self, Server};
use conformance::registry::{Options, Registry, free_port};
use conformance::{image, tool, wait, workspace};

/// Larger than what nginx takes unless told otherwise (1 MiB), and than any buffer.
const LAYER_BYTES: usize = 20 << 20;

/// The file of this name for `registry` and `port`.
fn prepare(name: &str, scratch: &Path, registry: &Registry, port: u16) -> Result<String> {
    let text = fs::read_to_string(workspace().join("docs/proxies").join(name))?;
    let directory = format!("{}/", scratch.display());
    let listen = format!("127.0.0.1:{port}");
    let text = text
        .replace("/etc/ssl/", &directory)
        .replace("127.0.0.1:5000", &registry.host())
        .replace("listen 443", &format!("listen {listen}"))
        .replace("bind :443", &format!("bind {listen}"));
    ensure!(text.contains(&listen), "{name} listens nowhere:\n{text}");
    let path = scratch.join(name);
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

fn goes_through(name: &str, command: impl FnOnce(&str) -> Result<Command>) -> Result<()> {
    let scratch = Scratch::new("proxy")?;
    process::run(
        Command::new(tool("openssl")?)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost", "-days", "30", "-out"])
            .arg(scratch.join("registry.crt"))
            .arg("-keyout")
            .arg(scratch.join("registry.key")),
    )?;
    fs::create_dir(scratch.join("certs"))?;
    fs::copy(scratch.join("registry.crt"), scratch.join("certs/ca.crt"))?;
    let registry = Registry::start(Options::default())?;
    let port = free_port()?;
    let file = prepare(name, scratch.path(), &registry, port)?;
    let mut proxy = Server::start(&mut command(&file)?, &scratch.join("log"))?;
    wait::until("the proxy to listen", Duration::from_secs(20), || {
        proxy.check()?;
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
    })?;
    let made = image::oci_image(&[("layer", &image::noise(7, LAYER_BYTES))])?;
    image::push_image(&registry, "direct", "v1", &made)?;
    let direct = format!("docker://{}/direct:v1", registry.host());
    let through = format!("docker://localhost:{port}/through:v1");
    let certs = scratch.join("certs").to_string_lossy().into_owned();
    let skopeo = |arguments: &[&str]| {
        process::run(Command::new(tool("skopeo")?).arg("copy").args(arguments)).map(drop)
    };
    skopeo(&["--src-tls-verify=false", "--dest-cert-dir", &certs, &direct, &through])?;
    let pulled = format!("dir:{}", scratch.join("pulled").display());
    skopeo(&["--src-cert-dir", &certs, &through, &pulled])?;
    let manifest = fs::read(scratch.join("pulled/manifest.json"))?;
    ensure!(image::sha256(&manifest) == made.digest(), "another image came back");
    Ok(())
}

#[test]
fn a_large_layer_goes_through_both_ways() -> Result<()> {
    let mut checks = Checks::default();
    checks.check("nginx", || {
        goes_through("nginx.conf", |file| {
            let mut command = Command::new(tool("nginx")?);
            command.args(["-c", file, "-g", "daemon off; pid /dev/null;"]);
            Ok(command)
        })
    });
    checks.check("HAProxy", || {
        goes_through("haproxy.cfg", |file| {
            let mut command = Command::new(tool("haproxy")?);
            command.args(["-db", "-f", file]);
            Ok(command)
        })
    });
    checks.finish()
}

/// What the page says about a line stands in the file.
#[test]
fn the_lines_that_matter_are_there() -> Result<()> {
    let mut checks = Checks::default();
    for (name, lines) in [
        (
            "nginx.conf",
            &[
                "client_max_body_size 0;",
                "proxy_request_buffering off;",
                "http2_body_preread_size 1m;",
            ][..],
        ),
        (
            "haproxy.cfg",
            &[
                "timeout server 15m",
                "option httpchk GET /readyz",
                "tune.h2.initial-window-size 1048576",
            ],
        ),
        ("Caddyfile", &["reverse_proxy 127.0.0.1:5000"]),
        ("traefik.yml", &["readTimeout: 0"]),
    ] {
        checks.check(name, || {
            let text = fs::read_to_string(workspace().join("docs/proxies").join(name))?;
            for line in lines {
                ensure!(text.contains(line), "{line} is missing");
            }
            Ok(())
        });
    }
    checks.finish()
}
