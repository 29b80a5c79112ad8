//! Thin wrappers of system calls that the standard library, `socket2`, `rustix` and `mio` lack.
//!
//! Each converts -1 and errno into [`io::Result`] and does nothing else; the caller interprets the error.

#![allow(unsafe_code)] // system calls

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_uint};

use super::cmsg::ControlBuffer;
use super::sockaddr::{RAW_ADDR_SIZE, RawAddr};

/// Result of a call that reports failure as -1 and errno.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// recvmmsg(2) without waiting. Returns the number of received messages, at least 1; an empty socket is
/// the error `WouldBlock`.
///
/// # Safety
///
/// Every pointer in `messages` must be null or valid for the length beside it, for writing.
pub unsafe fn recvmmsg(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = messages.len() as c_uint;
    // SAFETY: "the msgvec argument is a pointer to an array of mmsghdr structures. The size of this array is
    // specified in vlen"; the caller guarantees the pointers in the headers. The timeout may be null.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            std::ptr::null_mut(),
        )
    };
    check(received).map(|n| n as usize)
}

/// sendmmsg(2) without waiting. Returns how many messages were sent, at least 1: "if an error occurs
/// after at least one message has been sent, the call succeeds"; an error belongs to the first.
///
/// # Safety
///
/// Every pointer in `messages` must be null or valid for the length beside it, for reading.
pub unsafe fn sendmmsg(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = messages.len() as c_uint;
    // SAFETY: msgvec and vlen describe one array, in which the call sets msg_len; the caller guarantees
    // the pointers in the headers.
    let sent =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
    check(sent).map(|n| n as usize)
}

/// setsockopt(2) for an option whose value is an int.
pub fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: optval points to a live int, and optlen is its size.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    check(result).map(drop)
}

/// getsockopt(2) for an option whose value is an int.
pub fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: optval points to a live int, optlen holds its size, and the kernel writes no more than that.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    check(result).map(|_| value)
}

/// recvmsg(2) of the oldest error in the socket's error queue (MSG_ERRQUEUE), without the bytes of its
/// datagram. `name` receives "the original destination address of the datagram that caused the error".
/// Returns the length of the name, and the length of the control data. An empty queue is the error
/// `WouldBlock`.
pub fn receive_error(
    fd: BorrowedFd<'_>,
    name: &mut RawAddr,
    control: &mut ControlBuffer,
) -> io::Result<(libc::socklen_t, usize)> {
    // SAFETY: a C structure of integers and pointers, for which zero is a valid value.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut *name).cast();
    header.msg_namelen = RAW_ADDR_SIZE;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: the name and the control data are valid for the lengths in the header; there are no vectors.
    let result =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    check(result.min(0) as c_int)?;
    Ok((header.msg_namelen, control.0.len().min(header.msg_controllen as usize)))
}

/// Datagrams that this socket has dropped since its creation, modulo 2^32: the count that SO_RXQ_OVFL
/// reports, readable without an arrival (SO_MEMINFO, Linux 4.12).
pub fn dropped_by(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const SK_MEMINFO_DROPS: usize = 8; // linux/sock_diag.h
    let mut values = [0u32; 16];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: optval is valid for optlen bytes, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(values[SK_MEMINFO_DROPS])
}
