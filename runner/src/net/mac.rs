//! Addresses of interfaces.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `02:42:0a:40:00:02`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

#[derive(Debug, thiserror::Error)]
#[error("it is the address of one interface, six bytes in hex: 02:42:ac:11:00:02")]
pub struct NoMac;

impl Mac {
    /// `02:42:` and the address, as Docker's: an address that is used again keeps its neighbours'
    /// caches right.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let byte = |part: &str| match part.len() {
            2 if part.bytes().all(|b| b.is_ascii_hexdigit()) => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
        let bytes: [u8; 6] = bytes.and_then(|all| all.try_into().ok()).ok_or(NoMac)?;
        // That of nobody, and those of groups: the kernel refuses both.
        if bytes == [0; 6] || bytes[0] & 1 == 1 { Err(NoMac) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = NoMac;

    fn try_from(text: String) -> Result<Self, NoMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_interfaces() {
        let mac: Mac = "02:42:AC:11:00:0a".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:0a");
        assert_eq!(mac, "02-42-ac-11-00-0a".parse().unwrap());
        assert_eq!(Mac::of([10, 64, 0, 2].into()).to_string(), "02:42:0a:40:00:02");
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:0a:1",
            "00:00:00:00:00:00",
            "01:42:ac:11:00:0a",
            "2:42:ac:11:00:0a",
            "02:42:ac:11:00:+a",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
