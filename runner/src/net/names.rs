//! Who is found by which name in a network: `names/<name>/<address>`, links to the container's id.
//! Directories, so that several containers can have one name, and so that whoever answers needs
//! nothing but a descriptor of `names/`.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::PathBuf;

use rustix::fs::{Dir, Mode, OFlags};

use super::files::{Endpoint, Places, absent};

/// What is behind the id where the name is a further one.
const FURTHER: &str = ":alias";

/// Addresses of one name that are told.
const ADDRESSES_MAX: usize = 1024;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `$RUN/net/n/<id12>/names`
fn directory(places: &Places, network_id: &str) -> PathBuf {
    places.network(network_id).join("names")
}

/// Enters a container under its names, the first of which is its own. Under the lock.
pub(super) fn enter(places: &Places, place: &Endpoint, container: &str) -> io::Result<()> {
    for (at, name) in place.names.iter().enumerate() {
        let of_name = directory(places, &place.network_id).join(name);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&of_name)?;
        let link = of_name.join(place.ipv4.to_string());
        // Of one who had the address before, and has been killed.
        absent(fs::remove_file(&link))?;
        symlink(format!("{container}{}", if at == 0 { "" } else { FURTHER }), link)?;
    }
    Ok(())
}

/// Takes a container's names away; what is not there is away.
pub(super) fn leave(places: &Places, place: &Endpoint) -> io::Result<()> {
    for name in &place.names {
        let of_name = directory(places, &place.network_id).join(name);
        absent(fs::remove_file(of_name.join(place.ipv4.to_string())))?;
        // Others may be called so too.
        let _ = fs::remove_dir(of_name);
    }
    Ok(())
}

/// The names of one network, for whoever answers.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) directory: OwnedFd,
    pub(super) network: String,
}

impl Names {
    pub(super) fn open(places: &Places, place: &Endpoint) -> io::Result<Self> {
        let directory =
            rustix::fs::open(directory(places, &place.network_id), DIRECTORY, Mode::empty())?;
        Ok(Self { directory, network: place.network.to_ascii_lowercase() })
    }

    /// Whose name this is, NAME or NAME.NETWORK in lower case; none where it is nobody's.
    pub(super) fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let found = self.addresses_of(name);
        let shorter =
            name.strip_suffix(&self.network).and_then(|shorter| shorter.strip_suffix('.'));
        match (found.is_empty(), shorter) {
            (true, Some(shorter)) => self.addresses_of(shorter),
            _ => found,
        }
    }

    fn addresses_of(&self, name: &str) -> Vec<Ipv4Addr> {
        // What is no name of ours leads out of the directory.
        if !super::is_name(name) {
            return Vec::new();
        }
        let entries = entries(&self.directory, name);
        entries.iter().filter_map(|entry| entry.parse().ok()).take(ADDRESSES_MAX).collect()
    }

    /// The name of the container at an address, with its network's.
    pub(super) fn name_at(&self, address: Ipv4Addr) -> Option<String> {
        let names = entries(&self.directory, ".");
        let name = names.into_iter().filter(|name| super::is_name(name)).find(|name| {
            let link = format!("{name}/{address}");
            rustix::fs::readlinkat(&self.directory, link, Vec::new())
                .is_ok_and(|target| !target.to_bytes().ends_with(FURTHER.as_bytes()))
        })?;
        Some(format!("{name}.{}", self.network))
    }
}

fn entries(directory: &OwnedFd, name: &str) -> Vec<String> {
    let opened = rustix::fs::openat(directory.as_fd(), name, DIRECTORY, Mode::empty());
    let Ok(listed) = opened.and_then(Dir::new) else { return Vec::new() };
    let names = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}
