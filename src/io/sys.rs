//! System calls, and nothing else: with `cmsg.rs` the only home of `unsafe` in I/O.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// -1 and errno as a result.
macro_rules! syscall {
    ($call:expr) => {{
        let result = $call;
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}

/// Room for an IPv4 or IPv6 socket address.
pub type SockAddr = libc::sockaddr_in6;

/// Zeroed room for an address.
pub const fn sockaddr_empty() -> SockAddr {
    // SAFETY: sockaddr_in6 is plain integers and arrays of them; all zero is a value of it.
    unsafe { std::mem::zeroed() }
}

/// Writes an address; gives its length.
pub fn sockaddr_write(to: &mut SockAddr, addr: SocketAddr) -> libc::socklen_t {
    match addr {
        SocketAddr::V4(addr) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                sin_zero: [0; 8],
            };
            const _: () = assert!(size_of::<libc::sockaddr_in>() <= size_of::<SockAddr>());
            const _: () = assert!(align_of::<libc::sockaddr_in>() <= align_of::<SockAddr>());
            // SAFETY: the target is larger and at least as aligned (asserted above), and we hold it exclusively.
            unsafe { std::ptr::from_mut(to).cast::<libc::sockaddr_in>().write(v4) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(addr) => {
            *to = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: addr.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: addr.scope_id(),
            };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Reads an address that the kernel wrote; `None` for another family.
pub fn sockaddr_read(from: &SockAddr) -> Option<SocketAddr> {
    match libc::c_int::from(from.sin6_family) {
        libc::AF_INET => {
            // SAFETY: both structs start with the family, which says that the kernel wrote a sockaddr_in; it
            // is smaller and no more aligned than the room (asserted in `sockaddr_write`).
            let v4 = unsafe { std::ptr::from_ref(from).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
            let port = u16::from_be(from.sin6_port);
            Some(SocketAddrV6::new(ip, port, from.sin6_flowinfo, from.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// setsockopt(2) with an integer.
pub fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, which lives until the call returns.
    syscall!(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), len) })?;
    Ok(())
}

/// recvmmsg(2), never blocking: "a value of 0 in timeout" is not used, it is broken there (BUGS).
///
/// # Safety
/// Every header's pointers must be valid for writing, for the lengths beside them, until the call returns.
pub unsafe fn recvmmsg(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = messages.len() as libc::c_uint;
    // SAFETY: the caller vouches for what the headers point to; the headers themselves are ours.
    let n = syscall!(unsafe {
        libc::recvmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut())
    })?;
    Ok(n as usize)
}

/// sendmmsg(2), never blocking. "On error after the first message, the number sent is returned", and the error of the
/// next one comes with the next call.
///
/// # Safety
/// Every header's pointers must be valid for reading, for the lengths beside them, until the call returns.
pub unsafe fn sendmmsg(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = messages.len() as libc::c_uint;
    // SAFETY: as above.
    let n = syscall!(unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) })?;
    Ok(n as usize)
}

/// eventfd(2): a counter that a poll can wait for.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
    unsafe {
        let fd = syscall!(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// timerfd_create(2) on the monotonic clock.
pub fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
    unsafe {
        let fd =
            syscall!(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Lets a timerfd expire once, after `after` (at least a nanosecond: zero would disarm it).
pub fn timerfd_arm(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let after = after.max(Duration::from_nanos(1));
    let spec = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec {
            tv_sec: after.as_secs() as libc::time_t,
            tv_nsec: after.subsec_nanos() as libc::c_long,
        },
    };
    // SAFETY: the kernel reads `spec`, which lives until the call returns; no old value is asked for.
    syscall!(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &spec, std::ptr::null_mut()) })?;
    Ok(())
}

/// Empties an eventfd or timerfd; whether there was anything in it.
pub fn drain(fd: &OwnedFd) -> bool {
    let mut count = 0u64;
    // SAFETY: both kinds of descriptor write exactly eight bytes, into `count`.
    let n = unsafe { libc::read(fd.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    n == 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:54001", "[::1]:9", "[fe80::7%3]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut room = sockaddr_empty();
            sockaddr_write(&mut room, addr);
            assert_eq!(sockaddr_read(&room), Some(addr));
        }
        assert_eq!(sockaddr_read(&sockaddr_empty()), None);
    }

    #[test]
    fn an_eventfd_is_empty_until_written() {
        let fd = eventfd().unwrap();
        let waker = crate::io::Waker::new(fd.try_clone().unwrap());
        assert!(!drain(&fd));
        waker.wake();
        waker.wake();
        assert!(drain(&fd) && !drain(&fd), "twice is once");
    }
}
