//! Sends a turn: one message per destination if segmentation offload works, and as many messages per
//! call as possible. The back end makes the call ([`SendCall`]).
//!
//! Short frames that are not adjacent are first copied together. For messages of 32 to 128 frames of 256
//! bytes, that took 20 ns per frame less than one vector per frame. Frames that are already adjacent,
//! such as those of one merged datagram, are sent without a copy.
//!
//! A datagram that the kernel rejects for its length is sent again at once with fewer frames, and later
//! datagrams to that destination have no more ([`NarrowPaths`]).

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
use super::paths::{NarrowPaths, TooLarge, fewer_frames};
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
    /// Destinations that take shorter datagrams than others.
    paths: NarrowPaths,
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
            paths: NarrowPaths::default(),
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

    /// The next datagram that was too large for its destination, once per destination.
    pub fn poll_too_large(&mut self) -> Option<TooLarge> {
        self.paths.poll_report()
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
        let mut datagram_max = self.paths.datagram_max(destination.to.ip());
        loop {
            if self.messages.len() == MESSAGES_MAX || self.ranges.len() + RANGES_MAX > RANGES_TOTAL {
                self.send(call, rx, tx, counters);
                datagram_max = self.paths.datagram_max(destination.to.ip());
            }
            let first_range = self.ranges.len();
            let limits = PackingLimits {
                frames_per_datagram: tx.frames_per_datagram(),
                datagram_max,
                segments: self.segments,
            };
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
        let can_be_cut = datagrams > 1 || packed.segment_size > packed.frame_len;
        // More likely than another message's error.
        let is_too_long = errno == libc::EMSGSIZE && can_be_cut;
        if retries > 0 && may_be_of_another(errno) && !is_too_long {
            // SAFETY: a header of `send`, which still points where it did.
            errno = unsafe { send_one(call, &mut self.headers[index], socket, retries - 1) };
        }
        if errno == 0 {
            counters.sent += datagrams as u64;
        } else if errno == libc::EMSGSIZE && !can_be_cut {
            self.too_large(index, packed.bytes, counters);
        } else if !(errno == libc::EMSGSIZE || datagrams > 1 && may_be_segmentation(errno)) {
            count_refused(errno, datagrams, counters);
        } else if self.send_apart(call, index, counters) == SentApart::Whole
            && !may_be_length(errno, packed.segment_size)
        {
            // The cause may be more segments than an older kernel accepts.
            let fewer = if datagrams > SEGMENTS_MAX_OLD { SEGMENTS_MAX_OLD } else { 1 };
            self.segments = self.segments.min(fewer);
            counters.gso_off = (self.segments == 1).into();
        }
    }

    /// Counts and reports a datagram of one frame that exceeds the MTU of the interface.
    fn too_large(&mut self, index: usize, len: usize, counters: &mut IoCounters) {
        counters.send_too_large += 1;
        self.paths.report(TooLarge { to: self.messages[index].to.ip(), len });
    }

    /// Sends the datagrams of a message one by one. A datagram that is too long is cut into shorter ones, at
    /// its frames, and so are all after it.
    fn send_apart<C: SendCall>(
        &mut self,
        call: &mut C,
        index: usize,
        counters: &mut IoCounters,
    ) -> SentApart {
        let message = &self.messages[index];
        let Packed { frame_len, segment_size, .. } = message.packed;
        let to = message.to.ip();
        let socket = self.sockets[index];
        let retries = self.retries[socket.0 as usize];
        let control_len = cmsg::encode(&mut self.controls[index], None, message.source_ip);
        let header = &mut self.headers[index];
        header.msg_hdr.msg_controllen = control_len as _;

        let (mut outcome, mut datagram_max) = (SentApart::Nothing, segment_size);
        // A shorter frame may follow the last datagram, so each datagram is cut by itself.
        let mut left = segment_size;
        let mut rest = self.vectors[message.vectors()].iter().copied().peekable();
        while rest.peek().is_some() {
            let before = rest.clone();
            let len = take_bytes(&mut rest, datagram_max.min(left), &mut self.single);
            header.msg_hdr.msg_iov = self.single.as_mut_ptr();
            header.msg_hdr.msg_iovlen = self.single.len() as _;
            // SAFETY: the header is that of `send`, with other vectors, which point into the same memory.
            match unsafe { send_one(call, header, socket, retries) } {
                0 => {
                    counters.sent += 1;
                    outcome = outcome.max(SentApart::Whole);
                }
                libc::EMSGSIZE if len > frame_len => {
                    datagram_max = fewer_frames(len.div_ceil(frame_len)) * frame_len;
                    outcome = SentApart::Cut;
                    rest = before;
                    continue;
                }
                libc::EMSGSIZE => {
                    counters.send_too_large += 1;
                    self.paths.report(TooLarge { to, len });
                    outcome = SentApart::Cut;
                }
                errno => count_refused(errno, 1, counters),
            }
            left = if len < left { left - len } else { segment_size };
        }
        if datagram_max < segment_size {
            self.paths.narrow(to, datagram_max);
        }
        outcome
    }
}

