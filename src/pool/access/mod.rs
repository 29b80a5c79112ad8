//! Admission: the access list of networks that are allowed or denied, the per-source rate limit, and counts
//! of what each source holds.
//!
//! Pure, and of fixed size after construction. An IPv4-mapped IPv6 address counts as the IPv4 address
//! everywhere here.

mod networks;
mod sketch;
mod source_counts;

pub use networks::Networks;
pub use sketch::Sketch;
pub use source_counts::SourceCounts;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use crate::base::time::Instant;

/// What counts as one source: an IPv4 address, mapped or not, or an IPv6 /64.
pub fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

/// A keyed hash of a source ([`source_of`]).
fn source_hash(key: &SipHasher13, ip: IpAddr) -> u64 {
    match source_of(ip) {
        IpAddr::V4(ip) => key.hash(&ip.octets()),
        IpAddr::V6(ip) => key.hash(&ip.octets()[..8]),
    }
}

/// An access list: the networks whose sources are served.
#[derive(Clone, Debug)]
pub struct Access {
    /// `None` admits every source that is not denied.
    allow: Option<Networks>,
    deny: Networks,
}

impl Access {
    /// Admits sources in `allow`, or all sources if that is empty, except those in `deny`.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        Access { allow: (!allow.is_empty()).then(|| Networks::new(allow)), deny: Networks::new(deny) }
    }

    /// Whether this source is served.
    pub fn admits(&self, source: IpAddr) -> bool {
        !self.deny.contains(source) && self.allow.as_ref().is_none_or(|allow| allow.contains(source))
    }
}

/// The admission gate: access list and per-source rate limit. Cheap to copy.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The access list.
    pub access: Arc<Access>,
    /// The per-source rate limit; `None` = no limit.
    pub sketch: Option<Arc<Sketch>>,
}

impl Gate {
    /// Whether one request of this source is admitted; if so it is counted.
    pub fn admits(&self, source: IpAddr, now: Instant) -> bool {
        self.access.admits(source) && self.sketch.as_ref().is_none_or(|sketch| sketch.allow(source, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets<const N: usize>(texts: [&str; N]) -> [IpNet; N] {
        texts.map(|text| text.parse().unwrap())
    }

    fn admitted<'a>(access: &Access, ips: &[&'a str]) -> Vec<&'a str> {
        ips.iter().copied().filter(|ip| access.admits(ip.parse().unwrap())).collect()
    }

    const IPS: [&str; 5] = ["10.0.0.1", "::ffff:10.0.0.1", "10.9.0.1", "192.0.2.1", "2001:db8::1"];

    #[test]
    fn without_networks_every_source_is_admitted() {
        assert_eq!(admitted(&Access::new(&[], &[]), &IPS), IPS);
    }

    #[test]
    fn with_networks_only_theirs_are_admitted() {
        assert_eq!(admitted(&Access::new(&nets(["10.0.0.0/8"]), &[]), &IPS), IPS[..3]);
        assert_eq!(admitted(&Access::new(&nets(["2001:db8::/32"]), &[]), &IPS), IPS[4..]);
    }

    #[test]
    fn a_denied_source_is_refused_even_if_it_is_allowed() {
        assert_eq!(admitted(&Access::new(&[], &nets(["10.0.0.0/16"])), &IPS), IPS[2..]);
        let access = Access::new(&nets(["10.0.0.0/8"]), &nets(["10.0.0.0/16", "::/0"]));
        assert_eq!(admitted(&access, &IPS), ["10.9.0.1"]);
    }
}
