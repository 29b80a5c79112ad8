//! Socket addresses in the kernel's format.

#![allow(unsafe_code)] // system calls

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{AF_INET, AF_INET6, sa_family_t, sockaddr_in, sockaddr_in6, socklen_t};

/// Space for an IPv4 or IPv6 address, aligned for both.
#[derive(Clone, Copy)]
#[repr(C)]
pub union RawAddr {
    family: sa_family_t,
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

/// Value of msg_namelen before each receive.
pub const RAW_ADDR_SIZE: socklen_t = size_of::<RawAddr>() as socklen_t;

impl RawAddr {
    /// An address without a family.
    pub const EMPTY: RawAddr = RawAddr {
        v6: sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Reads an address from bytes of the kernel. `None` for another family.
    pub fn read(bytes: &[u8]) -> Option<SocketAddr> {
        let mut raw = RawAddr::EMPTY;
        let length = bytes.len().min(size_of::<RawAddr>());
        // SAFETY: both are valid for `length` bytes, and any bytes are a value of the union.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut raw).cast(), length) };
        raw.decode(length as socklen_t)
    }

    /// Writes an address and returns its length for msg_namelen.
    pub fn encode(&mut self, addr: SocketAddr) -> socklen_t {
        match addr {
            SocketAddr::V4(addr) => {
                self.v4 = sockaddr_in {
                    sin_family: AF_INET as sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                size_of::<sockaddr_in>() as socklen_t
            }
            SocketAddr::V6(addr) => {
                self.v6 = sockaddr_in6 {
                    sin6_family: AF_INET6 as sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                    sin6_scope_id: addr.scope_id(),
                };
                size_of::<sockaddr_in6>() as socklen_t
            }
        }
    }

    /// Reads the address of `length` bytes that the kernel wrote. `None` for another family.
    pub fn decode(&self, length: socklen_t) -> Option<SocketAddr> {
        let length = length as usize;
        if length < size_of::<sa_family_t>() || length > size_of::<RawAddr>() {
            return None;
        }
        // SAFETY: `EMPTY` initialises all bytes of the union, and every bit pattern is a value of these
        // integers.
        let family = unsafe { self.family };
        match libc::c_int::from(family) {
            AF_INET if length >= size_of::<sockaddr_in>() => {
                // SAFETY: as above.
                let a = unsafe { self.v4 };
                let ip = Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(a.sin_port)).into())
            }
            AF_INET6 if length >= size_of::<sockaddr_in6>() => {
                // SAFETY: as above.
                let a = unsafe { self.v6 };
                let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
                // Without the flow label, which differs per packet; a peer is its address and port.
                Some(SocketAddrV6::new(ip, u16::from_be(a.sin6_port), 0, a.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["127.0.0.1:54000", "0.0.0.0:0", "255.1.2.3:65535", "[::1]:1", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut raw = RawAddr::EMPTY;
            let length = raw.encode(addr);
            assert_eq!(raw.decode(length), Some(addr));
        }
    }

    #[test]
    fn another_family_or_a_short_address_is_none() {
        let mut raw = RawAddr::EMPTY;
        assert_eq!(raw.decode(RAW_ADDR_SIZE), None);
        let length = raw.encode("[::1]:1".parse().unwrap());
        assert_eq!(raw.decode(length - 1), None);
        assert_eq!(raw.decode(0), None);
    }
}
