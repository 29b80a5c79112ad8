//! Sending with sendmmsg(2): the messages of one socket in one call.

#![allow(unsafe_code)] // system calls

use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::super::sender::{Messages, SendCall};
use super::super::sys;

/// The sockets that send.
pub struct Sendmmsg<'a>(
    /// Sockets by number.
    pub &'a [UdpSocket],
);

impl SendCall for Sendmmsg<'_> {
    const MIXES_SOCKETS: bool = false;

    unsafe fn send(&mut self, messages: Messages<'_>) -> usize {
        let socket = self.0[messages.sockets[0].0 as usize].as_fd();
        // SAFETY: the caller guarantees it.
        match unsafe { sys::sendmmsg(socket, messages.headers) } {
            Ok(sent) => {
                let sent = sent.max(1); // never zero, since vlen is not
                messages.answers[..sent].fill(0);
                sent
            }
            Err(error) => {
                messages.answers[0] = error.raw_os_error().unwrap_or(libc::EIO);
                1
            }
        }
    }
}
