//! Control messages: data about a datagram from the kernel, and for a datagram to the kernel.
//!
//! Encoding and decoding use byte slices in the kernel's layout (cmsg(3)): a header of length (size_t),
//! level (int) and type (int), the data, and padding to the size of a size_t.

#![allow(unsafe_code)] // system calls

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::c_int;

/// Control data, aligned as the kernel requires.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct ControlBuffer(pub [u8; CONTROL_SIZE]);

/// Size for all control data that the options of [`prepare`](super::socket::prepare) can cause: segment
/// size (24), drops (24), IPv4 and IPv6 packet information (32 + 40). Also for an error (64) with packet
/// information, and for sent control data.
pub const CONTROL_SIZE: usize = 128;

impl ControlBuffer {
    /// No control data.
    pub const EMPTY: ControlBuffer = ControlBuffer([0; CONTROL_SIZE]);
}

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<c_int>();

const _: () = assert!(HEADER == size_of::<libc::cmsghdr>(), "the kernel's layout");

/// Control data of a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// UDP_GRO: size of a datagram, if several were merged (udp(7)).
    pub segment_size: Option<u32>,
    /// SO_RXQ_OVFL: "the number of packets dropped by the socket since its creation" (socket(7)).
    pub dropped: Option<u32>,
    /// IP_PKTINFO, IPV6_PKTINFO: the destination address.
    pub local_ip: Option<IpAddr>,
}

/// Reads the kernel's control data. Unknown or truncated messages are skipped.
pub fn decode(control: &[u8]) -> Ancillary {
    let mut ancillary = Ancillary::default();
    for (level, kind, data) in messages(control) {
        read(level, kind, data, &mut ancillary);
    }
    ancillary
}

/// The error number of a message from an error queue: IP_RECVERR, IPV6_RECVERR. `None` unless an ICMP
/// message or this host reported an error about a datagram; time stamps use the same queue.
pub fn decode_error(control: &[u8]) -> Option<c_int> {
    messages(control).find_map(|(level, kind, data)| match (level, kind) {
        // sock_extended_err: error number, origin, and more (linux/errqueue.h).
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            if data.len() >= 16 =>
        {
            let origins = [libc::SO_EE_ORIGIN_LOCAL, libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6];
            origins.contains(&data[4]).then(|| int(data))
        }
        _ => None,
    })
}

/// The control messages in order, as level, type and data, up to a truncated or invalid one.
fn messages(control: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    let mut rest = control;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER>()?;
        let length = usize::from_ne_bytes(header[..WORD].try_into().expect("a word"));
        if length < HEADER || length > rest.len() {
            return None;
        }
        let message = (int(&header[WORD..]), int(&header[WORD + 4..]), &rest[HEADER..length]);
        rest = rest.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        Some(message)
    })
}

/// Reads the data of one control message.
fn read(level: c_int, kind: c_int, data: &[u8], into: &mut Ancillary) {
    match (level, kind) {
        (libc::SOL_UDP, libc::UDP_GRO) if data.len() >= 4 => {
            into.segment_size = u32::try_from(int(data)).ok();
        }
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if data.len() >= 4 => {
            into.dropped = Some(int(data) as u32);
        }
        // in_pktinfo: interface index, then ipi_spec_dst, "the local address of the packet", which for a
        // broadcast differs from the destination in its header, then that destination (ip(7)).
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= 12 => {
            let ip: [u8; 4] = data[4..8].try_into().expect("four bytes");
            into.local_ip = Some(Ipv4Addr::from(ip).into());
        }
        // in6_pktinfo: destination address, interface index (ipv6(7), RFC 3542).
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= 16 => {
            let ip: [u8; 16] = data[..16].try_into().expect("sixteen bytes");
            into.local_ip = Some(Ipv6Addr::from(ip).into());
        }
        _ => {}
    }
}

