//! Sockets: made and tuned before anything runs.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::sys::set_option;

/// How a socket is made.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Bytes to ask for as receive buffer. The kernel charges some 768 bytes for a small datagram.
    pub receive_buffer: usize,
    /// Bytes to ask for as send buffer.
    pub send_buffer: usize,
    /// Several sockets may share the address (SO_REUSEPORT).
    pub reuse_port: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions { receive_buffer: 8 << 20, send_buffer: 8 << 20, reuse_port: false }
    }
}

/// A non-blocking UDP socket on the address: large buffers, don't-fragment, and where the kernel has
/// them GRO, drop counts and (on a wildcard address) the local address of each datagram.
pub fn bind(addr: SocketAddr, options: &SocketOptions) -> io::Result<UdpSocket> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot bind {addr}: {e}"));
    let socket = open(addr, options).map_err(named)?;
    socket.bind(&addr.into()).map_err(named)?;
    Ok(socket.into())
}

fn open(addr: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    let fd = socket.as_raw_fd();
    // The forced form needs CAP_NET_ADMIN; without it the kernel's limit (net.core.rmem_max) holds.
    if set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, options.receive_buffer as i32).is_err() {
        socket.set_recv_buffer_size(options.receive_buffer)?;
    }
    if set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, options.send_buffer as i32).is_err() {
        socket.set_send_buffer_size(options.send_buffer)?;
    }
    // Each of these may be missing in an old kernel, and nothing depends on it.
    let wish = |level, name, value| drop(set_option(fd, level, name, value));
    wish(libc::SOL_UDP, libc::UDP_GRO, 1);
    wish(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
    if addr.is_ipv4() || addr.ip().is_unspecified() {
        wish(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
    }
    if addr.is_ipv6() {
        wish(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO);
    }
    if addr.ip().is_unspecified() {
        wish(libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
        if addr.is_ipv6() {
            wish(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        }
    }
    Ok(socket)
}

/// The receive buffer that the kernel granted, in bytes of its own accounting (twice what was asked for).
pub fn receive_buffer(socket: &UdpSocket) -> usize {
    SockRef::from(socket).recv_buffer_size().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind(addr, &SocketOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot bind {addr}: ")), "{error}");
        assert!(receive_buffer(&first) > 100_000);
    }
}
