//! Why a container has no network, in words.

use std::io;

use super::files::Places;
use super::ports::BindError;
use crate::dirs::Dirs;
use crate::failure::Failure;

/// What failed and why, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NetError {
    pub message: String,
    pub hint: Option<String>,
    /// What this process or kernel would need for any network at all.
    pub lacks: Option<&'static str>,
}

/// Docker's words.
const NOT_FOUND: &str = "not found";

impl NetError {
    pub fn not_found(name: &str) -> Self {
        Self {
            message: format!("network {name} {NOT_FOUND}"),
            hint: Some("rrun network ls".to_owned()),
            ..Self::default()
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.message.ends_with(NOT_FOUND)
    }

    /// In Docker's words.
    pub fn predefined(name: &str) -> Self {
        Self {
            message: format!("{name} is a pre-defined network and cannot be removed"),
            ..Self::default()
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        let failure = Self::new(error.message);
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// An error of the kernel's or the disk's, on its way to words.
#[derive(Debug)]
pub(super) struct Why {
    what: &'static str,
    error: io::Error,
    /// The part of the kernel that may not be there.
    part: Option<&'static str>,
}

impl Why {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { what, error, part: None }
    }

    /// Where the kernel may refuse for want of a capability or of a module.
    pub(super) fn kernel(what: &'static str, part: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { what, error, part: Some(part) }
    }
}

impl From<Why> for NetError {
    fn from(why: Why) -> Self {
        let Why { what, error, part } = why;
        let (lacks, hint) = match (error.raw_os_error(), part) {
            (Some(libc::EPERM | libc::EACCES), Some(_)) => (
                Some("CAP_NET_ADMIN"),
                Some("CAP_NET_ADMIN is missing; --network none and --network host work without"),
            ),
            (Some(libc::EROFS), Some(_)) => (Some("a /proc/sys that can be written"), None),
            (
                Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOENT),
                Some(part),
            ) => (
                Some(part),
                Some("this kernel lacks a module: modprobe -a nf_tables nft_chain_nat bridge veth"),
            ),
            _ => (None, None),
        };
        Self { message: format!("{what}: {error}"), hint: hint.map(str::to_owned), lacks }
    }
}

/// In Docker's words, for whoever greps them, and with whose it is.
pub(super) fn bind(dirs: &Dirs, failed: BindError) -> NetError {
    let BindError { at, protocol, error } = &failed;
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            let others = Places::of(dirs).attached_all().unwrap_or_default();
            let owner = others.iter().find(|(_, attached)| {
                attached
                    .ports
                    .iter()
                    .any(|port| port.protocol == *protocol && port.host_port == at.port())
            });
            let hint = match owner {
                Some((id, _)) => format!("container {id:.12} has it: rrun stop {id:.12}"),
                None => format!("another program has it: ss -ltnup 'sport = :{}'", at.port()),
            };
            NetError {
                message: format!("cannot publish {at}: port is already allocated"),
                hint: Some(hint),
                ..NetError::default()
            }
        }
        Some(libc::EADDRNOTAVAIL) => NetError {
            message: format!("cannot publish {at}: this host has no such address"),
            hint: Some("ip address".to_owned()),
            ..NetError::default()
        },
        _ => NetError { message: format!("cannot publish {at}: {error}"), ..NetError::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        for (errno, part, expected) in [
            (libc::EPERM, Some("bridge"), Some("CAP_NET_ADMIN")),
            (libc::EOPNOTSUPP, Some("veth"), Some("veth")),
            (libc::EPROTONOSUPPORT, Some("nf_tables"), Some("nf_tables")),
            (libc::ENOENT, Some("nf_tables"), Some("nf_tables")),
            (libc::EROFS, Some("forwarding"), Some("a /proc/sys that can be written")),
            (libc::EBUSY, Some("bridge"), None),
            (libc::ENOSPC, None, None),
            (libc::EACCES, None, None),
        ] {
            let why = Why { what: "x", error: io::Error::from_raw_os_error(errno), part };
            assert_eq!(NetError::from(why).lacks, expected, "{errno}");
        }
    }
}
