//! Local addresses that the clients of a generator send from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An address, or all addresses of a network: `192.0.2.7`, `127.0.9.0/24`, `2001:db8::/64`.
///
/// In an IPv4 network of more than two addresses, the first and the last one are left out: they mean the
/// network and its broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    ip: IpAddr,
    prefix: u8,
}

impl Sources {
    /// The address of the client with this number, with any port; the addresses repeat.
    pub fn of(&self, client: usize) -> SocketAddr {
        let host_bits = self.bits() - self.prefix;
        let reserved = u128::from(matches!(self.ip, IpAddr::V4(_)) && host_bits > 1);
        let count = if host_bits >= 64 { u128::from(u64::MAX) } else { (1 << host_bits) - 2 * reserved };
        let host = reserved + client as u128 % count;
        let ip = match self.ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() + host as u32)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() + host)),
        };
        SocketAddr::new(ip, 0)
    }

    /// Whether the addresses are IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.ip.is_ipv6()
    }

    fn bits(&self) -> u8 {
        if self.ip.is_ipv6() { 128 } else { 32 }
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_sources = || format!("`{text}` is no address; use one such as 192.0.2.7 or 127.0.9.0/24");
        let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| no_sources())?;
        let bits = if ip.is_ipv6() { 128 } else { 32 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(no_sources)?,
        };
        let host_bits = u32::from(bits - prefix);
        let ip = match ip {
            IpAddr::V4(ip) => {
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)))
            }
            IpAddr::V6(ip) => {
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)))
            }
        };
        Ok(Sources { ip, prefix })
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix == self.bits() {
            true => self.ip.fmt(f),
            false => write!(f, "{}/{}", self.ip, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_the_addresses_in_turn() {
        for (text, client, ip) in [
            ("192.0.2.7", 0, "192.0.2.7"),
            ("192.0.2.7", 9, "192.0.2.7"),
            ("127.0.9.5/24", 0, "127.0.9.1"),
            ("127.0.9.0/24", 253, "127.0.9.254"),
            ("127.0.9.0/24", 254, "127.0.9.1"),
            ("127.0.9.0/31", 1, "127.0.9.1"),
            ("127.0.9.0/30", 2, "127.0.9.1"),
            ("127.0.0.0/8", 65_535, "127.1.0.0"),
            ("0.0.0.0/0", 0, "0.0.0.1"),
            ("2001:db8::/64", 0, "2001:db8::"),
            ("2001:db8::/64", 17, "2001:db8::11"),
            ("2001:db8::/127", 2, "2001:db8::"),
        ] {
            let sources: Sources = text.parse().unwrap();
            assert_eq!(sources.of(client).ip(), ip.parse::<IpAddr>().unwrap(), "{text} {client}");
        }
        assert_eq!("127.0.9.5/24".parse::<Sources>().unwrap().to_string(), "127.0.9.0/24");
        assert_eq!("::1".parse::<Sources>().unwrap().to_string(), "::1");
        for bad in ["", "x", "127.0.0.1/33", "127.0.0.1/x", "::/129", "127.0.0.1:5"] {
            assert!(bad.parse::<Sources>().is_err(), "{bad}");
        }
    }
}