fn int(bytes: &[u8]) -> c_int {
    c_int::from_ne_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// Writes the control data of a message and returns the length for msg_controllen; zero for none.
/// UDP_SEGMENT (Linux 4.18, commit bec1f6f69736) makes the kernel cut the message into segments. Packet
/// information sets the source address.
pub fn encode(control: &mut ControlBuffer, segment_size: Option<u16>, source_ip: Option<IpAddr>) -> usize {
    let mut at = 0;
    if let Some(size) = segment_size {
        at += put(&mut control.0[at..], libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }
    match source_ip {
        None => {}
        Some(IpAddr::V4(ip)) => {
            let mut info = [0u8; 12];
            info[4..8].copy_from_slice(&ip.octets());
            at += put(&mut control.0[at..], libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(ip)) => {
            let mut info = [0u8; 20];
            info[..16].copy_from_slice(&ip.octets());
            at += put(&mut control.0[at..], libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
    at
}

/// Writes one control message and returns its size with padding.
fn put(into: &mut [u8], level: c_int, kind: c_int, data: &[u8]) -> usize {
    let length = HEADER + data.len();
    into[..WORD].copy_from_slice(&length.to_ne_bytes());
    into[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
    into[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
    into[HEADER..length].copy_from_slice(data);
    length.next_multiple_of(WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_information_survives_the_round_trip() {
        for text in ["127.0.0.2", "2001:db8::7"] {
            let ip: IpAddr = text.parse().unwrap();
            let mut control = ControlBuffer::EMPTY;
            let length = encode(&mut control, Some(256), Some(ip));
            assert_eq!(decode(&control.0[..length]).local_ip, Some(ip));
        }
    }

    #[test]
    fn nothing_to_say_takes_no_room() {
        assert_eq!(encode(&mut ControlBuffer([0; CONTROL_SIZE]), None, None), 0);
    }

    #[test]
    fn lengths_agree_with_the_macros_of_the_c_library() {
        let mut control = ControlBuffer::EMPTY;
        let v4 = encode(&mut control, None, Some(Ipv4Addr::LOCALHOST.into()));
        let segment = encode(&mut control, Some(1), None);
        // SAFETY: computes a number from a number.
        assert_eq!(v4, unsafe { libc::CMSG_SPACE(12) } as usize);
        // SAFETY: as above.
        assert_eq!(segment, unsafe { libc::CMSG_SPACE(2) } as usize);
    }

    #[test]
    fn several_messages_are_read_in_a_row() {
        let mut control = ControlBuffer::EMPTY;
        let mut at = put(&mut control.0, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        at += put(&mut control.0[at..], 4711, 1, b"unknown");
        at += put(&mut control.0[at..], libc::SOL_UDP, libc::UDP_GRO, &256u32.to_ne_bytes());
        let expected = Ancillary { segment_size: Some(256), dropped: Some(7), local_ip: None };
        assert_eq!(decode(&control.0[..at]), expected);
    }

    #[test]
    fn errors_are_those_of_icmp_and_of_this_host() {
        let error = |level, kind, origin, len: usize| {
            let mut data = [0; 44];
            data[..4].copy_from_slice(&libc::ECONNREFUSED.to_ne_bytes());
            data[4] = origin;
            let mut control = ControlBuffer::EMPTY;
            let mut at = encode(&mut control, None, Some(Ipv4Addr::LOCALHOST.into()));
            at += put(&mut control.0[at..], level, kind, &data[..len]);
            decode_error(&control.0[..at])
        };
        let refused = Some(libc::ECONNREFUSED);
        assert_eq!(error(libc::IPPROTO_IP, libc::IP_RECVERR, libc::SO_EE_ORIGIN_ICMP, 32), refused);
        assert_eq!(error(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, libc::SO_EE_ORIGIN_ICMP6, 44), refused);
        assert_eq!(error(libc::IPPROTO_IP, libc::IP_RECVERR, libc::SO_EE_ORIGIN_LOCAL, 16), refused);
        assert_eq!(error(libc::IPPROTO_IP, libc::IP_RECVERR, libc::SO_EE_ORIGIN_TIMESTAMPING, 32), None);
        assert_eq!(error(libc::IPPROTO_IP, libc::IP_RECVERR, libc::SO_EE_ORIGIN_ICMP, 15), None);
        assert_eq!(error(libc::IPPROTO_IP, libc::IP_RECVTTL, libc::SO_EE_ORIGIN_ICMP, 32), None);
    }

    #[test]
    fn cut_and_absurd_lengths_end_the_reading() {
        let mut control = ControlBuffer::EMPTY;
        let length = encode(&mut control, None, Some(Ipv4Addr::LOCALHOST.into()));
        for cut in 0..length {
            decode(&control.0[..cut]);
        }
        for absurd in [0, 1, HEADER - 1, usize::MAX] {
            control.0[..WORD].copy_from_slice(&absurd.to_ne_bytes());
            assert_eq!(decode(&control.0[..length]), Ancillary::default());
        }
    }
}
