//! A set of networks, as ranges of addresses with binary search.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of networks. IPv4 and IPv6 are separate: `::/0` has no IPv4 address, mapped or not, and a network
/// within `::ffff:0:0/96` is an IPv4 network.
#[derive(Clone, Debug)]
pub struct Networks {
    /// First and last addresses, in order; no two ranges overlap or touch.
    v4: Box<[(u32, u32)]>,
    /// The same for IPv6.
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    /// The set of these networks, which may overlap. Bits after a prefix do not matter.
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match (network.network().to_canonical(), network.broadcast().to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((first.to_bits().into(), last.to_bits().into()))
                }
                _ => v6.push((bits(network.network()), bits(network.broadcast()))),
            }
        }
        Networks {
            v4: merged(v4).into_iter().map(|(first, last)| (first as u32, last as u32)).collect(),
            v6: merged(v6).into_boxed_slice(),
        }
    }

    /// Whether one of the networks has this address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => in_ranges(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => in_ranges(&self.v6, ip.to_bits()),
        }
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The same addresses in the fewest ranges, in order.
fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Whether the last range that begins at or before `ip` reaches it.
fn in_ranges<T: Ord + Copy>(ranges: &[(T, T)], ip: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= ip);
    after > 0 && ip <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn networks<const N: usize>(texts: [&str; N]) -> Networks {
        Networks::new(&texts.map(|text| text.parse().unwrap()))
    }

    fn has(networks: &Networks, ip: &str) -> bool {
        networks.contains(ip.parse().unwrap())
    }

    #[test]
    fn networks_that_overlap_or_touch_are_one_range() {
        let v4 = networks(["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "10.0.3.0/24"]).v4;
        assert_eq!(v4[..], [(0x0a00_0000, 0x0a00_01ff), (0x0a00_0300, 0x0a00_03ff)]);
        let v6 = networks(["8000::/1", "::/1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]).v6;
        assert_eq!(v6[..], [(0, u128::MAX)]);
    }

    #[test]
    fn bits_after_the_prefix_do_not_matter() {
        let set = networks(["10.1.2.3/8"]);
        assert!(has(&set, "10.0.0.0") && has(&set, "10.255.255.255"));
        assert!(!has(&set, "9.255.255.255") && !has(&set, "11.0.0.0"));
    }

    #[test]
    fn mapped_addresses_and_networks_are_ipv4() {
        assert!(has(&networks(["10.0.0.0/8"]), "::ffff:10.0.0.1"));
        let mapped = networks(["::ffff:10.0.0.0/104"]);
        assert!(has(&mapped, "10.255.0.1") && has(&mapped, "::ffff:10.0.0.1") && !has(&mapped, "11.0.0.1"));
        let all = networks(["::/0"]);
        assert!(has(&all, "::1") && !has(&all, "10.0.0.1") && !has(&all, "::ffff:10.0.0.1"));
        assert!(!has(&networks([]), "10.0.0.1") && !has(&networks(["0.0.0.0/0"]), "::1"));
    }

    /// Addresses close together, at both ends of the space and in its middle.
    fn ip() -> impl Strategy<Value = IpAddr> {
        let v4 = (prop::sample::select(&[0, 0x0a00_0000, u32::MAX - 0x3ff]), 0..0x400u32)
            .prop_map(|(base, low)| IpAddr::from(Ipv4Addr::from(base + low)));
        let v6 = (prop::sample::select(&[0, 0x2001 << 112, u128::MAX - 0x3ff]), 0..0x400u128)
            .prop_map(|(base, low)| IpAddr::from(Ipv6Addr::from(base + low)));
        prop_oneof![v4, v6]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (ip(), 0..12u8, any::<u8>()).prop_map(|(ip, host_bits, wide)| {
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            // One in ten has a prefix of any length.
            let prefix = if wide < 26 { wide.wrapping_mul(7) % (bits + 1) } else { bits - host_bits };
            IpNet::new(ip, prefix).unwrap()
        })
    }

    /// Whether the network has the address, which is not mapped, in either of the two ways to write it.
    fn slow(network: &IpNet, ip: IpAddr) -> bool {
        let mapped = match ip {
            IpAddr::V4(ip) if network.prefix_len() >= 96 => ip.to_ipv6_mapped().into(),
            _ => ip,
        };
        network.contains(&ip) || network.contains(&mapped)
    }

    proptest! {
        #[test]
        fn contains_what_one_of_the_networks_contains(
            networks in vec(network(), 0..12),
            ips in vec(ip(), 1..40),
        ) {
            let set = Networks::new(&networks);
            for ip in ips {
                prop_assert_eq!(set.contains(ip), networks.iter().any(|n| slow(n, ip)), "{}", ip);
            }
        }

        #[test]
        fn any_address_is_found_as_the_linear_scan_finds_it(
            networks in vec((any::<IpAddr>(), 0..=128u8), 0..8),
            ip: IpAddr,
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(ip, prefix)| IpNet::new(ip, if ip.is_ipv4() { prefix / 4 } else { prefix }).unwrap())
                .collect();
            let ip = ip.to_canonical();
            prop_assert_eq!(Networks::new(&networks).contains(ip), networks.iter().any(|n| slow(n, ip)));
        }
    }
}
