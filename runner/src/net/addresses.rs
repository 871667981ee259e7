//! Which container has which address: a directory of names, since to make a link is to take it. A
//! restart of the machine frees all.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::definition::Definition;
use super::files::{Places, absent};

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("no address is left")]
    Exhausted,
    /// By the container of this id.
    #[error("it is taken")]
    Taken(String),
    #[error("it is not in the network's range")]
    Outside,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Chooses an address, `wish` or the next one after the last. Not the lowest that is free: others
/// remember connections to the last one who had that. Under the lock it stays free until [`take`].
pub(super) fn choose(
    places: &Places,
    network: &Definition,
    wish: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, NoAddress> {
    if let Some(wish) = wish {
        if !network.subnet.hosts().contains(&wish.to_bits()) || wish == network.gateway {
            return Err(NoAddress::Outside);
        }
        return match owner(places, network, wish)? {
            None => Ok(wish),
            Some(owner) if is_left(places, &owner) => Ok(wish),
            Some(owner) => Err(NoAddress::Taken(owner)),
        };
    }
    match next(places, network)? {
        Some(address) => Ok(address),
        None => {
            sweep(places, &network.id)?;
            next(places, network)?.ok_or(NoAddress::Exhausted)
        }
    }
}

fn next(places: &Places, network: &Definition) -> io::Result<Option<Ipv4Addr>> {
    let range = network.range.unwrap_or(network.subnet);
    let hosts = network.subnet.hosts();
    let first = (*hosts.start()).max(range.first().to_bits());
    let last = (*hosts.end()).min(range.last().to_bits());
    let before = fs::read_to_string(last_file(places, network)).ok();
    let before = before.and_then(|text| text.parse().ok()).map(Ipv4Addr::to_bits);
    let after = before.filter(|before| (first..last).contains(before)).map_or(first, |at| at + 1);
    for number in (after..=last).chain(first..after) {
        let address = Ipv4Addr::from(number);
        if address != network.gateway && owner(places, network, address)?.is_none() {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

fn last_file(places: &Places, network: &Definition) -> PathBuf {
    places.network(&network.id).join("last")
}

/// Takes a chosen address for a container, whose `net.json` names it already.
pub(super) fn take(
    places: &Places,
    network: &Definition,
    address: Ipv4Addr,
    container: &str,
) -> io::Result<()> {
    let link = link(places, &network.id, address);
    absent(fs::remove_file(&link))?;
    symlink(container, link)?;
    fs::write(last_file(places, network), address.to_string())
}

/// Whether a link's owner has nothing to do with networks any more: its file is written before a
/// link and removed after it.
fn is_left(places: &Places, owner: &str) -> bool {
    matches!(places.attached(owner), Ok(None))
}

/// Removes the links that owners have left, which takes somebody to remove their run directories.
fn sweep(places: &Places, network_id: &str) -> io::Result<()> {
    for (address, owner) in owners(places, network_id)? {
        if is_left(places, &owner) {
            absent(fs::remove_file(link(places, network_id, address)))?;
        }
    }
    Ok(())
}

fn link(places: &Places, network_id: &str, address: Ipv4Addr) -> PathBuf {
    places.network(network_id).join("ip").join(address.to_string())
}

fn owner(places: &Places, network: &Definition, address: Ipv4Addr) -> io::Result<Option<String>> {
    match fs::read_link(link(places, &network.id, address)) {
        Ok(owner) => Ok(Some(owner.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives an address back, if it is this container's.
pub(super) fn give_back(
    places: &Places,
    network_id: &str,
    address: Ipv4Addr,
    container: &str,
) -> io::Result<()> {
    let link = link(places, network_id, address);
    match fs::read_link(&link) {
        Ok(owner) if owner.as_os_str() == container => absent(fs::remove_file(link)),
        Ok(_) => Ok(()),
        Err(error) => absent(Err(error)),
    }
}

/// Whether anybody has an address in the network.
pub(super) fn owners(places: &Places, network_id: &str) -> io::Result<Vec<(Ipv4Addr, String)>> {
    let mut all = Vec::new();
    for path in super::files::list(&places.network(network_id).join("ip"))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let (Ok(address), Ok(owner)) = (name.parse(), fs::read_link(&path)) {
            all.push((address, owner.to_string_lossy().into_owned()));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirs::Dirs;
    use crate::net::definition::{NewNetwork, settle};
    use crate::net::files::Attached;

    fn network() -> (tempfile::TempDir, Places, Definition) {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = Dirs { root: temporary.path().join("root"), runroot: temporary.path().into() };
        let places = Places::of(&dirs);
        let asked = NewNetwork {
            name: "few".into(),
            subnet: Some("10.1.2.0/29".parse().unwrap()),
            ..NewNetwork::default()
        };
        let network = settle(&places, asked, &[]).unwrap();
        places.make_network(&network.id).unwrap();
        (temporary, places, network)
    }

    #[test]
    fn the_next_and_not_the_lowest_until_none_is_left() {
        let (temporary, places, network) = network();
        for container in ["a", "b", "c"] {
            fs::create_dir_all(temporary.path().join("c").join(container)).unwrap();
            places.write_attached(container, &Attached::default()).unwrap();
        }
        let taken = |container: &str| {
            let address = choose(&places, &network, None)?;
            take(&places, &network, address, container)?;
            Ok::<_, NoAddress>(address)
        };
        let all: Vec<u8> = (0..5).map(|_| taken("a").unwrap().octets()[3]).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        assert!(matches!(taken("a"), Err(NoAddress::Exhausted)));
        let third = Ipv4Addr::new(10, 1, 2, 3);
        give_back(&places, &network.id, third, "b").unwrap();
        assert!(matches!(taken("c"), Err(NoAddress::Exhausted)), "not b's to give back");
        give_back(&places, &network.id, third, "a").unwrap();
        give_back(&places, &network.id, third, "a").unwrap();
        assert_eq!(taken("c").unwrap(), third);
        let wish = |last| choose(&places, &network, Some(Ipv4Addr::new(10, 1, 2, last)));
        assert!(matches!(wish(3), Err(NoAddress::Taken(owner)) if owner == "c"));
        for outside in [0, 1, 7, 8] {
            assert!(matches!(wish(outside), Err(NoAddress::Outside)), "{outside}");
        }
        // Of a container whose run directory somebody has removed.
        places.forget_attached("a").unwrap();
        assert!(wish(4).is_ok());
        assert_eq!(taken("b").unwrap(), Ipv4Addr::new(10, 1, 2, 4));
        assert_eq!(owners(&places, &network.id).unwrap().len(), 2);
    }
}
