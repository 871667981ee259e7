//! A network of its own, with addresses of every kind, and names for them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// On the public internet, as far as anybody here can tell (RFC 5737).
pub(crate) const PUBLIC: &str = "203.0.113.10";
pub(crate) const PUBLIC_TOO: &str = "203.0.113.20";
pub(crate) const PRIVATE: &str = "10.1.2.3";
pub(crate) const PRIVATE_TOO: &str = "10.9.9.9";
/// Where clouds tell a machine its secrets.
pub(crate) const METADATA: &str = "169.254.169.254";

const NAMES: &str = "127.0.0.1 localhost\n\
    203.0.113.10 registry.test\n203.0.113.20 store.test\n10.1.2.3 inside.test\n\
    203.0.113.10 both.test\n10.1.2.3 both.test\n127.0.0.1 both.test\n";

/// Runs `test` in a thread that has network and mounts of its own; servers and commands that it
/// starts have them too. `/etc/containers` is empty there.
pub(crate) fn on_an_island(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            let names = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(names.path(), NAMES).unwrap();
            mount(Some(names.path()), "/etc/hosts", none, MsFlags::MS_BIND, none).unwrap();
            std::fs::create_dir_all("/etc/containers").unwrap();
            mount(Some("tmpfs"), "/etc/containers", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            for address in [PUBLIC, PUBLIC_TOO, PRIVATE, PRIVATE_TOO, METADATA] {
                run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(crate) fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

/// An authority, and certificates by it.
pub(crate) struct Authority<'a>(pub(crate) &'a Path);

impl Authority<'_> {
    /// Makes `ca.crt`.
    pub(crate) fn found(&self) {
        let words = ["-x509", "-days", "2", "-subj", "/CN=Lab CA", "-out", "ca.crt"];
        self.openssl(&[&["req"][..], &NEW_KEY, &["-keyout", "ca.key"], &words].concat());
    }

    /// Makes `NAME.crt` and `NAME.key` for these subject alternative names.
    pub(crate) fn vouch_for(&self, name: &str, names: &str) {
        let file = |extension: &str| format!("{name}.{extension}");
        let (key, request, certificate, extensions) =
            (file("key"), file("csr"), file("crt"), file("ext"));
        let lines = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.0.join(&extensions), lines).unwrap();
        let words = ["-keyout", &key, "-subj", "/CN=server", "-out", &request];
        self.openssl(&[&["req"][..], &NEW_KEY, &words].concat());
        let signed = ["x509", "-req", "-days", "2", "-in", &request, "-CA", "ca.crt"];
        let by = ["-CAkey", "ca.key", "-CAcreateserial", "-extfile", &extensions];
        self.openssl(&[&signed[..], &by, &["-out", &certificate]].concat());
    }

    fn openssl(&self, words: &[&str]) {
        let output = Command::new("openssl").args(words).current_dir(self.0).output().unwrap();
        assert!(output.status.success(), "openssl {words:?}: {output:?}");
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// A server that speaks TLS in front of one that does not.
pub(crate) struct Front(Child);

impl Front {
    /// `servers`: each an address with port and further lines of nginx's for it. Certificates and
    /// everything else lie in `folder`.
    pub(crate) fn start(folder: &Path, behind: &str, servers: &[(&str, &str)]) -> Self {
        let mut text = format!(
            "daemon off;\nmaster_process off;\nuser root;\nerror_log {0}/error.log;\n\
             pid {0}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n",
            folder.display()
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            text += &format!("{kind}_temp_path {}/{kind};\n", folder.display());
        }
        for (address, lines) in servers {
            text += &format!(
                "server {{\nlisten {address} ssl;\n{lines}\n\
                 location / {{ proxy_pass http://{behind}; proxy_set_header Host $http_host; }}\n}}\n"
            );
        }
        text += "}\n";
        let configuration = folder.join("nginx.conf");
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(&configuration);
        let mut front = Self(command.stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        for (address, _) in servers {
            while std::net::TcpStream::connect(address).is_err() {
                assert!(front.0.try_wait().unwrap().is_none(), "nginx has ended");
                assert!(Instant::now() < deadline, "nginx does not listen on {address}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        front
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
