//! Sends a turn: one message per destination if segmentation offload works, and as many messages per
//! call as possible. The back end makes the call ([`SendCall`]).
//!
//! Short frames that are not adjacent are first copied together. For messages of 32 to 128 frames of 256
//! bytes, that took 20 ns per frame less than one vector per frame. Frames that are already adjacent,
//! such as those of one merged datagram, are sent without a copy.

#![allow(unsafe_code)] // system calls

use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};

use libc::c_int;

use super::IoCounters;
use super::arrival::SocketFacts;
use super::chains::Chains;
use super::cmsg::{self, ControlBuffer};
use super::packing::{
    Packed, PackingLimits, RANGES_MAX, Range, SEGMENTS_MAX, SEGMENTS_MAX_OLD, next_message,
};
use super::sockaddr::RawAddr;
use crate::base::batch::{Rx, SocketId, Tx};

/// Maximum messages per call.
pub const MESSAGES_MAX: usize = 64;

/// Maximum ranges of all messages of one call.
const RANGES_TOTAL: usize = 4 * RANGES_MAX;

/// Maximum mean length of ranges that are copied, in bytes.
const COPIED_MAX: usize = 1024;

/// Maximum bytes copied for one call; the rest is sent with vectors.
const COPIES_TOTAL: usize = 256 << 10;

/// Maximum retries of a message whose refusal may belong to another one. Each retry needs an ICMP
/// message between two calls.
const RETRIES: u8 = 4;

/// Maximum datagram size in bytes that every Ethernet path takes unfragmented: 1,500 minus the IPv6 and
/// UDP headers.
const ETHERNET_PAYLOAD: usize = 1_452;

/// Messages that are ready for the call: three slices of equal length, at most [`MESSAGES_MAX`].
pub struct Messages<'a> {
    /// The messages. The lengths that sendmmsg(2) writes are not read.
    pub headers: &'a mut [libc::mmsghdr],
    /// The sending sockets.
    pub sockets: &'a [SocketId],
    /// Receives the kernel's answers: zero, or the error number.
    pub answers: &'a mut [c_int],
}

/// Passes messages to the kernel.
pub trait SendCall {
    /// Whether a call carries messages of several sockets.
    const MIXES_SOCKETS: bool;

    /// Tries messages once each, in order, and returns the number of tried messages, at least one. No
    /// message is still in progress afterwards.
    ///
    /// # Safety
    ///
    /// Every pointer in the headers must be null or valid for the length beside it, for reading.
    unsafe fn send(&mut self, messages: Messages<'_>) -> usize;
}

/// A message that waits for the call.
struct Outgoing {
    to: SocketAddr,
    source_ip: Option<IpAddr>,
    first_range: usize,
    packed: Packed,
    /// Number of vectors, starting at the index of its first range.
    vectors: usize,
}

impl Outgoing {
    fn ranges(&self) -> std::ops::Range<usize> {
        self.first_range..self.first_range + self.packed.ranges
    }

    fn vectors(&self) -> std::ops::Range<usize> {
        self.first_range..self.first_range + self.vectors
    }

