//! Control messages (cmsg(3)): the segment size of GRO and GSO, dropped datagrams, the local address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for the control messages of one datagram.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub struct Control(pub [u8; CONTROL_LEN]);

/// Bytes of [`Control`]: UDP_GRO (int), SO_RXQ_OVFL (u32), pktinfo (at most 20), each with its header of 16 and padding.
pub const CONTROL_LEN: usize = 128;

/// What came with a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// Bytes per segment, where the kernel merged several datagrams (udp(7), UDP_GRO).
    pub segment_size: Option<u32>,
    /// Datagrams that this socket has dropped so far, modulo 2^32 (socket(7), SO_RXQ_OVFL).
    pub dropped: Option<u32>,
    /// The local address that it was sent to (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO).
    pub local_ip: Option<IpAddr>,
}

/// Reads the control messages of a received header.
///
/// # Safety
/// The header's control pointer must be valid for `msg_controllen` bytes that the kernel wrote.
pub unsafe fn decode(header: &libc::msghdr) -> Ancillary {
    let mut found = Ancillary::default();
    // SAFETY: the caller vouches for the control bytes; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside them, and each
    // datum is read unaligned, in the type that its level and type name.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    found.segment_size = u32::try_from(size).ok();
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    found.dropped = Some(data.cast::<u32>().read_unaligned());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    found.local_ip = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    found.local_ip = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    found
}

/// Writes the control messages of a datagram to be sent; gives their length in all.
pub fn encode(control: &mut Control, segment_size: Option<u16>, source_ip: Option<IpAddr>) -> usize {
    let mut len = 0;
    if let Some(size) = segment_size {
        len += append(control, len, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }
    match source_ip {
        Some(IpAddr::V4(ip)) => {
            // in_pktinfo: interface index (0 = any), local address to send from, header address (ignored).
            let mut info = [0; size_of::<libc::in_pktinfo>()];
            info[4..8].copy_from_slice(&ip.octets());
            len += append(control, len, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(ip)) => {
            // in6_pktinfo: local address to send from, interface index (0 = any).
            let mut info = [0; size_of::<libc::in6_pktinfo>()];
            info[..16].copy_from_slice(&ip.octets());
            len += append(control, len, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    len
}

/// Appends one control message at `at`; gives the bytes that it takes.
fn append(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, data: &[u8]) -> usize {
    // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
    let (len, space) = unsafe {
        let len = data.len() as libc::c_uint;
        (libc::CMSG_LEN(len) as usize, libc::CMSG_SPACE(len) as usize)
    };
    let header_len = len - data.len();
    let room = &mut control.0[at..at + space];
    room.fill(0);
    // struct cmsghdr: length (usize), level, type, then the data.
    room[..8].copy_from_slice(&len.to_ne_bytes());
    room[8..12].copy_from_slice(&level.to_ne_bytes());
    room[12..16].copy_from_slice(&kind.to_ne_bytes());
    room[header_len..len].copy_from_slice(data);
    space
}

const _: () = assert!(size_of::<libc::cmsghdr>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(control: &mut Control, len: usize) -> Ancillary {
        // SAFETY: msghdr is plain integers and pointers; the control pointer is set right after.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = len;
        // SAFETY: `len` bytes of `control` were written by `append`, in the kernel's form.
        unsafe { decode(&header) }
    }

    #[test]
    fn what_is_received_is_understood() {
        let mut control = Control([0; CONTROL_LEN]);
        let mut len = append(&mut control, 0, libc::SOL_UDP, libc::UDP_GRO, &256i32.to_ne_bytes());
        len += append(&mut control, len, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        len += append(&mut control, len, libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[0; 16]);
        let found = decoded(&mut control, len);
        assert_eq!(found, Ancillary { segment_size: Some(256), dropped: Some(7), local_ip: None });
    }

    #[test]
    fn a_source_address_is_sent_in_the_form_in_which_it_is_received() {
        for ip in ["127.0.0.2", "2001:db8::7"] {
            let ip: IpAddr = ip.parse().unwrap();
            let mut control = Control([0; CONTROL_LEN]);
            let len = encode(&mut control, Some(256), Some(ip));
            // The address to send from and the address that was asked are different fields for IPv4.
            if let IpAddr::V4(ip) = ip {
                let at = 24 + 16; // behind the segment size and its own header
                assert_eq!(control.0[at + 4..at + 8], ip.octets());
            } else {
                assert_eq!(decoded(&mut control, len).local_ip, Some(ip));
            }
        }
    }

    #[test]
    fn nothing_to_say_takes_no_room() {
        assert_eq!(encode(&mut Control([0; CONTROL_LEN]), None, None), 0);
    }
}
