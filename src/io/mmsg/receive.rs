//! One recvmmsg(2) call: its headers and its results.

#![allow(unsafe_code)] // system calls

use std::io;
use std::mem::zeroed;
use std::os::fd::BorrowedFd;

use super::super::arrival::Arrival;
use super::super::cmsg::{self, ControlBuffer};
use super::super::sockaddr::{RAW_ADDR_SIZE, RawAddr};
use super::super::sys;
use crate::base::batch::Rx;

/// Maximum messages per call. More bring no gain, since the kernel processes them one by one.
pub(super) const MESSAGES_MAX: usize = 32;

/// Headers for a call, allocated once.
pub(super) struct ReceiveCall {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[RawAddr]>,
    controls: Box<[ControlBuffer]>,
}

// SAFETY: the pointers are written before each call and used only by that call.
unsafe impl Send for ReceiveCall {}

impl ReceiveCall {
    pub(super) fn new() -> Self {
        // SAFETY: C structures of integers and pointers, for which zero is a valid value.
        let (header, vector) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        ReceiveCall {
            headers: vec![header; MESSAGES_MAX].into(),
            vectors: vec![vector; MESSAGES_MAX].into(),
            names: vec![RawAddr::EMPTY; MESSAGES_MAX].into(),
            controls: vec![ControlBuffer::EMPTY; MESSAGES_MAX].into(),
        }
    }

    /// Receives into at most `count` slots of `rx`, starting at `first_slot`. Returns the number of
    /// filled slots; [`ReceiveCall::arrival`] describes each.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        rx: &mut Rx,
        first_slot: u16,
        count: usize,
    ) -> io::Result<usize> {
        let count = count.min(MESSAGES_MAX);
        for (index, slot) in (0..count).zip(first_slot..) {
            self.prepare(index, rx.slot_mut(slot));
        }
        // SAFETY: `prepare` has just pointed the first `count` headers at a slot, a name, a control buffer
        // and a vector, each with its length; `rx` and `self` outlive the call, and the slots are distinct.
        unsafe { sys::recvmmsg(socket, &mut self.headers[..count]) }
    }

    fn prepare(&mut self, index: usize, slot: &mut [u8]) {
        let vector = &mut self.vectors[index];
        vector.iov_base = slot.as_mut_ptr().cast();
        vector.iov_len = slot.len();
        let control = &mut self.controls[index].0;
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_namelen = RAW_ADDR_SIZE;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() as _;
        header.msg_flags = 0;
    }

    /// The `index`-th message of the last call. `None` if it has no address that can be answered.
    pub(super) fn arrival(&self, index: usize) -> Option<Arrival> {
        let libc::mmsghdr { msg_hdr: header, msg_len: len } = &self.headers[index];
        let control = &self.controls[index].0;
        let ancillary = cmsg::decode(&control[..control.len().min(header.msg_controllen)]);
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Some(Arrival::Cut(ancillary));
        }
        if *len == 0 {
            return Some(Arrival::Empty(ancillary));
        }
        let peer = self.names[index].decode(header.msg_namelen)?;
        Some(Arrival::Data { peer, len: *len, ancillary })
    }
}
