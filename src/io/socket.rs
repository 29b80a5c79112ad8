//! Creates sockets, with the options that a batch back end needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use libc::c_int;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::sys;

/// Options of a new socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Requested receive buffer, in bytes. A small datagram takes about 768 bytes of it.
    pub receive_buffer: usize,
    /// Requested send buffer, in bytes.
    pub send_buffer: usize,
    /// Whether several sockets share the address (SO_REUSEPORT), as the workers of a balancer do.
    pub reuse_port: bool,
    /// Whether a datagram that exceeds the interface's MTU is fragmented, as responses of unmodified
    /// servers must be. Otherwise it is rejected.
    pub fragments: bool,
    /// Whether ICMP errors of peers are reported with their address in
    /// [`Rx::errors`](crate::base::batch::Rx::errors); for sockets towards servers.
    pub report_errors: bool,
    /// Whether the socket may use addresses that are not this host's (IP_TRANSPARENT).
    pub transparent: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            receive_buffer: 8 << 20,
            send_buffer: 8 << 20,
            reuse_port: false,
            fragments: false,
            report_errors: false,
            transparent: false,
        }
    }
}

/// An option of the IP layer: its names for IPv4 (ip(7)) and IPv6 (ipv6(7)).
struct IpOption(c_int, c_int);

const MTU_DISCOVER: IpOption = IpOption(libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER);
const RECEIVE_ERRORS: IpOption = IpOption(libc::IP_RECVERR, libc::IPV6_RECVERR);
const TRANSPARENT: IpOption = IpOption(libc::IP_TRANSPARENT, libc::IPV6_TRANSPARENT);
const PACKET_INFO: IpOption = IpOption(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO);

impl IpOption {
    /// Level and name of the option for a socket on this address.
    fn of(&self, addr: SocketAddr) -> (c_int, c_int) {
        match addr {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, self.0),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, self.1),
        }
    }

    fn set(&self, fd: BorrowedFd<'_>, addr: SocketAddr, value: c_int) -> io::Result<()> {
        let (level, name) = self.of(addr);
        sys::set_option(fd, level, name, value)
    }

    fn value(&self, fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<c_int> {
        let (level, name) = self.of(addr);
        sys::option(fd, level, name)
    }

    fn is_set(&self, fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<bool> {
        Ok(self.value(fd, addr)? != 0)
    }
}

/// A non-blocking UDP socket on this address, with buffers as large as the system grants. Unless fragments
/// are requested, a datagram that exceeds the interface's MTU is rejected. No socket trusts ICMP messages
/// about the MTU of a path. An IPv6 socket receives IPv6 only, so that `0.0.0.0` and `[::]` can coexist.
pub fn bind(addr: SocketAddr, options: &SocketOptions) -> io::Result<UdpSocket> {
    try_bind(addr, options).map_err(|e| io::Error::new(e.kind(), format!("cannot bind {addr}: {e}")))
}

fn try_bind(addr: SocketAddr, options: &SocketOptions) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    set_buffers(&socket, options)?;
    choose_fragments(&socket, addr, options.fragments)?;
    if options.report_errors {
        RECEIVE_ERRORS.set(socket.as_fd(), addr, 1)?;
    }
    if options.transparent {
        TRANSPARENT.set(socket.as_fd(), addr, 1).map_err(|error| explain_transparent(&error))?;
    }
    socket.bind(&addr.into()).map_err(explain_privilege)?;
    Ok(socket.into())
}

/// Adds the remedy if a port needs a privilege (ip(7), `ip_unprivileged_port_start`).
pub fn explain_privilege(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!(
                "{error}; ports below 1024 need CAP_NET_BIND_SERVICE: use the systemd unit, run `setcap \
                 cap_net_bind_service+ep` on the program, or lower net.ipv4.ip_unprivileged_port_start"
            ),
        ),
        _ => error,
    }
}