    fn segment_size(&self) -> Option<u16> {
        // At most 65,507 if there is more than one.
        (self.packed.datagrams() > 1).then_some(self.packed.segment_size as u16)
    }
}

/// Messages and the headers for a call, allocated once.
pub struct Sender {
    chains: Chains,
    messages: Vec<Outgoing>,
    /// The sending socket of each message.
    sockets: Vec<SocketId>,
    answers: Box<[c_int]>,
    ranges: Vec<Range>,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[RawAddr]>,
    controls: Box<[ControlBuffer]>,
    /// Frames copied for the call.
    copies: Vec<u8>,
    /// Vectors of one datagram of a message whose segmentation was rejected.
    single: Vec<libc::iovec>,
    segments: usize,
    /// Retries per socket of a message whose refusal may belong to another one.
    retries: Box<[u8]>,
}

// SAFETY: the pointers are written before each call and used only by that call.
unsafe impl Send for Sender {}

impl Sender {
    /// A sender for these sockets, and at most this many destinations per turn.
    pub fn new(sockets: &[SocketFacts], destinations_max: usize, gso: bool) -> Self {
        // SAFETY: C structures of integers and pointers, for which zero is a valid value.
        let (header, vector) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        Sender {
            chains: Chains::new(sockets.len(), destinations_max),
            messages: Vec::with_capacity(MESSAGES_MAX),
            sockets: Vec::with_capacity(MESSAGES_MAX),
            answers: vec![0; MESSAGES_MAX].into(),
            ranges: Vec::with_capacity(RANGES_TOTAL),
            headers: vec![header; MESSAGES_MAX].into(),
            vectors: vec![vector; RANGES_TOTAL].into(),
            names: vec![RawAddr::EMPTY; MESSAGES_MAX].into(),
            controls: vec![ControlBuffer::EMPTY; MESSAGES_MAX].into(),
            copies: Vec::with_capacity(COPIES_TOTAL),
            single: Vec::with_capacity(RANGES_MAX),
            segments: if gso { SEGMENTS_MAX } else { 1 },
            retries: sockets.iter().map(|facts| if facts.reports_errors { RETRIES } else { 0 }).collect(),
        }
    }

    /// Sends all frames of the turn. Frames that cannot be sent are counted.
    pub fn flush<C: SendCall>(&mut self, call: &mut C, rx: &Rx, tx: &Tx, counters: &mut IoCounters) {
        self.chains.link(tx);
        while let Some(socket) = self.chains.next_socket() {
            while let Some(destination) = self.chains.next_destination(socket) {
                self.pack(call, destination, rx, tx, counters);
            }
            if !C::MIXES_SOCKETS {
                self.send(call, rx, tx, counters);
            }
        }
        self.send(call, rx, tx, counters);
    }

    /// Makes messages of the frames of one destination; sends when the call is full.
    fn pack<C: SendCall>(
        &mut self,
        call: &mut C,
        destination: usize,
        rx: &Rx,
        tx: &Tx,
        counters: &mut IoCounters,
    ) {
        let destination = &tx.destinations()[destination];
        let mut frames = tx.frames(destination).filter(|frame| frame.len > 0).peekable();
        loop {
            if self.messages.len() == MESSAGES_MAX || self.ranges.len() + RANGES_MAX > RANGES_TOTAL {
                self.send(call, rx, tx, counters);
            }
            let first_range = self.ranges.len();
            let limits =
                PackingLimits { frames_per_datagram: tx.frames_per_datagram(), segments: self.segments };
            let Some(packed) = next_message(&mut frames, limits, &mut self.ranges) else { break };
            let (to, source_ip) = (destination.to, destination.source_ip);
            self.messages.push(Outgoing { to, source_ip, first_range, packed, vectors: 0 });
            self.sockets.push(destination.socket);
        }
    }

    /// Sends the waiting messages.
    fn send<C: SendCall>(&mut self, call: &mut C, rx: &Rx, tx: &Tx, counters: &mut IoCounters) {
        for index in 0..self.messages.len() {
            self.prepare(index, rx, tx);
        }
        let mut at = 0;
        while at < self.messages.len() {
            let waiting = at..self.messages.len();
            let messages = Messages {
                headers: &mut self.headers[waiting.clone()],
                sockets: &self.sockets[waiting.clone()],
                answers: &mut self.answers[waiting],
            };
            // SAFETY: `prepare` has just pointed these headers at a name, vectors and, where the
            // length is not zero, control data, all of them in memory of `self`, `rx` and `tx` that
            // does not move before the call; it only reads what the headers point to.
            let tried = unsafe { call.send(messages) };
            for index in at..at + tried {
                match self.answers[index] {
                    0 => counters.sent += self.messages[index].packed.datagrams() as u64,
                    errno => self.refused(call, index, errno, counters),
                }
            }
            at += tried;
        }
        self.messages.clear();
        self.sockets.clear();
        self.ranges.clear();
        self.copies.clear();
    }

