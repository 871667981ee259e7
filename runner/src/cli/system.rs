//! `version` and `info`.

use serde_json::json;

use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::print_inspected;
use crate::cli::{Globals, Verb, print, version_line};
use crate::failure::Failure;
use crate::launch::state::{self, Status};

const FORMAT: Flag = Flag::one("format", "json|TEMPLATE", "how it is shown").short('f');

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["info", "system info"],
        operands: "",
        operands_min: 0,
        operands_max: 0,
        about: "Show where things are kept and how many there are",
        details: "`rrun doctor` tells what this host offers.",
        flags: &[FORMAT],
        flags_end: FlagsEnd::AtDashes,
        run: info,
    },
    Verb {
        names: &["version"],
        operands: "",
        operands_min: 0,
        operands_max: 0,
        about: "Show the version",
        details: "",
        flags: &[FORMAT],
        flags_end: FlagsEnd::AtDashes,
        run: version,
    },
];

/// The processor as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn version(_globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let value = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
    });
    match arguments.value("format") {
        Some("json") => crate::cli::print_line(&value.to_string())?,
        Some(format) => {
            // `docker version -f '{{.Client.Version}}'` and `{{.Server.Version}}` are both we.
            let mut all = value.clone();
            all["Client"] = value.clone();
            all["Server"] = value;
            print_inspected(&[all], Some(format))?;
        }
        None => {
            let line = version_line();
            print(&format!("{line}\nlinux/{}, kernel {kernel}\n", architecture()))?;
        }
    }
    Ok(0)
}

fn info(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let (mut running, mut paused, mut stopped) = (0, 0, 0);
    let ids = store.container_ids()?;
    for id in &ids {
        match state::status(&globals.dirs.root, &globals.dirs.runroot, id) {
            Ok(Status::Running(_)) => running += 1,
            Ok(Status::Paused(_)) => paused += 1,
            _ => stopped += 1,
        }
    }
    let uname = rustix::system::uname();
    let value = json!({
        "Containers": ids.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": stopped,
        "Images": store.images()?.len(),
        "Driver": "overlayfs",
        "KernelVersion": uname.release().to_string_lossy(),
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "Name": uname.nodename().to_string_lossy(),
        "RootDir": globals.dirs.root,
        "RunRootDir": globals.dirs.runroot,
        "ServerVersion": env!("CARGO_PKG_VERSION"),
    });
    match arguments.value("format") {
        Some("json") => crate::cli::print_line(&value.to_string())?,
        Some(format) => print_inspected(&[value], Some(format))?,
        None => {
            let mut text = String::new();
            for (key, value) in value.as_object().into_iter().flatten() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text.push_str(&format!("{key}: {value}\n"));
            }
            print(&text)?;
        }
    }
    Ok(0)
}
