//! Ranges of addresses, as `192.0.2.0/24`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
///
/// Addresses of IPv4 mapped into IPv6 (`::ffff:192.0.2.1`) are the IPv4 addresses they stand for, here and in
/// [`Cidr::contains`], so that a listener on `[::]` cannot be talked past a list of networks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CidrError {
    /// What stands before the slash is no IP address.
    Address,
    /// What stands after the slash is no number of bits that the address has.
    Prefix,
    /// The address has bits set beyond the prefix; this is the network it lies in.
    HostBits(Cidr),
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("what stands before the slash is not an IP address"),
            Self::Prefix => {
                f.write_str("after the slash comes the number of bits, at most 32 or, for IPv6, 128")
            }
            Self::HostBits(network) => {
                write!(f, "the address has bits beyond the prefix; the network is `{network}`")
            }
        }
    }
}

impl std::error::Error for CidrError {}

impl Cidr {
    /// The network of an address's first `prefix` bits; nothing if it has fewer.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let (address, prefix) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if prefix >= 96 => (v4, prefix - 96),
            _ => (address, prefix),
        };
        let address = match address {
            IpAddr::V4(v4) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, prefix })
    }

    /// The network of this one address.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// True if the address lies in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.prefix) == Some(*self)
    }

    /// The first address of the network.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let Some((address, prefix)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| CidrError::Address);
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CidrError::Prefix);
        }
        let prefix: u8 = prefix.parse().map_err(|_| CidrError::Prefix)?;
        let network = Self::new(address, prefix).ok_or(CidrError::Prefix)?;
        if network.address.to_canonical() == address.to_canonical() {
            Ok(network)
        } else {
            Err(CidrError::HostBits(network))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("::/0", "::ffff:192.0.2.1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("2001:db8::1/128", "2001:db8::1", true),
        ] {
            let cidr: Cidr = network.parse().unwrap();
            assert_eq!(cidr.contains(address.parse().unwrap()), inside, "{network} {address}");
            assert_eq!(cidr.to_string().parse(), Ok(cidr));
        }
    }

    #[test]
    fn texts_that_are_no_network() {
        for (text, error) in [
            ("", CidrError::Address),
            ("10/8", CidrError::Address),
            ("10.0.0.0/", CidrError::Prefix),
            ("10.0.0.0/33", CidrError::Prefix),
            ("10.0.0.0/+8", CidrError::Prefix),
            ("10.0.0.0/8/8", CidrError::Prefix),
            ("::/129", CidrError::Prefix),
            ("::/256", CidrError::Prefix),
            ("10.0.0.1/8", CidrError::HostBits("10.0.0.0/8".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(error), "{text}");
        }
    }
}
