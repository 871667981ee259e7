//! Who is found by which name in a network: `names/<name>/<address>`, links to the container's id.
//! Directories, so that several containers can have one name, and so that whoever answers needs
//! nothing but a descriptor of `names/`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::PathBuf;

use super::files::{Endpoint, Places, absent};

/// `$RUN/net/n/<id12>/names`
pub(super) fn directory(places: &Places, network_id: &str) -> PathBuf {
    places.network(network_id).join("names")
}

/// Enters a container under its names. Under the lock.
pub(super) fn enter(places: &Places, place: &Endpoint, container: &str) -> io::Result<()> {
    for name in &place.names {
        let of_name = directory(places, &place.network_id).join(name);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&of_name)?;
        let link = of_name.join(place.ipv4.to_string());
        // Of one who had the address before, and has been killed.
        absent(fs::remove_file(&link))?;
        symlink(container, link)?;
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