/// Requests buffers beyond `net.core.rmem_max` and `wmem_max` first, which needs CAP_NET_ADMIN. If that
/// is rejected, it requests ordinary buffers.
fn set_buffers(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    let size = |bytes: usize| libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX / 2);
    let fd = socket.as_fd();
    // The kernel doubles the value, "to allow space for bookkeeping overhead" (socket(7)).
    for (forced, ordinary, bytes) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer),
    ] {
        sys::set_option(fd, libc::SOL_SOCKET, forced, size(bytes))
            .or_else(|_| sys::set_option(fd, libc::SOL_SOCKET, ordinary, size(bytes)))?;
    }
    Ok(())
}

/// Sets IP_MTU_DISCOVER (ip(7)). IP_PMTUDISC_INTERFACE goes by the MTU of the interface, never by that of the
/// path, which any host can forge by an ICMP message (linux/in.h, Linux 3.15): a datagram beyond it is
/// rejected with EMSGSIZE. The don't-fragment flag is not set, so IPv4 routers cut a datagram where the path
/// is narrower. IP_PMTUDISC_DO and the default trust the path's MTU. IP_PMTUDISC_PROBE does not, but sets
/// don't-fragment: then a narrow path loses every full datagram without a word. IP_PMTUDISC_OMIT is as
/// INTERFACE, but "allows packets to get fragmented if they exceed the interface mtu". Older kernels have
/// IP_PMTUDISC_DONT.
fn choose_fragments(socket: &Socket, addr: SocketAddr, fragments: bool) -> io::Result<()> {
    const _: () = assert!(libc::IP_PMTUDISC_INTERFACE == libc::IPV6_PMTUDISC_INTERFACE, "one value for both");
    const _: () = assert!(libc::IP_PMTUDISC_OMIT == libc::IPV6_PMTUDISC_OMIT);
    const _: () = assert!(libc::IP_PMTUDISC_DONT == libc::IPV6_PMTUDISC_DONT);
    let set = |value| MTU_DISCOVER.set(socket.as_fd(), addr, value);
    match fragments {
        false => set(libc::IP_PMTUDISC_INTERFACE),
        true => set(libc::IP_PMTUDISC_OMIT).or_else(|_| set(libc::IP_PMTUDISC_DONT)),
    }
}

fn explain_transparent(error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => "IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW",
        _ => "the kernel rejects IP_TRANSPARENT",
    };
    io::Error::new(error.kind(), format!("{why} ({error})"))
}

/// Whether this socket reports ICMP errors of peers (IP_RECVERR).
pub fn reports_errors(socket: &UdpSocket) -> io::Result<bool> {
    RECEIVE_ERRORS.is_set(socket.as_fd(), socket.local_addr()?)
}

/// Whether this socket may send from addresses of other hosts (IP_TRANSPARENT).
pub fn is_transparent(socket: &UdpSocket) -> io::Result<bool> {
    TRANSPARENT.is_set(socket.as_fd(), socket.local_addr()?)
}

/// The granted receive buffer, in bytes as the kernel accounts for it.
pub fn receive_buffer(socket: &UdpSocket) -> usize {
    SockRef::from(socket).recv_buffer_size().unwrap_or(0)
}

/// The granted send buffer, in bytes as the kernel accounts for it.
pub fn send_buffer(socket: &UdpSocket) -> usize {
    SockRef::from(socket).send_buffer_size().unwrap_or(0)
}

/// Sets the options that a batch back end needs, on a socket that was bound here or inherited. The socket
/// becomes non-blocking and counts the kernel's drops (SO_RXQ_OVFL). A socket that trusts the MTU of the path
/// does so no longer: another process may have bound it. A wildcard or transparent socket reports the
/// destination address (IP_PKTINFO). Datagrams are merged (UDP_GRO, Linux 5.0, commit e20cf8d3f1f7) if a
/// receive slot can hold them. Kernels without one of the last two still work.
pub fn prepare(socket: &UdpSocket, merge: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let fd = socket.as_fd();
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    let _ = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, merge.into());
    let addr = socket.local_addr()?;
    if MTU_DISCOVER.value(fd, addr)? == libc::IP_PMTUDISC_DO {
        MTU_DISCOVER.set(fd, addr, libc::IP_PMTUDISC_INTERFACE)?;
    }
    if addr.ip().is_unspecified() || TRANSPARENT.is_set(fd, addr)? {
        PACKET_INFO.set(fd, addr, 1)?;
    }
    Ok(())
}

