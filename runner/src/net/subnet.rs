//! A range of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `10.64.0.0/20`: the first address and how many leading bits all share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    start: u32,
    prefix: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("it is ADDRESS/BITS, with an IPv4 address: 10.128.3.0/24")]
pub struct NoSubnet;

impl Subnet {
    /// The range of `prefix` bits that `address` lies in.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = Self::mask_of(prefix)?;
        Some(Self { start: address.to_bits() & mask, prefix })
    }

    fn mask_of(prefix: u8) -> Option<u32> {
        (prefix <= 32).then(|| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
    }

    fn mask(self) -> u32 {
        Self::mask_of(self.prefix).unwrap_or_default()
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn first(self) -> Ipv4Addr {
        self.start.into()
    }

    pub fn last(self) -> Ipv4Addr {
        (self.start | !self.mask()).into()
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.start
    }

    /// Whether all of `other` lies in it.
    pub fn holds(self, other: Self) -> bool {
        self.contains(other.first()) && self.prefix <= other.prefix
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// The addresses that machines can have: neither the range's own nor its broadcast.
    pub fn hosts(self) -> std::ops::RangeInclusive<u32> {
        self.start + 1..=self.last().to_bits().saturating_sub(1)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NoSubnet;

    fn from_str(text: &str) -> Result<Self, NoSubnet> {
        let (address, prefix) = text.split_once('/').ok_or(NoSubnet)?;
        let address = address.parse().map_err(|_| NoSubnet)?;
        // `+8` and `08` are nobody's.
        if prefix.is_empty() || prefix.len() > 2 || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NoSubnet);
        }
        Self::new(address, prefix.parse().map_err(|_| NoSubnet)?).ok_or(NoSubnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = NoSubnet;

    fn try_from(text: String) -> Result<Self, NoSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let subnet: Subnet = "10.64.17.9/20".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.64.16.0/20");
        assert_eq!(subnet.last(), Ipv4Addr::new(10, 64, 31, 255));
        assert!(subnet.contains(Ipv4Addr::new(10, 64, 31, 255)));
        assert!(!subnet.contains(Ipv4Addr::new(10, 64, 32, 0)));
        for (one, other, expected) in [
            ("10.64.0.0/20", "10.64.0.0/16", true),
            ("10.64.0.0/16", "10.64.3.0/24", true),
            ("10.64.0.0/24", "10.64.1.0/24", false),
            ("0.0.0.0/0", "10.64.1.0/24", true),
            ("10.64.1.1/32", "10.64.1.0/24", true),
        ] {
            let (one, other): (Subnet, Subnet) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one.overlaps(other), expected, "{one} {other}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "::/8"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
