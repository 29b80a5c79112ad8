//! PROXY protocol, version 2: a header with the client's address ahead of the client's own bytes.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, section 2.2. Only writing, for the
//! command PROXY and without TLVs. Pure.

use std::net::{IpAddr, SocketAddr};

use heapless::Vec;

/// Maximum size of a header in bytes, for IPv6; a header for IPv4 has 28 bytes.
pub const HEADER_MAX: usize = 52;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
/// Address family; the transport is added to it.
const INET: u8 = 0x10;
const INET6: u8 = 0x20;

/// The header before bytes of the balancer itself, such as a health check: version 2, command LOCAL, no
/// addresses.
pub const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Whether a datagram begins as a header does. A server that expects headers takes such bytes of a client for
/// the balancer's.
pub fn begins_as_header(datagram: &[u8]) -> bool {
    datagram.starts_with(&SIGNATURE)
}

/// Transport of the client's bytes to the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A byte stream: TCP.
    Stream = 1,
    /// Datagrams: UDP. The header precedes the payload in the same datagram.
    Datagram = 2,
}

/// The header for bytes that `client` sent to the balancer's address `local`: 28 or 52 bytes.
///
/// IPv4-mapped IPv6 addresses count as IPv4. If only one of the two is IPv4, it is written as
/// IPv4-mapped and both are IPv6, since a header has one family.
pub fn header(transport: Transport, client: SocketAddr, local: SocketAddr) -> Vec<u8, HEADER_MAX> {
    let mut header = Vec::new();
    let mut put = |bytes: &[u8]| header.extend_from_slice(bytes).expect("52 bytes are the most there are");
    put(&SIGNATURE);
    match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            put(&[VERSION_COMMAND, INET | transport as u8, 0, 12]);
            put(&from.octets());
            put(&to.octets());
        }
        (from, to) => {
            put(&[VERSION_COMMAND, INET6 | transport as u8, 0, 36]);
            put(&v6(from));
            put(&v6(to));
        }
    }
    put(&client.port().to_be_bytes());
    put(&local.port().to_be_bytes());
    header
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(transport: Transport, client: &str, local: &str) -> Vec<u8, HEADER_MAX> {
        header(transport, client.parse().unwrap(), local.parse().unwrap())
    }

    const DATAGRAM_V4: [u8; 28] = [
        0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, // signature
        0x21, 0x12, 0x00, 0x0c, // version 2 and PROXY, IPv4 and datagrams, 12 bytes follow
        192, 0, 2, 1, 198, 51, 100, 7, // addresses
        0x30, 0x39, 0x00, 0x35, // ports 12345 and 53
    ];

    const STREAM_V6: [u8; 52] = [
        0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, // signature
        0x21, 0x21, 0x00, 0x24, // version 2 and PROXY, IPv6 and a stream, 36 bytes follow
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, // client
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, // local
        0xff, 0xff, 0x01, 0xbb, // ports 65535 and 443
    ];

    #[test]
    fn ipv4_takes_28_bytes() {
        assert_eq!(of(Transport::Datagram, "192.0.2.1:12345", "198.51.100.7:53")[..], DATAGRAM_V4);
        let stream = of(Transport::Stream, "192.0.2.1:12345", "198.51.100.7:53");
        assert_eq!((stream[13], stream.len()), (0x11, 28));
    }

    #[test]
    fn ipv6_takes_52_bytes() {
        assert_eq!(of(Transport::Stream, "[2001:db8::1]:65535", "[2001:db8::fffe]:443")[..], STREAM_V6);
        let datagram = of(Transport::Datagram, "[2001:db8::1]:65535", "[2001:db8::fffe]:443");
        assert_eq!((datagram[13], datagram.len()), (0x22, HEADER_MAX));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        for (client, local) in [
            ("[::ffff:192.0.2.1]:12345", "[::ffff:198.51.100.7]:53"),
            ("[::ffff:192.0.2.1]:12345", "198.51.100.7:53"),
            ("192.0.2.1:12345", "[::ffff:198.51.100.7]:53"),
        ] {
            assert_eq!(of(Transport::Datagram, client, local)[..], DATAGRAM_V4, "{client} {local}");
        }
    }

    #[test]
    fn of_mixed_families_the_ipv4_address_is_mapped() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        let header = of(Transport::Datagram, "192.0.2.1:1", "[2001:db8::1]:2");
        assert_eq!((header[13], &header[16..32]), (0x22, &mapped[..]));
        let header = of(Transport::Datagram, "[2001:db8::1]:2", "192.0.2.1:1");
        assert_eq!((header[13], &header[32..48]), (0x22, &mapped[..]));
    }

    /// Reads a header part by part, as a server would.
    fn slow(header: &[u8]) -> Option<(Transport, SocketAddr, SocketAddr)> {
        let rest = header.strip_prefix(b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A")?;
        let (&[version, family, high, low], rest) = rest.split_first_chunk()?;
        let transport = match family % 16 {
            1 => Transport::Stream,
            2 => Transport::Datagram,
            _ => return None,
        };
        let size = match family / 16 {
            1 => 4,
            2 => 16,
            _ => return None,
        };
        let len = usize::from(high) * 256 + usize::from(low);
        if version != 0x21 || len != rest.len() || len != 2 * size + 4 {
            return None;
        }
        let ip = |bytes: &[u8]| match size {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
        };
        let port = |at: usize| u16::from(rest[at]) * 256 + u16::from(rest[at + 1]);
        let client = SocketAddr::new(ip(&rest[..size]), port(2 * size));
        let local = SocketAddr::new(ip(&rest[size..2 * size]), port(2 * size + 2));
        Some((transport, client, local))
    }

    fn addr() -> impl Strategy<Value = SocketAddr> {
        let mapped = any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_ipv6_mapped().into());
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
            mapped
        ];
        (ip, any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn a_server_reads_the_addresses_that_were_written(client in addr(), local in addr(), stream: bool) {
            let transport = if stream { Transport::Stream } else { Transport::Datagram };
            let header = header(transport, client, local);
            let (read_transport, read_client, read_local) = slow(&header).unwrap();
            prop_assert_eq!(read_transport, transport);
            prop_assert_eq!(read_client.is_ipv4(), read_local.is_ipv4());
            for (read, written) in [(read_client, client), (read_local, local)] {
                prop_assert_eq!(read.ip().to_canonical(), written.ip().to_canonical());
                prop_assert_eq!(read.port(), written.port());
            }
            let both_v4 = client.ip().to_canonical().is_ipv4() && local.ip().to_canonical().is_ipv4();
            prop_assert_eq!(header.len(), if both_v4 { 28 } else { 52 });
        }
    }
}