    fn prepare(&mut self, index: usize, rx: &Rx, tx: &Tx) {
        let message = &mut self.messages[index];
        let ranges = &self.ranges[message.ranges()];
        let vectors = &mut self.vectors[message.ranges()];
        message.vectors = point(vectors, ranges, message.packed.bytes, &mut self.copies, rx, tx);
        let control = &mut self.controls[index];
        let control_len = cmsg::encode(control, message.segment_size(), message.source_ip);
        let header = &mut self.headers[index].msg_hdr;
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = message.vectors as _;
        header.msg_namelen = self.names[index].encode(message.to);
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control_len as _;
    }

    /// Handles a message that the kernel rejected.
    fn refused<C: SendCall>(
        &mut self,
        call: &mut C,
        index: usize,
        mut errno: c_int,
        counters: &mut IoCounters,
    ) {
        let packed = self.messages[index].packed;
        let datagrams = packed.datagrams();
        let socket = self.sockets[index];
        let retries = self.retries[socket.0 as usize];
        // More likely than another message's error.
        let is_too_long = errno == libc::EMSGSIZE && datagrams > 1;
        if retries > 0 && may_be_of_another(errno) && !is_too_long {
            // SAFETY: a header of `send`, which still points where it did.
            errno = unsafe { send_one(call, &mut self.headers[index], socket, retries - 1) };
        }
        if errno == 0 {
            counters.sent += datagrams as u64;
        } else if datagrams == 1 || !(may_be_segmentation(errno) || errno == libc::EMSGSIZE) {
            count_refused(errno, datagrams, counters);
        } else if self.send_singly(call, index, counters) && !may_be_length(errno, packed.segment_size) {
            // The cause may be more segments than an older kernel accepts.
            let fewer = if datagrams > SEGMENTS_MAX_OLD { SEGMENTS_MAX_OLD } else { 1 };
            self.segments = self.segments.min(fewer);
            counters.gso_off = (self.segments == 1).into();
        }
    }

