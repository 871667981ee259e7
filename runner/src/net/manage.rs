//! Networks as people make, find and remove them.

use std::io;

use super::definition::{self, DEFAULT, Definition, NewNetwork};
use super::error::{NetError, Why};
use super::files::{Attached, Endpoint, Places};
use super::netlink::Socket;
use super::{links, up};
use crate::dirs::Dirs;

/// Words that say something else than a network's name.
const NOT_NAMES: [&str; 5] = [DEFAULT, "host", "none", "default", "container"];

/// Digits of an id that are enough to be one, unless a name says so.
const ID_DIGITS_MIN: usize = 2;

/// Makes a network. Durable when it returns; its bridge comes with its first container.
///
/// # Errors
/// When it cannot be as asked for, or there is one of that name.
pub fn create(dirs: &Dirs, asked: NewNetwork) -> Result<Definition, NetError> {
    if NOT_NAMES.contains(&asked.name.as_str()) {
        return Err(NetError {
            // Docker's words.
            message: format!("operation is not permitted on predefined {} network", asked.name),
            hint: Some("rrun network create ANOTHER-NAME".to_owned()),
            ..NetError::default()
        });
    }
    let places = places(dirs)?;
    let _lock = places.lock().map_err(Why::io("cannot lock the networks"))?;
    if definition::read(&places, &asked.name).map_err(unreadable())?.is_some() {
        return Err(NetError {
            message: format!("network with name {} already exists", asked.name),
            hint: Some(format!("rrun network inspect {}", asked.name)),
            ..NetError::default()
        });
    }
    make(&places, asked)
}

fn places(dirs: &Dirs) -> Result<Places, NetError> {
    dirs.make_runroot().map_err(Why::io("cannot make the run directory"))?;
    Ok(Places::of(dirs))
}

fn unreadable() -> impl FnOnce(io::Error) -> Why {
    Why::io("cannot read the networks")
}

fn make(places: &Places, asked: NewNetwork) -> Result<Definition, NetError> {
    let (taken, _) = Socket::route()
        .and_then(|mut socket| links::taken(&mut socket))
        .map_err(Why::io("cannot read this host's routes"))?;
    let name = asked.name.clone();
    let made = definition::settle(places, asked, &taken).map_err(|error| NetError {
        message: format!("cannot make the network {name}: {error}"),
        hint: Some("rrun network create --subnet ADDRESS/BITS NAME".to_owned()),
        ..NetError::default()
    })?;
    definition::write(places, &made).map_err(Why::io("cannot write the network's definition"))?;
    Ok(made)
}

/// The network of this name; the default one is made where it is not there yet. Under the lock.
pub(super) fn named(places: &Places, name: &str) -> Result<Definition, NetError> {
    match definition::read(places, name).map_err(unreadable())? {
        Some(found) => Ok(found),
        None if name == DEFAULT => {
            let asked = NewNetwork { name: DEFAULT.to_owned(), ..NewNetwork::default() };
            make(places, asked)
        }
        None => Err(NetError::not_found(name)),
    }
}

/// The network of this name or id, or of the one id that begins so.
///
/// # Errors
/// When there is none.
pub fn find(dirs: &Dirs, wanted: &str) -> Result<Definition, NetError> {
    let known = all(dirs)?;
    if let Some(found) = known.iter().find(|one| one.name == wanted || one.id == wanted) {
        return Ok(found.clone());
    }
    let mut of_id = known.iter().filter(|one| one.id.starts_with(wanted));
    match (wanted.len() >= ID_DIGITS_MIN, of_id.next(), of_id.next()) {
        (true, Some(found), None) => Ok(found.clone()),
        (true, Some(_), Some(_)) => Err(NetError {
            message: format!("network {wanted} is ambiguous: several ids begin so"),
            hint: Some("rrun network ls --no-trunc".to_owned()),
            ..NetError::default()
        }),
        _ => Err(NetError::not_found(wanted)),
    }
}

/// All networks, by name, the default one among them.
///
/// # Errors
/// When they cannot be read.
pub fn all(dirs: &Dirs) -> Result<Vec<Definition>, NetError> {
    let places = places(dirs)?;
    let known = definition::all(&places).map_err(unreadable())?;
    if known.iter().any(Definition::is_default) {
        return Ok(known);
    }
    let _lock = places.lock().map_err(Why::io("cannot lock the networks"))?;
    named(&places, DEFAULT)?;
    Ok(definition::all(&places).map_err(unreadable())?)
}

/// Who is in a network: containers' ids, and their places.
///
/// # Errors
/// When their files cannot be read.
pub fn members(dirs: &Dirs, network_id: &str) -> Result<Vec<(String, Endpoint)>, NetError> {
    Ok(members_of(&Places::of(dirs), network_id).map_err(unreadable())?)
}

fn members_of(places: &Places, network_id: &str) -> io::Result<Vec<(String, Endpoint)>> {
    let place = |(id, attached): (String, Attached)| {
        let mut all = attached.networks.into_iter();
        all.find(|one| one.network_id == network_id).map(|one| (id, one))
    };
    Ok(places.attached_all()?.into_iter().filter_map(place).collect())
}

/// Removes a network that nobody is in. `name_of` gives a container's name for its id.
///
/// # Errors
/// When somebody is in it, or the kernel refuses.
pub fn remove(
    dirs: &Dirs,
    network: &Definition,
    name_of: impl Fn(&str) -> String,
) -> Result<(), NetError> {
    let name = &network.name;
    if network.is_default() {
        return Err(NetError::predefined(name));
    }
    let places = places(dirs)?;
    let _lock = places.lock().map_err(Why::io("cannot lock the networks"))?;
    let members = members_of(&places, &network.id).map_err(unreadable())?;
    if !members.is_empty() {
        let names: Vec<String> = members.iter().map(|(id, _)| name_of(id)).collect();
        return Err(NetError {
            message: format!("network {name} has active endpoints: in use by {}", names.join(", ")),
            hint: Some(format!("rrun stop {}", names.join(" "))),
            ..NetError::default()
        });
    }
    // In this order: a definition without a bridge is as good as new, a bridge without one stays.
    up::take_down(&places, network).map_err(Why::kernel("cannot remove the bridge", "bridge"))?;
    definition::forget(&places, name).map_err(Why::io("cannot remove the network"))?;
    Ok(())
}

/// Takes down the bridges that nobody is connected to; their networks come up again when they are
/// needed.
///
/// # Errors
/// When the kernel refuses.
pub fn idle_down(dirs: &Dirs) -> Result<(), NetError> {
    let places = places(dirs)?;
    let _lock = places.lock().map_err(Why::io("cannot lock the networks"))?;
    for network in places.ups().map_err(unreadable())? {
        if members_of(&places, &network.id).map_err(unreadable())?.is_empty() {
            up::take_down(&places, &network)
                .map_err(Why::kernel("cannot remove the bridge", "bridge"))?;
        }
    }
    Ok(())
}
