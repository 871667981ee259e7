//! Networks on the real kernel: every test makes network namespaces of its own, one that is the
//! host and one that is a neighbour outside of it, and other programs' rules in them. Needs root,
//! and the packages iproute2, nftables and iptables.

mod beside;
mod default;
mod many;
mod names;
mod networks;
mod published;
mod recovery;
mod site;