    /// Sends the datagrams of a message one by one. True if the kernel accepted one of them: then it had
    /// rejected the segmentation, not, for example, the address.
    fn send_singly<C: SendCall>(&mut self, call: &mut C, index: usize, counters: &mut IoCounters) -> bool {
        let message = &self.messages[index];
        let socket = self.sockets[index];
        let retries = self.retries[socket.0 as usize];
        let control_len = cmsg::encode(&mut self.controls[index], None, message.source_ip);
        let header = &mut self.headers[index];
        header.msg_hdr.msg_controllen = control_len as _;

        let mut taken = false;
        let mut rest = self.vectors[message.vectors()].iter().copied().peekable();
        while rest.peek().is_some() {
            take_bytes(&mut rest, message.packed.segment_size, &mut self.single);
            header.msg_hdr.msg_iov = self.single.as_mut_ptr();
            header.msg_hdr.msg_iovlen = self.single.len() as _;
            // SAFETY: the header is that of `send`, with other vectors, which point into the same memory.
            match unsafe { send_one(call, header, socket, retries) } {
                0 => {
                    counters.sent += 1;
                    taken = true;
                }
                errno => count_refused(errno, 1, counters),
            }
        }
        taken
    }
}

/// Sends one message, and repeats it up to `retries` times if the refusal may belong to another one.
/// Returns zero, or the last error number.
///
/// # Safety
///
/// As [`SendCall::send`].
unsafe fn send_one<C: SendCall>(
    call: &mut C,
    header: &mut libc::mmsghdr,
    socket: SocketId,
    retries: u8,
) -> c_int {
    let mut answer = 0;
    for _ in 0..=retries {
        let messages = Messages {
            headers: std::slice::from_mut(header),
            sockets: &[socket],
            answers: std::slice::from_mut(&mut answer),
        };
        // SAFETY: the caller guarantees it.
        unsafe { call.send(messages) };
        if !may_be_of_another(answer) {
            break;
        }
    }
    answer
}

/// Points vectors at the bytes of a message and returns their number: one per range, or one for a copy
/// of all.
fn point(
    vectors: &mut [libc::iovec],
    ranges: &[Range],
    bytes: usize,
    copies: &mut Vec<u8>,
    rx: &Rx,
    tx: &Tx,
) -> usize {
    let range_bytes = |r: &Range| tx.range(rx, r.slot, r.offset, r.len);
    let is_scattered = ranges.len() > 1 && bytes <= ranges.len() * COPIED_MAX;
    if is_scattered && copies.len() + bytes <= copies.capacity() {
        let start = copies.len();
        ranges.iter().for_each(|range| copies.extend_from_slice(range_bytes(range)));
        vectors[0] = vector(&copies[start..]);
        return 1;
    }
    for (place, range) in vectors.iter_mut().zip(ranges) {
        *place = vector(range_bytes(range));
    }
    ranges.len()
}

/// A vector for bytes that are only read.
fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Moves the next `count` bytes to `into`, or fewer if there are no more.
fn take_bytes(
    rest: &mut std::iter::Peekable<impl Iterator<Item = libc::iovec>>,
    mut count: usize,
    into: &mut Vec<libc::iovec>,
) {
    into.clear();
    while count > 0
        && let Some(vector) = rest.peek_mut()
    {
        let len = vector.iov_len.min(count);
        into.push(libc::iovec { iov_base: vector.iov_base, iov_len: len });
        count -= len;
        if len == vector.iov_len {
            rest.next();
        } else {
            vector.iov_base = vector.iov_base.wrapping_byte_add(len);
            vector.iov_len -= len;
        }
    }
}

/// Whether an error may be the kernel's answer to UDP_SEGMENT. EIO: the device has no checksum offload.
/// EINVAL: a segment does not fit the path, or the route does not support the option. Others: the kernel
/// does not know the option.
fn may_be_segmentation(errno: c_int) -> bool {
    matches!(errno, libc::EIO | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
}

/// Whether the refusal of a segmented message may be due to the length of its datagrams, and so says nothing
/// about shorter ones. EMSGSIZE is, and older kernels answer EINVAL (udp_send_skb in net/ipv4/udp.c).
fn may_be_length(errno: c_int, segment_size: usize) -> bool {
    errno == libc::EMSGSIZE || errno == libc::EINVAL && segment_size > ETHERNET_PAYLOAD
}

/// Whether an error may come from an ICMP message (`icmp_err_convert` in net/ipv4/icmp.c, `tab_unreach`
/// in net/ipv6/icmp.c). On a socket that reports errors, such an error stays pending until the next call
/// that sends or receives. That call fails, regardless of its own message, and clears the error
/// (`sock_error` in include/net/sock.h).
fn may_be_of_another(errno: c_int) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EACCES
    )
}

fn count_refused(errno: c_int, datagrams: usize, counters: &mut IoCounters) {
    let counter = match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => &mut counters.send_full,
        _ => &mut counters.send_failed,
    };
    *counter += datagrams as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_message_is_cut_at_its_segments() {
        let memory = [0u8; 700];
        let mut rest = [&memory[..512], &memory[600..650], &memory[650..]].map(vector).into_iter().peekable();
        let mut datagrams = Vec::new();
        let mut single = Vec::new();
        while rest.peek().is_some() {
            take_bytes(&mut rest, 256, &mut single);
            let offset = |v: &libc::iovec| v.iov_base as usize - memory.as_ptr() as usize;
            datagrams.push(single.iter().map(|v| (offset(v), v.iov_len)).collect::<Vec<_>>());
        }
        assert_eq!(datagrams, [vec![(0, 256)], vec![(256, 256)], vec![(600, 50), (650, 50)]]);
    }

    #[test]
    fn a_refusal_for_length_says_nothing_of_segmentation() {
        for (errno, segment_size, expected) in [
            (libc::EINVAL, 1_452, false),
            (libc::EINVAL, 1_453, true),
            (libc::EMSGSIZE, 1_400, true),
            (libc::EIO, 4_096, false),
        ] {
            assert_eq!(may_be_length(errno, segment_size), expected, "{errno} {segment_size}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let mut counters = IoCounters::default();
        for code in [libc::EAGAIN, libc::ENOBUFS, libc::EPERM, libc::ECONNREFUSED, libc::EMSGSIZE] {
            count_refused(code, 10, &mut counters);
        }
        assert_eq!((counters.send_full, counters.send_failed), (20, 30));
    }
}