/// The number of the network interface with this name; `None` if this machine has none.
pub fn interface_number(name: &str) -> Option<u32> {
    let any = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    rustix::net::netdevice::name_to_index(any, name).ok()
}

/// The local address that reaches `target`, with any port.
pub fn any_port_towards(target: SocketAddr) -> SocketAddr {
    let ip = match target.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn an_address_in_use_is_named_in_the_error() {
        let taken = bind(localhost(0), &SocketOptions::default()).unwrap();
        let addr = taken.local_addr().unwrap();
        let error = bind(addr, &SocketOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("cannot bind {addr}: Address already in use")));
    }

    #[test]
    fn the_remedy_for_a_port_without_privilege_is_named() {
        let denied = explain_privilege(io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("setcap cap_net_bind_service+ep"), "{denied}");
        let other = explain_privilege(io::Error::from_raw_os_error(libc::EADDRINUSE));
        assert!(!other.to_string().contains("setcap"), "{other}");
    }

    #[test]
    fn workers_share_an_address() {
        let options = SocketOptions { reuse_port: true, ..SocketOptions::default() };
        let first = bind(localhost(0), &options).unwrap();
        bind(first.local_addr().unwrap(), &options).unwrap();
    }

    #[test]
    fn no_socket_trusts_the_mtu_of_a_path() {
        let v6 = UdpSocket::bind("[::1]:0").ok().map(|_| "[::1]:0".parse().unwrap());
        if v6.is_none() {
            eprintln!("skipped in part: no IPv6");
        }
        for addr in [Some(localhost(0)), v6].into_iter().flatten() {
            let discovery = |socket: &UdpSocket| MTU_DISCOVER.value(socket.as_fd(), addr).unwrap();
            for (fragments, expected) in
                [(false, libc::IP_PMTUDISC_INTERFACE), (true, libc::IP_PMTUDISC_OMIT)]
            {
                let options = SocketOptions { fragments, ..SocketOptions::default() };
                let socket = bind(addr, &options).unwrap();
                prepare(&socket, true).unwrap();
                assert_eq!(discovery(&socket), expected, "{addr}");
            }
            let inherited = UdpSocket::bind(addr).unwrap();
            MTU_DISCOVER.set(inherited.as_fd(), addr, libc::IP_PMTUDISC_DO).unwrap();
            prepare(&inherited, true).unwrap();
            assert_eq!(discovery(&inherited), libc::IP_PMTUDISC_INTERFACE, "{addr}");
        }
    }

    #[test]
    fn granted_buffers_can_be_read_back() {
        let options =
            SocketOptions { receive_buffer: 128 << 10, send_buffer: 64 << 10, ..SocketOptions::default() };
        let socket = bind(localhost(0), &options).unwrap();
        assert_eq!((receive_buffer(&socket), send_buffer(&socket)), (128 << 10, 64 << 10));
    }

    #[test]
    fn a_transparent_socket_may_have_an_address_of_others_and_else_the_error_names_what_is_missing() {
        let foreign = SocketAddr::from(([192, 0, 2, 7], 0)); // for documents only (RFC 5737)
        let transparent = SocketOptions { transparent: true, ..SocketOptions::default() };
        match bind(foreign, &transparent) {
            Ok(_) => {
                let error = bind(foreign, &SocketOptions::default()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
            }
            Err(error) => eprintln!("skipped in part: {error}"),
        }
        let bind_without_capabilities = move || {
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap(); // of this thread only
            bind(foreign, &transparent).unwrap_err()
        };
        let error = std::thread::spawn(bind_without_capabilities).join().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let expected = "cannot bind 192.0.2.7:0: IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn both_wildcards_stand_side_by_side() {
        let v6 = bind("[::]:0".parse().unwrap(), &SocketOptions::default()).unwrap();
        let port = v6.local_addr().unwrap().port();
        // Another process may have the IPv4 port; then the test shows nothing.
        if let Ok(v4) = bind(SocketAddr::from(([0, 0, 0, 0], port)), &SocketOptions::default()) {
            prepare(&v4, true).unwrap();
        }
        prepare(&v6, true).unwrap();
    }
}