/// What became of a message whose datagrams were sent one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SentApart {
    /// The kernel accepted no datagram.
    Nothing,
    /// The kernel accepted a datagram: it had rejected the segmentation, not, for example, the address.
    Whole,
    /// A datagram was too long. That explains the rejection.
    Cut,
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

/// Moves the next `count` bytes to `into`, or fewer if there are no more. Returns their number.
fn take_bytes(
    rest: &mut std::iter::Peekable<impl Iterator<Item = libc::iovec>>,
    count: usize,
    into: &mut Vec<libc::iovec>,
) -> usize {
    into.clear();
    let mut left = count;
    while left > 0
        && let Some(vector) = rest.peek_mut()
    {
        let len = vector.iov_len.min(left);
        into.push(libc::iovec { iov_base: vector.iov_base, iov_len: len });
        left -= len;
        if len == vector.iov_len {
            rest.next();
        } else {
            vector.iov_base = vector.iov_base.wrapping_byte_add(len);
            vector.iov_len -= len;
        }
    }
    count - left
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
    match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => counters.send_full += datagrams as u64,
        _ => (counters.send_failed, counters.send_errno) = (counters.send_failed + datagrams as u64, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel whose interfaces take datagrams of at most this size, with or without segmentation.
    struct ShortInterface {
        datagram_max: usize,
        /// The kernel's answer to segments that are too long: EMSGSIZE, or EINVAL in older kernels.
        segments_refused: c_int,
        /// The datagrams that were sent.
        sent: Vec<Vec<u8>>,
        calls: usize,
    }

    impl SendCall for ShortInterface {
        const MIXES_SOCKETS: bool = true;

        unsafe fn send(&mut self, messages: Messages<'_>) -> usize {
            self.calls += 1;
            let header = &messages.headers[0].msg_hdr;
            // SAFETY: the sender guarantees the pointers in the header.
            let vectors = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
            let bytes = |v: &libc::iovec| {
                // SAFETY: as above.
                unsafe { std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len) }.to_vec()
            };
            let bytes: Vec<u8> = vectors.iter().flat_map(bytes).collect();
            // A control header of 16 bytes, then the size of a segment.
            let segment_size = (header.msg_controllen > 0).then(|| {
                // SAFETY: as above; the sender writes no other control data here.
                unsafe { *header.msg_control.cast::<u16>().add(8) }.into()
            });
            let is_too_long = segment_size.unwrap_or(bytes.len()) > self.datagram_max;
            messages.answers[0] = match segment_size {
                _ if !is_too_long => {
                    let datagrams = bytes.chunks(segment_size.unwrap_or(bytes.len()));
                    self.sent.extend(datagrams.map(<[u8]>::to_vec));
                    0
                }
                Some(_) => self.segments_refused,
                None => libc::EMSGSIZE,
            };
            1
        }
    }

    fn facts() -> SocketFacts {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        SocketFacts::prepare(&socket, &super::super::IoOptions::default()).unwrap()
    }

    /// Sends frames of these lengths in one turn, each filled with its number.
    fn flush(sender: &mut Sender, call: &mut ShortInterface, lens: &[usize], counters: &mut IoCounters) {
        let (rx, mut tx) = (Rx::new(1, 64), Tx::new(256, 256 << 10, 5));
        let to = tx.destination(SocketId(0), "192.0.2.1:9".parse().unwrap(), None).unwrap();
        for (number, &len) in lens.iter().enumerate() {
            tx.stage(to, len).unwrap().fill(number as u8);
        }
        sender.flush(call, &rx, &tx, counters);
    }

    /// The numbers of the frames in each datagram.
    fn numbers(datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let of = |datagram: &Vec<u8>| {
            let mut numbers = datagram.clone();
            numbers.dedup();
            numbers
        };
        datagrams.iter().map(of).collect()
    }

    #[test]
    fn a_datagram_that_is_too_long_leaves_at_once_with_fewer_frames_and_so_do_later_ones() {
        for (gso, segments_refused) in [(true, libc::EMSGSIZE), (true, libc::EINVAL), (false, 0)] {
            let mut sender = Sender::new(&[facts()], 8, gso);
            let mut call = ShortInterface { datagram_max: 800, segments_refused, sent: vec![], calls: 0 };
            let mut counters = IoCounters::default();
            flush(&mut sender, &mut call, &[256; 12], &mut counters);
            let order: Vec<u8> = numbers(&call.sent).concat();
            assert_eq!(order, Vec::from_iter(0..12), "nothing is lost, and the order is kept");
            assert!(call.sent.iter().all(|datagram| datagram.len() <= 768), "{segments_refused}");
            assert_eq!(counters.sent, call.sent.len() as u64);
            (call.sent, call.calls) = (vec![], 0);
            flush(&mut sender, &mut call, &[256; 12], &mut counters);
            let expected: Vec<Vec<u8>> = (0..4).map(|d| (3 * d..3 * d + 3).collect()).collect();
            assert_eq!(numbers(&call.sent), expected, "three frames fit");
            assert_eq!(call.calls, if gso { 1 } else { 4 }, "no call is refused again");
            let IoCounters { send_failed, send_full, send_too_large, gso_off, .. } = counters;
            assert_eq!((send_failed, send_full, send_too_large, gso_off), (0, 0, 0, 0));
            assert_eq!(sender.poll_too_large(), None);
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_by_itself_is_counted_and_reported_once() {
        let mut sender = Sender::new(&[facts()], 8, true);
        let segments_refused = libc::EMSGSIZE;
        let mut call = ShortInterface { datagram_max: 800, segments_refused, sent: vec![], calls: 0 };
        let mut counters = IoCounters::default();
        for turn in 1..=3 {
            flush(&mut sender, &mut call, &[1_000, 1_000, 1_000, 500, 500], &mut counters);
            assert_eq!(counters.send_too_large, 3 * turn);
            assert_eq!((counters.send_failed, counters.gso_off), (0, 0));
        }
        assert_eq!(call.sent.len(), 6, "the short frames leave");
        let report = TooLarge { to: [192, 0, 2, 1].into(), len: 1_000 };
        assert_eq!((sender.poll_too_large(), sender.poll_too_large()), (Some(report), None));
    }

    #[test]
    fn a_shorter_frame_behind_datagrams_that_are_cut_keeps_its_own_datagram() {
        let mut sender = Sender::new(&[facts()], 8, true);
        let segments_refused = libc::EMSGSIZE;
        let mut call = ShortInterface { datagram_max: 600, segments_refused, sent: vec![], calls: 0 };
        let mut counters = IoCounters::default();
        flush(&mut sender, &mut call, &[256, 256, 256, 256, 256, 100], &mut counters);
        let lens: Vec<usize> = call.sent.iter().map(Vec::len).collect();
        assert_eq!(lens, [512, 512, 256, 100]);
    }

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
        for code in [libc::EAGAIN, libc::ENOBUFS, libc::EPERM, libc::ECONNREFUSED, libc::EHOSTUNREACH] {
            count_refused(code, 10, &mut counters);
        }
        assert_eq!((counters.send_full, counters.send_failed), (20, 30));
        assert_eq!(counters.send_errno, libc::EHOSTUNREACH);
    }
}
